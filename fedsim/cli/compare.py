"""`fedsim compare`: tables and curves of finished runs."""

from __future__ import annotations

from pathlib import Path

from fedsim.cli.arguments import Parser
from fedsim.errors import ConfigError


def main(given: list[str]) -> int:
    """Failed runs first, then tables, and curves in a picture. Returns the exit code."""
    parser = Parser(
        prog="fedsim compare",
        description=(
            "Compare finished runs: failed ones first, then tables, and curves in a picture."
        ),
    )
    parser.add_argument(
        "folders", nargs="+", type=Path, metavar="FOLDER", help="searched for runs in depth"
    )
    parser.add_argument(
        "--metric",
        default="accuracy",
        help="of the server's model or the nodes; SCOPE/METRIC for another (%(default)s)",
    )
    parser.add_argument(
        "--by", default="auto", help="settings that tell methods apart, with commas (%(default)s)"
    )
    parser.add_argument(
        "--panel",
        default="participation",
        help="setting with a panel for each value, none: one panel (%(default)s)",
    )
    parser.add_argument("--target", type=float, help="also rounds to this value of the metric")
    parser.add_argument(
        "--baseline", help="the method others are compared with (default: every pair)"
    )
    parser.add_argument(
        "--last",
        type=float,
        default=1,
        help="final value: mean over that many last evaluations, or share below 1",
    )
    parser.add_argument(
        "--band",
        choices=("std", "minmax"),
        default="std",
        help="around the mean curve (%(default)s)",
    )
    parser.add_argument(
        "--out", type=Path, help="where comparison.png, .md and .csv go (default: the first folder)"
    )
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
        raise ConfigError(
            "--out",
            str(out),
            f"accepted is a folder that can be made and written ({error.strerror})",
        ) from None
    found.to_csv(out / "comparison.csv")
    analysis.plot_comparison(found, out / "comparison.png", options.band)
    print(f"written: comparison.png, comparison.md and comparison.csv in {out}")
    return 0
