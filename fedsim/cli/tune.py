"""`fedsim tune`: step sizes chosen on the validation split, shown, and written as options that runs
take up.

For each algorithm FOLDER/tuned/ALGORITHM.yaml holds the step sizes chosen; `--config-dir FOLDER`
applies them to every run of the algorithm (conf/config.yaml ends with `optional tuned:
${algorithm}`). What is typed wins over them.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from fedsim.analysis.tuning import RATES, Point, Range, Runner, Tuned, tune
from fedsim.cli.arguments import Parser
from fedsim.config.building import Settings, build
from fedsim.config.composition import compose
from fedsim.config.from_python import simulate_many
from fedsim.config.sweeps import check_name
from fedsim.config.trust import import_from_here
from fedsim.errors import ConfigError, require
from fedsim.recording.files import write_atomic

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console
    from rich.table import Table as RichTable

DESCRIPTION = """\
Choose step sizes for each algorithm on the validation split, from a grid of quarter decades, the
other settings being equal.

  fedsim tune experiment=digits_server algorithm=fedavg,fedau \\
      --client-rates -2:0 --server-rates -0.5:0.5 --seeds 2
  fedsim run -m experiment=digits_server algorithm=fedavg,fedau seed=0,1,2 \\
      --config-dir tuning/digits_server

The second command runs each algorithm with the step sizes chosen for it. Runs that are in the
folder already are not repeated.
"""


RUNNER = Runner(compose, lambda config: build(Settings(dict(config))), simulate_many)


def main(arguments: list[str]) -> int:
    """Run the command. Returns the exit code: 1 if no step size could be chosen for some algorithm,
    or runs failed. Raises ConfigError."""
    import_from_here()
    options = _parse(arguments)
    algorithms = [
        value
        for each in options.overrides
        if each.startswith("algorithm=")
        for value in each[len("algorithm=") :].split(",")
    ]
    overrides = [each for each in options.overrides if not each.startswith("algorithm=")]
    ranges = {
        axis: Range.parse(text, f"--{axis}-rates")
        for axis in RATES
        if (text := getattr(options, f"{axis}_rates")) is not None
    }
    experiment = next(
        (each.partition("=")[2] for each in overrides if each.startswith("experiment=")), "untitled"
    )
    check_name("experiment", experiment)
    folder = options.folder or Path("tuning") / experiment

    from rich.console import Console

    console = Console()
    try:
        found = tune(
            overrides,
            algorithms or ["fedavg"],
            ranges,
            RUNNER,
            folder=folder / "runs",
            seeds=_seeds(options.seeds),
            search=options.search,
            last=options.last,
            widen=options.widen,
            processes=options.processes,
            config_dir=options.config_dir,
            progress=console.is_terminal,
        )
    except RuntimeError as error:  # runs that failed; the others are kept
        print(error, file=sys.stderr)
        return 1
    _print(found, console)
    try:
        _write(found, folder)
    except OSError as error:
        raise ConfigError(
            "--folder", str(folder), f"accepted is a folder that can be written ({error.strerror})"
        ) from None
    console.print(
        f"written: tuning.csv, tuning.md and tuned/ in {folder}; use them with --config-dir"
        f" {folder}",
        highlight=False,
    )
    return 0 if all(tuned.found for tuned in found) else 1


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = Parser(
        prog="fedsim tune",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="KEY=VALUE",
        help="as for fedsim run; algorithm=A,B tunes several",
    )
    rates = "exponents of ten: -2:0 is 0.01 to 1 in quarter decades"
    parser.add_argument("--client-rates", metavar="LOW:HIGH", help=f"of local.rate, {rates}")
    parser.add_argument(
        "--server-rates", metavar="LOW:HIGH", help="of aggregator.rate, in the same way"
    )
    parser.add_argument(
        "--seeds", default="2", help="how many, from 0 on; or which: 3,4,5 (%(default)s)"
    )
    parser.add_argument(
        "--search",
        choices=("grid", "coordinates"),
        default="grid",
        help="all pairs, or client first, then server",
    )
    parser.add_argument(
        "--last", type=int, default=3, help="evaluations whose mean is a run's value (%(default)s)"
    )
    parser.add_argument(
        "--widen",
        type=int,
        default=2,
        help="steps a range may grow where the best is at its end (%(default)s)",
    )
    parser.add_argument(
        "--processes", type=int, default=os.cpu_count() or 1, help="runs at once (%(default)s)"
    )
    parser.add_argument("--folder", type=Path, help="where runs and results go (tuning/EXPERIMENT)")
    parser.add_argument("--config-dir", type=Path, metavar="FOLDER", help="your own options")
    joined: list[str] = []
    for argument in arguments:
        if joined and joined[-1] in ("--client-rates", "--server-rates"):
            # apart, argparse would take the -2:0 of "--client-rates -2:0" for an option
            joined[-1] += f"={argument}"
        else:
            joined.append(argument)
    return parser.parse_intermixed_args(joined)


def _seeds(text: str) -> list[int]:
    parts = text.split(",")
    accepted = "accepted is a number of seeds, at least 1, or different seeds with commas: 3,4,5"
    require(
        all(part.strip().isdecimal() for part in parts) and text != "0", "--seeds", text, accepted
    )
    return list(range(int(text))) if len(parts) == 1 else [int(part) for part in parts]


def _print(found: list[Tuned], console: Console) -> None:
    """One grid for each algorithm, and the step sizes chosen."""
    for tuned in found:
        console.print(
            f"{tuned.algorithm}: {tuned.metric} on the validation split, mean of {len(tuned.seeds)}"
            " seeds (* chosen)",
            highlight=False,
        )
        console.print(_shown(*_grid(tuned)))
    console.print("chosen", highlight=False)
    console.print(_shown(*_chosen(found)))
    for tuned in found:
        for note in tuned.notes:
            console.print(f"note: {tuned.algorithm}: {note}", markup=False, highlight=False)


def _shown(headers: list[str], rows: list[list[str]]) -> RichTable:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, collapse_padding=True)
    for number, header in enumerate(headers):
        table.add_column(header, justify="right" if number else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return table


def _grid(tuned: Tuned) -> tuple[list[str], list[list[str]]]:
    """A row for each rate of the first axis, a column for each of the second (or one for all)."""
    points, best = list(tuned.values), tuned.search.best
    columns = sorted({point[1:] for point in points})
    names = [f"{column[0]:.3g}" if column else tuned.metric for column in columns]
    rows = []
    for rate in sorted({point[0] for point in points}):
        cells = [_cell(tuned, (rate, *column), best) for column in columns]
        rows.append([f"{rate:.3g}", *cells])
    return [" \\ ".join(tuned.axes), *names], rows


def _cell(tuned: Tuned, point: Point, best: Point) -> str:
    if point not in tuned.values:
        return ""
    mean = tuned.mean(point)
    text = "unusable" if math.isnan(mean) else f"{mean:.4f}"
    return f"{text}*" if point == best and tuned.found else f"{text} "


def _chosen(found: list[Tuned]) -> tuple[list[str], list[list[str]]]:
    rows = []
    for tuned in found:
        rates = [
            f"{tuned.chosen[axis]:.3g}" if tuned.found and axis in tuned.axes else "-"
            for axis in RATES
        ]
        values = tuned.values[tuned.search.best]
        spread = f" ± {_std(values):.4f}" if len(values) > 1 else ""
        value = f"{tuned.mean(tuned.search.best):.4f}{spread}" if tuned.found else "-"
        rows.append([tuned.algorithm, *rates, value])
    return ["algorithm", *RATES.values(), found[0].metric], rows


def _std(values: list[float]) -> float:
    import numpy as np

    return float(np.std(values, ddof=1))


def table_of(found: list[Tuned]) -> pd.DataFrame:
    """All points: algorithm, local.rate, aggregator.rate (missing where not tuned), metric, mean
    (missing: unusable), a column for each seed, chosen."""
    import pandas as pd

    rows = []
    for tuned in found:
        for point, values in sorted(tuned.values.items()):
            rates = {RATES[axis]: rate for axis, rate in zip(tuned.axes, point, strict=True)}
            seeds = {f"seed {seed}": value for seed, value in zip(tuned.seeds, values, strict=True)}
            row = {
                "algorithm": tuned.algorithm,
                **rates,
                "metric": tuned.metric,
                "mean": tuned.mean(point),
            }
            rows.append({**row, **seeds, "chosen": tuned.found and point == tuned.search.best})
    return pd.DataFrame(rows)


def _write(found: list[Tuned], folder: Path) -> None:
    """tuning.csv: all points; tuning.md: what was chosen; tuned/ALGORITHM.yaml: options."""
    (folder / "tuned").mkdir(parents=True, exist_ok=True)
    write_atomic(folder / "tuning.csv", table_of(found).to_csv(index=False).encode())
    headers, rows = _chosen(found)
    lines = [headers, ["---"] * len(headers), *rows]
    notes = [f"* {tuned.algorithm}: {note}" for tuned in found for note in tuned.notes]
    text = (
        "\n".join("| " + " | ".join(line) + " |" for line in lines)
        + "\n"
        + "".join(f"\n{note}" for note in notes)
    )
    write_atomic(folder / "tuning.md", (text.rstrip("\n") + "\n").encode())
    for tuned in found:
        path = folder / "tuned" / f"{tuned.algorithm}.yaml"
        if not tuned.found:
            path.unlink(missing_ok=True)
            continue
        value = (
            f"{tuned.metric} {tuned.mean(tuned.search.best):.4f} on the validation split, mean of"
            f" {len(tuned.seeds)} seeds"
        )
        keys = [(*RATES[axis].split("."), rate) for axis, rate in tuned.chosen.items()]
        settings = [f"{group}: {{{name}: {rate:g}}}" for group, name, rate in keys]
        text = "\n".join(
            [
                "# @package _global_",
                f"# step sizes that fedsim tune chose for {tuned.algorithm}: {value}",
                *settings,
            ]
        )
        write_atomic(path, f"{text}\n".encode())
