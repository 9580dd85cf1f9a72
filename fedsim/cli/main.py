"""The command line: `fedsim run | list | compare | demo`. A setting that cannot be used is one line and exit code 2."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from fedsim.config.trust import import_from_here, path_kept, take_trusted
from fedsim.errors import ConfigError, cut, one_line, require
from fedsim.simulation.interruption import Interrupted

USAGE = """\
usage: fedsim COMMAND ...

  fedsim run [group=option] [group.setting=value] ...     one run
  fedsim run -m algorithm=fedavg,fedau seed=0,1,2 ...     one run for each combination; started again, it does what is missing
  fedsim run resume=FOLDER [engine=... progress=...]      go on from a run's last checkpoint
  fedsim run resume=FOLDER --trust MODULE                 the same of a folder that somebody sent, with classes of that module
  fedsim list [GROUP]                                     what there is to choose from
  fedsim compare FOLDER ...                               finished runs: table and curves
  fedsim tune [key=value] ... --client-rates -2:0         step sizes for each algorithm, chosen on the validation split
  fedsim check RUN --against GOLDEN                       is a run's curve what it was? --write GOLDEN keeps one
  fedsim demo                                             five algorithms on digits, in two minutes

  fedsim run --help, fedsim compare --help and so on say more; fedsim --version; your own options: --config-dir FOLDER
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; its exit code: 0, 1 for an error inside a run, 2 for what the user can mend, 130 or 143 when interrupted."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        with path_kept():
            return command(given)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    except SystemExit as error:  # argparse and Hydra
        return error.code if isinstance(error.code, int) else 1 if error.code else 0
    except KeyboardInterrupt as error:  # of a run: Interrupted, which knows more
        print(error if isinstance(error, Interrupted) else "interrupted", file=sys.stderr)
        return error.code if isinstance(error, Interrupted) else 130
    except BrokenPipeError:  # fedsim list | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception:
        traceback.print_exc()
        return 1


def command(given: list[str]) -> int:
    """Run the command that `given` names."""
    commands: dict[str, Callable[[list[str]], int]] = {
        "run": run,
        "list": list_options,
        "compare": compare,
        "tune": tune,
        "check": check,
        "demo": demo,
    }
    if not given or given[0] in ("-h", "--help", "help"):
        print(USAGE, end="")
        return 0
    if given[0] == "--version":
        from fedsim import __version__

        print(f"fedsim {__version__}")
        return 0
    if given[0] not in commands:
        from fedsim.config.building import suggest

        raise ConfigError("command", given[0], f"unknown command; {suggest(given[0], commands)}")
    return commands[given[0]](given[1:])


def run(given: list[str]) -> int:
    """`fedsim run`: Hydra's command line, or a run that is gone on with."""
    from fedsim.config.resuming import resume, take_folder

    config_dir, given = take_config_dir(given)
    trusted, given = take_trusted(given)
    folder, given = take_folder(given)
    if folder is not None:
        resume(folder, given, config_dir, trusted)
        return 0
    require(not trusted, "--trust", " ".join(trusted), "is for resume=FOLDER; the classes that you name yourself are trusted")
    import_from_here()
    from fedsim.config.launching import launch
    from fedsim.recording.files import shown

    sweep = launch(given, config_dir)
    if sweep is None:
        return 0
    where, failed = sweep
    if failed:
        lines = [f"  {folder}: {reason.removeprefix('ConfigError: ')}" for folder, reason in failed]
        print(f"{len(failed)} failed:", *lines, sep="\n", file=sys.stderr, flush=True)
    print(f"all runs: {shown(where)} (fedsim compare {shown(where)})", flush=True)
    return 0 if not failed else 2 if all(reason.startswith("ConfigError") for _, reason in failed) else 1


def take_config_dir(given: list[str]) -> tuple[str | None, list[str]]:
    """The folder of --config-dir, and the other arguments. It is taken from Hydra, which would put it behind fedsim's own options."""
    rest, found = [], None
    arguments = iter(given)
    for argument in arguments:
        flag, equals, value = argument.partition("=")
        if flag not in ("--config-dir", "-cd"):
            rest.append(argument)
            continue
        found = value if equals else next(arguments, "")
        require(bool(found), flag, found, "needs a folder")
    return found, rest


def list_options(given: list[str]) -> int:
    """`fedsim list`: every group and option, or the options of one group with their settings."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from fedsim.config.building import suggest
    from fedsim.config.options import find_options, settings_line

    config_dir, given = take_config_dir(given)
    parser = _Parser(prog="fedsim list", description="What there is to choose from: fedsim run GROUP=OPTION.")
    parser.add_argument("group", nargs="?", help="the options of this group, with their settings")
    parser.add_argument("--config-dir", metavar="FOLDER", help="also your own options")  # taken above
    group = parser.parse_args(given).group
    import_from_here()
    options = find_options(config_dir)
    require(group is None or group in options, "group", group, f"unknown group; {suggest(str(group), options)}")
    table = Table("group", "option", "", box=None, pad_edge=False, header_style="bold")
    for name in options if group is None else [group]:
        for number, option in enumerate(options[name]):
            text = escape(option.text) + (f" [dim]({escape(str(option.path))})[/dim]" if option.own else "")
            if group is not None and (settings := settings_line(option)):
                text += f"\n[dim]{escape(settings)}[/dim]"
            table.add_row(name if number == 0 else "", option.name, text)
    console = Console()
    console = console if console.is_terminal else Console(width=200)
    console.print(table)
    return 0


def compare(given: list[str]) -> int:
    """`fedsim compare`: tables and curves of finished runs."""
    parser = _Parser(prog="fedsim compare", description="Compare finished runs: failed ones first, then tables, and curves in a picture.")
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="searched for runs in depth")
    parser.add_argument("--metric", default="accuracy", help="of the server's model or the nodes; SCOPE/METRIC for another (%(default)s)")
    parser.add_argument("--by", default="auto", help="settings that tell methods apart, with commas (%(default)s)")
    parser.add_argument("--panel", default="participation", help="setting with a panel for each value, none: one panel (%(default)s)")
    parser.add_argument("--target", type=float, help="also rounds to this value of the metric")
    parser.add_argument("--baseline", help="the method others are compared with (default: every pair)")
    parser.add_argument("--last", type=float, default=1, help="final value: mean over that many last evaluations, or share below 1")
    parser.add_argument("--band", choices=("std", "minmax"), default="std", help="around the mean curve (%(default)s)")
    parser.add_argument("--out", type=Path, help="where comparison.png, .md and .csv go (default: the first folder)")
    options = parser.parse_args(given)
    from fedsim import analysis

    for row in analysis.failed_runs(options.folders).itertuples():
        print(f"{row.status}: {row.run}: {row.reason}")
    found = analysis.compare(
        options.folders,
        metric=options.metric,
        by=options.by if options.by == "auto" else options.by.split(","),
        panel=None if options.panel == "none" else options.panel,
        last=options.last,
        target=options.target,
        baseline=options.baseline,
    )
    found.print()
    out = options.out or options.folders[0]
    from fedsim.recording.files import write_atomic

    try:
        out.mkdir(parents=True, exist_ok=True)
        write_atomic(out / "comparison.md", found.to_markdown().encode())
    except OSError as error:
        raise ConfigError("--out", str(out), f"accepted is a folder that can be made and written ({error.strerror})") from None
    found.to_csv(out / "comparison.csv")
    analysis.plot_comparison(found, out / "comparison.png", options.band)
    print(f"written: comparison.png, comparison.md and comparison.csv in {out}")
    return 0


def tune(given: list[str]) -> int:
    """`fedsim tune`: step sizes chosen on the validation split."""
    from fedsim.cli.tune import main as run_tune

    import_from_here()
    return run_tune(given)


def check(given: list[str]) -> int:
    """`fedsim check`: the curves of a run against those kept."""
    from fedsim.cli.check import main as run_check

    return run_check(given, _Parser)


def demo(given: list[str]) -> int:
    """`fedsim demo`: the main job."""
    from fedsim.cli.demo import main as run_demo

    return run_demo(given)


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {cut(one_line(message), 1000)}; {self.prog} --help shows what is accepted\n")
