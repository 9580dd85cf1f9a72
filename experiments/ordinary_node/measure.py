"""Rounds until an ordinary node and the slowest node are at a target and stay there: python
measure.py FOLDER [PICTURE]

Reads the runs below FOLDER (all those of the README, made with evaluation.per_node=true), prints
tables as Markdown, and draws the share of nodes that have arrived, over rounds.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scipy.stats import spearmanr

import fedsim
from fedsim.analysis import rounds_per_node
from fedsim.analysis.comparison import t_interval
from fedsim.config.building import Settings, build
from fedsim.network.topology import second_largest_modulus
from fedsim.recording.find_runs import find_runs

TARGETS = (0.8, 0.85, 0.9)
MAIN = 0.8
# by what they need
GRAPHS = [
    "complete",
    "random_regular",
    "torus",
    "barabasi_albert",
    "graph_file",
    "ring",
    "star, uniform weights",
    "star",
]
NAMES = {
    "graph_file": "dolphins (62 nodes)",
    "barabasi_albert": "Barabási-Albert",
    "random_regular": "random 4-regular",
}


def arrivals(runs: pd.DataFrame, target: float) -> pd.DataFrame:
    """run, node, round, and of each run its graph, start and seed. Rounds after the last one are
    inf."""
    settings = runs.drop_duplicates("run").set_index("run")
    found = rounds_per_node(runs, target)
    for name, column in {
        "graph": "choices.topology",
        "same_start": "protocol.same_start",
        "seed": "seed",
    }.items():
        found[name] = found["run"].map(settings[column])
    if "choices.mixing" in settings:  # settings that do not differ are no columns
        found["graph"] += np.where(
            found["run"].map(settings["choices.mixing"]) == "uniform", ", uniform weights", ""
        )
    return found


def per_run(found: pd.DataFrame, rounds: int) -> pd.DataFrame:
    """One row for each run: mean (a node that has not arrived counts as `rounds`: the mean is too
    low), median, slowest, missing."""
    groups = found.groupby(["graph", "same_start", "seed"])["round"]
    late = groups.apply(lambda each: np.isinf(each).sum())
    mean = groups.apply(lambda each: each.clip(upper=rounds).mean())
    return pd.DataFrame(
        {"ordinary": mean, "median": groups.median(), "slowest": groups.max(), "missing": late}
    ).reset_index()


def cell(values: pd.Series, missing: pd.Series) -> str:
    """Mean ± standard deviation over seeds; at least that much if nodes are missing."""
    if np.isinf(values).any():
        return "not reached"
    return f"{'≥ ' if missing.any() else ''}{values.mean():.1f} ± {values.std():.1f}"


def main_table(facts: pd.DataFrame) -> list[str]:
    lines = [
        "| graph | start | an ordinary node (mean) | median node | the slowest node | slowest /"
        " ordinary | not arrived, by seed |"
    ]
    lines += ["|---|---|---|---|---|---|---|"]
    for graph in GRAPHS:
        for same in (True, False):
            part = facts[(facts["graph"] == graph) & (facts["same_start"] == same)]
            ordinary, slowest = (
                cell(part["ordinary"], part["missing"]),
                cell(part["slowest"], part["missing"]),
            )
            median = cell(part["median"], 0 * part["missing"])
            ratio = f"{(part['slowest'] / part['ordinary']).mean():.2f}" if "±" in slowest else "-"
            missing = (
                ", ".join(f"{number}" for number in part["missing"])
                if part["missing"].any()
                else "0"
            )
            start = "one" if same else "different"
            lines.append(
                f"| {NAMES.get(graph, graph)} | {start} | {ordinary} | {median} | {slowest} |"
                f" {ratio} | {missing} |"
            )
    return lines


def difference(one: pd.DataFrame, other: pd.DataFrame) -> str:
    """Cells for the ordinary and the slowest node: one less other, paired over seeds."""
    if one["missing"].any() or other["missing"].any():
        return "a node is missing | a node is missing"
    ends = [t_interval((one[name] - other[name]).to_numpy()) for name in ("ordinary", "slowest")]
    return " | ".join(f"{mean:+.1f} ({low:+.1f} to {high:+.1f})" for mean, low, high in ends)


def paired_tables(facts: pd.DataFrame) -> list[str]:
    """What different starts cost, and irregular graphs beside the ring."""
    facts = facts.set_index(["graph", "same_start", "seed"])
    lines = [
        "| graph | ordinary node, different - one start | slowest node, different - one start |",
        "|---|---|---|",
    ]
    lines += [
        f"| {NAMES.get(graph, graph)} |"
        f" {difference(facts.loc[graph, False], facts.loc[graph, True])} |"
        for graph in GRAPHS
    ]
    lines += [
        "",
        "| graph less the ring | start | ordinary node | slowest node |",
        "|---|---|---|---|",
    ]
    for graph in ("barabasi_albert", "graph_file"):
        for same, start in ((True, "one"), (False, "different")):
            lines.append(
                f"| {NAMES[graph]} | {start} |"
                f" {difference(facts.loc[graph, same], facts.loc['ring', same])} |"
            )
    return lines


def graph_table(found: pd.DataFrame, folder: str) -> list[str]:
    """What the graph says: the second largest modulus of the mixing matrix, and the rank
    correlation over nodes of the weight that a node keeps for its own model with the round in which
    it arrives (a node that does not arrive is the last)."""
    own, modulus = {}, {}
    for run in find_runs(folder):
        simulation = build(
            Settings(
                {
                    key: part
                    for key, part in run.config.items()
                    if key not in ("choices", "overrides")
                }
            )
        )
        links = simulation.mixing.links(
            simulation.topology.adjacency(simulation.partition.clients, simulation.seed)
        )
        itself = links.receiver == links.sender
        own[run.name] = dict(
            zip(links.receiver[itself].tolist(), links.weight[itself].tolist(), strict=True)
        )
        modulus[run.name] = second_largest_modulus(links)
    found = found.assign(
        own=[own[run][node] for run, node in zip(found["run"], found["node"], strict=True)]
    )
    lines = [
        "| graph | second largest modulus | own weight | rank correlation of own weight and round:"
        " one start | different starts |"
    ]
    lines += ["|---|---|---|---|---|"]
    for graph in GRAPHS:
        part = found[found["graph"] == graph]
        moduli = sorted({f"{modulus[run]:.3f}" for run in part["run"].unique()})
        kept = part["own"].round(9)
        cells = []
        for same in (True, False):
            runs = part[part["same_start"] == same].groupby("seed")
            values = (
                [spearmanr(each["own"], each["round"]).statistic for _, each in runs]
                if kept.nunique() > 2
                else []
            )
            cells.append(", ".join(f"{value:.2f}" for value in values) or "-")
        weights = (
            f"{kept.min():.2f}" if kept.nunique() == 1 else f"{kept.min():.2f} to {kept.max():.2f}"
        )
        lines.append(
            f"| {NAMES.get(graph, graph)} | {' to '.join(moduli[:1] + moduli[1:][-1:])} | {weights}"
            f" | {cells[0]} | {cells[1]} |"
        )
    return lines


def draw(found: pd.DataFrame, rounds: int, path: Path) -> None:
    """Share of nodes that have arrived at MAIN for good, over rounds; all seeds together. A dot
    marks the mean."""
    figure = Figure(figsize=(9.5, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 2, sharey=True)
    for axes, same in zip(panels, (True, False), strict=True):
        for number, graph in enumerate(GRAPHS):
            part = found[(found["graph"] == graph) & (found["same_start"] == same)][
                "round"
            ].to_numpy()
            at = np.sort(part)
            share = np.arange(1, len(at) + 1) / len(at)
            here = np.isfinite(at)
            x, y = (
                np.append(at[here], rounds),
                np.append(share[here], share[here][-1] if here.any() else 0.0),
            )
            axes.step(x, y, where="post", color=f"C{number}", label=NAMES.get(graph, graph))
            if here.all():
                axes.plot(
                    part.mean(), np.interp(part.mean(), x, y), "o", color=f"C{number}", markersize=5
                )
        axes.set_title(f"{'one start' if same else 'different starts'}")
        axes.set_xlabel("round")
        axes.set_xlim(0, rounds)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel(f"share of nodes at {MAIN} for good")
    panels[1].legend(fontsize=7, frameon=False, loc="lower right")
    figure.savefig(path, dpi=90)


def main() -> None:
    runs = fedsim.load_runs(sys.argv[1])
    rounds = int(runs["round"].max())
    for target in TARGETS:
        facts = per_run(arrivals(runs, target), rounds)
        title = (
            f"Accuracy {target:g}, of at most {rounds} rounds; mean ± standard deviation over"
            f" {facts['seed'].nunique()} seeds"
        )
        print("", title, "", *main_table(facts), sep="\n")
    found = arrivals(runs, MAIN)
    print(
        "",
        f"Accuracy {MAIN:g}, paired over seeds, 95 % t-intervals",
        "",
        *paired_tables(per_run(found, rounds)),
        sep="\n",
    )
    print(
        "",
        f"Accuracy {MAIN:g}, by graph; correlations one for each seed",
        "",
        *graph_table(found, sys.argv[1]),
        sep="\n",
    )
    if len(sys.argv) > 2:
        draw(found, rounds, Path(sys.argv[2]))


if __name__ == "__main__":
    main()
