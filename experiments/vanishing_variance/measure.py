"""Layer variances and accuracy over time, and the shrink at the start against its formula: python
measure.py FOLDER [PICTURE]

Reads all runs below FOLDER (made with metrics=[layer_variance]): those in FOLDER/shrink have a rate
of nearly zero, so that mixing acts alone. Prints tables as Markdown.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import fedsim
from fedsim.analysis import rounds_to_target
from fedsim.analysis.comparison import t_interval
from fedsim.config.building import Settings, build
from fedsim.recording.find_runs import find_runs

PLATEAU, TARGET = 0.2, 0.8
SETTING = ["graph", "nodes", "degree", "depth"]
PARTS = ["main", "nodes", "degree", "graphs", "depth", "shrink"]  # folders
METHODS = {
    "server": "C0",
    "one start": "C2",
    "different, plain": "C3",
    "different, corrected": "C1",
}
NAMES = {"RandomRegular": "random regular", "BarabasiAlbert": "Barabási-Albert"}


def read(folder: str) -> pd.DataFrame:
    """One row for each run: folder, graph, nodes, degree, depth, method, seed, curves (by round, a
    column a metric), simulation."""
    found = []
    for run in find_runs(folder):
        if run.status != "done":
            continue
        simulation = build(
            Settings(
                {
                    key: part
                    for key, part in run.config.items()
                    if key not in ("choices", "overrides", "metrics")
                }
            )
        )
        rows = fedsim.load_runs(run.folder)
        rows = rows[rows["scope"].isin(["nodes", "mean_model", "server"])]
        curves = rows.pivot_table(index="round", columns=["metric"], values="value")
        graph = type(simulation.topology).__name__ if simulation.topology else "server"
        start = (
            "one start"
            if simulation.protocol.same_start
            else "different, " + ("corrected" if simulation.correction else "plain")
        )
        curves["mean_accuracy"] = (
            curves["accuracy"] if graph == "server" else curves["accuracy_mean"]
        )
        entry = {
            "part": run.name.split("/")[0],
            "graph": NAMES.get(graph, graph.lower()),
            "nodes": simulation.partition.clients,
        }
        entry |= {
            "degree": getattr(simulation.topology, "degree", 0),
            "depth": len(run.config["model"]["hidden"]),
        }
        entry |= {
            "method": "server" if graph == "server" else start,
            "seed": simulation.seed,
            "curves": curves,
            "simulation": simulation,
        }
        found.append(entry)
    return pd.DataFrame(
        sorted(
            found, key=lambda entry: (PARTS.index(entry["part"]), entry["nodes"], entry["degree"])
        )
    )


def name_of(setting: tuple) -> str:
    graph, nodes, degree, depth = setting
    return f"{f'random {degree}-regular' if degree else graph}, N = {nodes}" + (
        f", {depth} hidden" if depth != 4 else ""
    )


def variances(curves: pd.DataFrame) -> np.ndarray:
    """Variance of each layer as a share of the first: [rounds, layers]."""
    values = curves[[name for name in curves if name.startswith("variance_")]].to_numpy()
    return values / values[0]


def formula(simulation: fedsim.Simulation, rounds: int) -> np.ndarray:
    """Node mean of sum_j ((W^t)_ij)^2 for t = 0 .. rounds, and for t to infinity: [rounds + 2]."""
    links = simulation.mixing.links(
        simulation.topology.adjacency(simulation.partition.clients, simulation.seed)
    )
    matrix = np.zeros((links.receivers, links.receivers))
    matrix[links.receiver, links.sender] = links.weight
    powers = [np.linalg.matrix_power(matrix, t) for t in (*range(rounds + 1), 1 << 20)]
    return np.array([np.square(power).sum(axis=1).mean() for power in powers])


def shrink_table(runs: pd.DataFrame) -> list[str]:
    lines = [
        "| graph | one mixing: formula | measured | 3: formula | measured | 10: formula | measured"
        " | in the end: formula |"
    ]
    lines += ["|" + "---|" * 8]
    for setting, part in runs.groupby(SETTING, sort=False):
        says = np.mean([formula(simulation, 10) for simulation in part["simulation"]], axis=0)
        seen = np.array([variances(curves).mean(axis=1) for curves in part["curves"]])
        cells = [
            f"{says[t]:.4f} | {seen[:, t].mean():.4f} ± {seen[:, t].std(ddof=1):.4f}"
            for t in (1, 3, 10)
        ]
        lines.append(f"| {name_of(setting)} | {' | '.join(cells)} | {says[-1]:.4f} |")
    return lines


def facts(curves: pd.DataFrame) -> dict[str, float]:
    accuracy, weights = curves["mean_accuracy"], variances(curves).mean(axis=1)
    found = {
        "accuracy": accuracy.iloc[-1],
        "plateau": float(max(accuracy.index[accuracy < PLATEAU], default=0)),
    }
    return found | {
        "target": rounds_to_target(accuracy, TARGET, window=1) or np.inf,
        "least": weights.min(),
        "last": weights[-1],
    }


def training_table(runs: pd.DataFrame) -> list[str]:
    lines = [
        f"| graph | method | least variance / first | at the end | rounds below {PLATEAU} | rounds"
        f" to {TARGET} | accuracy |"
    ]
    lines += ["|" + "---|" * 7]
    for setting, part in runs.groupby(SETTING, sort=False):
        for method in METHODS:
            values = pd.DataFrame(
                [facts(curves) for curves in part[part["method"] == method]["curves"]]
            )
            if values.empty:
                continue
            mean, std = (getattr(values.drop(columns="target"), name)() for name in ("mean", "std"))
            cells = [
                f"{mean['least']:.3f}",
                f"{mean['last']:.2f}",
                f"{mean['plateau']:.0f} ± {std['plateau']:.0f}",
            ]
            reached = ", ".join(
                "not reached" if np.isinf(value) else f"{value:.0f}" for value in values["target"]
            )
            cells += [
                "not reached" if np.isinf(values["target"]).all() else reached,
                f"{mean['accuracy']:.3f} ± {std['accuracy']:.3f}",
            ]
            lines.append(f"| {name_of(setting)} | {method} | {' | '.join(cells)} |")
    return lines


def paired_table(runs: pd.DataFrame) -> list[str]:
    pairs = [
        ("different, plain", "one start"),
        ("different, corrected", "one start"),
        ("different, corrected", "different, plain"),
    ]
    lines = [
        "| graph | " + " | ".join(f"{one} - {other}" for one, other in pairs) + " |",
        "|" + "---|" * 4,
    ]
    for setting, part in runs[runs["method"] != "server"].groupby(SETTING, sort=False):
        part = part.assign(accuracy=[curves["mean_accuracy"].iloc[-1] for curves in part["curves"]])
        table, cells = part.pivot_table(index="seed", columns="method", values="accuracy"), []
        for one, other in pairs:
            there = one in table and other in table
            mean, low, high = (
                t_interval((table[one] - table[other]).to_numpy()) if there else (np.nan,) * 3
            )
            cells.append(f"{mean:+.3f} ({low:+.3f} to {high:+.3f})" if there else "-")
        lines.append(f"| {name_of(setting)} | {' | '.join(cells)} |")
    return lines


def draw(shrink: pd.DataFrame, training: pd.DataFrame, path: Path) -> None:
    """The shrink against its formula; the third layer's variance and the accuracy in the main
    setting."""
    figure = Figure(figsize=(11, 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    left, middle, right = figure.subplots(1, 3)
    for number, (setting, part) in enumerate(shrink.groupby(SETTING, sort=False)):
        says = np.mean([formula(simulation, 10) for simulation in part["simulation"]], axis=0)[:-1]
        seen = np.mean([variances(curves).mean(axis=1) for curves in part["curves"]], axis=0)
        left.plot(says, color=f"C{number}", linewidth=1)
        left.plot(seen, ".", color=f"C{number}", label=name_of(setting))
    left.set(
        yscale="log", xlabel="mixing", title="variance / first, no training", ylim=(1.5e-3, 1.2)
    )
    left.legend(fontsize=6, frameon=False, ncol=2, loc="lower left")
    for method, color in METHODS.items():
        for number, curves in enumerate(
            training[(training["part"] == "main") & (training["method"] == method)]["curves"]
        ):
            middle.plot(
                curves.index,
                variances(curves)[:, 2],
                color=color,
                linewidth=1,
                label=None if number else method,
            )
            right.plot(curves.index, curves["mean_accuracy"], color=color, linewidth=1)
    middle.set(yscale="log", xlabel="round", title="variance of the third layer / first")
    right.set(xlabel="round", title="accuracy, mean over nodes", ylim=(0, 1))
    middle.legend(fontsize=7, frameon=False)
    for axes in (left, middle, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=90)


def main() -> None:
    runs = read(sys.argv[1])
    shrink, training = runs[runs["part"] == "shrink"], runs[runs["part"] != "shrink"]
    print(
        *shrink_table(shrink), "", *training_table(training), "", *paired_table(training), sep="\n"
    )
    if len(sys.argv) > 2:
        draw(shrink, training, Path(sys.argv[2]))


if __name__ == "__main__":
    main()
