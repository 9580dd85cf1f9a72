"""The command line: each command is a module beside this one. A setting that cannot be used is one
line and exit code 2."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Sequence

from fedsim.config.trust import path_kept
from fedsim.errors import ConfigError
from fedsim.simulation.interruption import Interrupted

# fedsim.cli.NAME has main(arguments) -> exit code
COMMANDS = ("run", "list", "compare", "tune", "check", "demo")
USAGE = """\
usage: fedsim COMMAND ...

  fedsim run [group=option] [group.setting=value] ...   one run
  fedsim run -m algorithm=fedavg,fedau seed=0,1,2 ...   one for each combination that is missing
  fedsim run resume=FOLDER [engine=... progress=...]    go on from a run's last checkpoint;
             resume=FOLDER --trust MODULE               from one that somebody sent
  fedsim list [GROUP]                                   what there is to choose from
  fedsim compare FOLDER ...                             finished runs: table and curves
  fedsim tune [key=value] ... --client-rates -2:0       step sizes, chosen on the validation split
  fedsim check RUN --against GOLDEN                     is a run's curve what it was?
  fedsim demo                                           five algorithms on digits, in two minutes

  COMMAND --help says more; fedsim --version; options of your own: --config-dir FOLDER
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; its exit code: 0, 1 for an error inside a run, 2 for what the user can mend,
    130 or 143 when interrupted."""
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
    if not given or given[0] in ("-h", "--help", "help"):
        print(USAGE, end="")
        return 0
    if given[0] == "--version":
        from fedsim import __version__

        print(f"fedsim {__version__}")
        return 0
    if given[0] not in COMMANDS:
        from fedsim.config.building import suggest

        raise ConfigError("command", given[0], f"unknown command; {suggest(given[0], COMMANDS)}")
    return importlib.import_module(f"fedsim.cli.{given[0]}").main(given[1:])
