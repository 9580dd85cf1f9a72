"""The tables and the picture of this experiment from its runs: python experiments/fedau/measure.py
FOLDER [PICTURE.png]"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pandas as pd
from hydra.utils import instantiate
from torch import zeros

from fedsim.analysis import Comparison, compare
from fedsim.analysis.labels import place_runs
from fedsim.analysis.runs import load_runs
from fedsim.protocols.server import ServerPlan
from fedsim.recording.find_runs import find_runs

BASELINE = "average_participating"
Cell = dict[tuple[str, str], str]


def differences(found: Comparison, digits: int) -> Cell:
    """(panel, method) -> "+0.0123 (+0.0100 to +0.0150)" against the baseline."""
    cells = {}
    for row in found.differences.itertuples():
        span = f" ({row.low:+.{digits}f} to {row.high:+.{digits}f})" if row.n > 1 else ""
        cells[row.panel, row.method] = f"{row.difference:+.{digits}f}{span}"
    return cells


def values(found: Comparison, digits: int) -> Cell:
    """(panel, method) -> "0.8123 ± 0.0011" over the seeds."""
    rows = found.table.itertuples()
    return {
        (row.panel, row.method): (
            f"{row.mean:.{digits}f}" + (f" ± {row.std:.{digits}f}" if row.n > 1 else "")
        )
        for row in rows
    }


def memory(folder: Path, table: pd.DataFrame) -> dict[tuple[str, str], float]:
    """(panel, method) -> bytes that the aggregator keeps from one round to the next, mean over
    runs: its arrays over links, its vectors at the server, and one row for each client that took
    part."""
    place = place_runs(table).set_index("run")
    seen = (
        table[(table["metric"] == "participations") & (table["node"] >= 0) & (table["value"] > 0)]
        .groupby("run")["node"]
        .nunique()
    )
    kept: dict[tuple[str, str], list[float]] = {}
    for run in find_runs(folder):
        if run.status != "done":
            continue
        summary = json.loads((run.folder / "summary.json").read_text())
        clients, model = summary["clients"], zeros(summary["parameters"])
        aggregator = instantiate(run.config["aggregator"])
        links = (
            aggregator.init_links(ServerPlan(clients, clients).links)
            if aggregator.remembers_links
            else {}
        )
        server = sum(array.nbytes for array in links.values()) + sum(
            each.nbytes for each in aggregator.init_receiver(model).values()
        )
        client = sum(each.nbytes for each in aggregator.init_memory(model).values())
        kept.setdefault((place["panel"][run.name], place["method"][run.name]), []).append(
            server + client * int(seen[run.name])
        )
    return {key: sum(each) / len(each) for key, each in kept.items()}


def size(count: float) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB" if count else "0"


def main(folder: Path, picture: Path | None) -> None:
    table = load_runs(folder)
    accuracy, objective = (
        compare(table, metric, baseline=BASELINE) for metric in ("accuracy", "objective")
    )
    kept = memory(folder, table)
    columns = [
        values(accuracy, 4),
        differences(accuracy, 4),
        values(objective, 3),
        differences(objective, 3),
    ]
    for panel in accuracy.table["panel"].unique():
        print(
            f"\n**{panel}**\n\n| | accuracy | difference | objective | difference | kept"
            " |\n|---|---|---|---|---|---|"
        )
        for row in accuracy.table[accuracy.table["panel"] == panel].itertuples():
            at = (panel, row.method)
            print(
                "|",
                " | ".join(
                    [f"`{row.method}`", *(column.get(at, "") for column in columns), size(kept[at])]
                ),
                "|",
            )
    print(f"\nseeds for each line: {sorted(set(accuracy.table['n']))}", *accuracy.notes, sep="\n")
    if picture is not None:
        figure = objective.plot()
        for axes in figure.axes:
            axes.set_ylim(0.3, 1.1)
        figure.savefig(picture, dpi=65)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else None)
