"""`fedsim check`: is a run's curve what it was? For a project's own regression tests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fedsim.cli.arguments import Parser
from fedsim.errors import require


def main(arguments: Sequence[str]) -> int:
    """Compare a run with a golden file, or make one; exit code 0: within tolerance, 1: moved.
    Raises ConfigError."""
    parser = Parser(
        prog="fedsim check",
        description=(
            "Compare the curves of a finished run with those kept in a golden file, round by round,"
            " or keep them."
        ),
        epilog=(
            "The tolerance is measured from the runs given with --write: of the same seed and"
            " another local.execution or machine, what rounding changes; of other seeds, what"
            " chance changes. Without them it is as small as rounding can be guessed to be."
        ),
    )
    parser.add_argument(
        "runs",
        nargs="+",
        type=Path,
        metavar="RUN",
        help="folder of a finished run; with --write also of its variants",
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--against", type=Path, metavar="GOLDEN", help="a golden file")
    what.add_argument(
        "--write", type=Path, metavar="GOLDEN", help="keep the first run's curves in this file"
    )
    options = parser.parse_args(list(arguments))
    from fedsim.analysis.golden import Curves, Golden

    if options.write is not None:
        golden = Golden.measure([Curves.read(run) for run in options.runs])
        golden.write(options.write)
        print(f"{len(golden.curves)} curves of {options.runs[0]} kept in {options.write}")
        if golden.blind:
            print(f"chance hardly changes these more than the tolerance: {', '.join(golden.blind)}")
        return 0
    require(
        len(options.runs) == 1,
        "RUN",
        [str(run) for run in options.runs],
        "accepted is one run with --against",
    )
    return _compare(options.runs[0], options.against)


def _compare(folder: Path, file: Path) -> int:
    from rich.console import Console
    from rich.table import Table

    from fedsim.analysis.golden import Curves, Golden, moved

    golden, run = Golden.read(file), Curves.read(folder)
    found = moved(golden, run)
    if not found:
        same = run.sha256 == golden.sha256
        print(
            f"{folder}: {len(golden.curves)} curves as in {file},"
            f" {'the same bytes' if same else 'within tolerance'}"
        )
        return 0
    table = Table(
        "curve",
        "first round",
        "run",
        "golden",
        "tolerance",
        "worst, in tolerances",
        box=None,
        header_style="bold",
    )
    for each in found:
        numbers = (each.value, each.golden, each.tolerance, each.worst)
        table.add_row(each.curve, str(each.round), *(f"{number:.6g}" for number in numbers))
    print(
        f"{folder}: {len(found)} of {len(golden.curves)} curves are not as in {file} (made on"
        f" {golden.machine})"
    )
    Console(width=None if Console().is_terminal else 140).print(table)
    return 1
