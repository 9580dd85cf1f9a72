"""A comparison as text: on the terminal, as Markdown, as CSV."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from fedsim.errors import ConfigError
from fedsim.recording.files import write_atomic

if TYPE_CHECKING:
    from rich.console import Console

    from fedsim.analysis.comparison import Comparison

Table = tuple[list[str], list[list[str]]]  # headers, rows


def summary_table(comparison: Comparison) -> Table:
    """One row per panel and method: final value mean ± standard deviation, n (of how many), rounds
    to the target, bytes, seconds."""
    table, metric, target = comparison.table, comparison.metric, comparison.target
    headers = [
        "method",
        f"final {metric}",
        "n",
        *([f"rounds to {target:g}"] if target is not None else []),
        "bytes",
        "seconds",
    ]
    rows = []
    for row in table.itertuples():
        final = f"{_number(row.mean, metric)} ± {_number(row.std, metric)}" if row.n else "-"
        n = f"{row.n} of {row.n + row.unfinished}" if row.unfinished else str(row.n)
        cells = [
            row.method,
            final,
            n,
            *([_rounds(row.rounds_to_target, row.reached, row.n)] if target is not None else []),
        ]
        rows.append(
            [*cells, _bytes(row.bytes), "-" if math.isnan(row.seconds) else f"{row.seconds:.1f}"]
        )
    return _with_panels(comparison, headers, rows, list(table["panel"]))


def difference_table(comparison: Comparison) -> Table:
    """One row per panel and pair of methods: mean paired difference, its 95 % interval, and the
    number of common seeds."""
    rows, metric = [], comparison.metric
    for row in comparison.differences.itertuples():
        interval = (
            "-"
            if math.isnan(row.low)
            else f"{_number(row.low, metric, '+')} to {_number(row.high, metric, '+')}"
        )
        rows.append(
            [
                f"{row.method} - {row.baseline}",
                _number(row.difference, metric, "+"),
                interval,
                str(row.n),
            ]
        )
    headers = ["difference", f"final {metric}", "95 % interval", "n"]
    return _with_panels(comparison, headers, rows, list(comparison.differences["panel"]))


def print_comparison(comparison: Comparison, console: Console | None = None) -> None:
    """Print both tables and the notes. console: rich's (default: standard output)."""
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table as RichTable

    console = console or Console()
    titles = ("Mean ± standard deviation over seeds", "Paired differences over common seeds")
    for title, (headers, rows) in zip(
        titles, (summary_table(comparison), difference_table(comparison)), strict=True
    ):
        if not rows:
            continue
        shown = RichTable(
            title=title, title_justify="left", box=box.SIMPLE_HEAD, collapse_padding=True
        )
        texts = _texts(comparison)
        for number, header in enumerate(headers[texts - 1 :]):
            text = number == 0
            shown.add_column(
                header,
                justify="left" if text else "right",
                overflow="fold",
                no_wrap=not text,
                min_width=16 if text else None,
            )
        panel = None
        for number, row in enumerate(rows):
            # A panel's name stands above its rows: a column of its own would not fit
            if texts == 2 and row[0] != panel:
                panel = row[0]
                shown.add_row(escape(panel), style="bold")
            last = number + 1 == len(rows) or (texts == 2 and rows[number + 1][0] != panel)
            shown.add_row(*(escape(cell) for cell in row[texts - 1 :]), end_section=last)
        console.print(shown)
    for note in comparison.notes:
        console.print(f"note: {note}", markup=False, highlight=False)


def markdown(comparison: Comparison) -> str:
    """Both tables and the notes as Markdown."""
    parts = []
    for headers, rows in (summary_table(comparison), difference_table(comparison)):
        if rows:
            rule = [
                "---" if number < _texts(comparison) else "---:" for number in range(len(headers))
            ]
            lines = [headers, rule, *rows]
            parts.append(
                "\n".join(
                    "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |"
                    for line in lines
                )
            )
    parts += ["\n".join(f"* {note}" for note in comparison.notes)] if comparison.notes else []
    return "\n\n".join(parts) + "\n"


def write_csv(comparison: Comparison, path: Path) -> None:
    """Write the two tables, numbers unrounded, a target that was not reached as "not reached".
    Raises ConfigError if that fails."""
    table = comparison.table
    if comparison.target is None:
        table = table.drop(columns=["rounds_to_target", "reached"])
    else:
        table = table.assign(
            rounds_to_target=[
                "not reached" if value == math.inf else value for value in table["rounds_to_target"]
            ]
        )
    try:
        write_atomic(path, table.to_csv(index=False).encode())
        write_atomic(
            path.with_name(f"{path.stem}-differences{path.suffix}"),
            comparison.differences.to_csv(index=False).encode(),
        )
    except OSError as error:
        raise ConfigError(
            "path", str(path), f"a file that can be written ({error.strerror})"
        ) from None


def _texts(comparison: Comparison) -> int:
    """Leading columns that are text."""
    return 2 if comparison.table["panel"].nunique() > 1 else 1


def _with_panels(
    comparison: Comparison, headers: list[str], rows: list[list[str]], panels: list[str]
) -> Table:
    if _texts(comparison) == 1:
        return headers, rows
    order = list(dict.fromkeys(comparison.table["panel"]))
    placed = sorted(zip(panels, rows, strict=True), key=lambda pair: order.index(pair[0]))
    return [comparison.panel or "panel", *headers], [[panel, *row] for panel, row in placed]


def _number(value: float, metric: str, sign: str = "") -> str:
    return (
        "-"
        if math.isnan(value)
        else f"{value:{sign}.4f}"
        if "accuracy" in metric
        else f"{value:{sign}.4g}"
    )


def _rounds(median: float, reached: int, n: int) -> str:
    if math.isnan(median):
        return "-"
    text = "not reached" if math.isinf(median) else f"{median:g}"
    return text if reached in (0, n) else f"{text} ({reached}/{n})"


def _bytes(value: float) -> str:
    if math.isnan(value):
        return "-"
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            break
        value, unit = value / 1000, "TB"
    return f"{value:.3g} {unit}"
