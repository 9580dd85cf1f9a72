"""Schedules compared under their own tuned rates: python measure.py FOLDER [PICTURE]

Reads the runs below FOLDER/server and FOLDER/graph; prints, for each place, the final accuracy of
every schedule and its paired differences from the constant rate and from linear decay; PICTURE gets
the rates over rounds and the differences.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import fedsim
from fedsim.analysis.comparison import main_curves, t_interval

PLACES = {"server": "at a server", "graph": "over a graph"}
SCHEDULES = [
    "constant",
    "two_steps",
    "cosine",
    "linear",
    "rex",
    "uba",
    "refined",
    "refined, half",
    "linear, twice",
]
SPENT = {
    "refined": "2T (base run of T)",
    "refined, half": "T (base run of T/2)",
    "linear, twice": "2T",
}
BASELINES = ("constant", "linear")


def finals(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """One row for each run: schedule, seed, rate, accuracy (mean over nodes on a graph); and every
    round's rate."""
    runs = fedsim.load_runs(folder)
    found = runs.drop_duplicates("run").set_index("run")
    schedule = found["choices.schedule"]
    rounds = runs[runs["scope"] == "run"].groupby("run")["round"].max()
    usual = rounds.median()
    ending = rounds.map(
        lambda each: ", half" if each < usual else ", twice" if each > usual else ""
    )
    facts = pd.DataFrame(
        {"schedule": schedule + ending, "seed": found["seed"], "status": found["status"]}
    )
    facts["accuracy"] = main_curves(runs, "accuracy").groupby("run")["value"].last()
    means = runs[(runs["scope"] == "mean_model") & (runs["metric"] == "accuracy")].sort_values(
        "round"
    )
    facts["mean model"] = means.groupby("run")["value"].last()  # NaN at a server
    rates = runs[(runs["scope"] == "run") & (runs["metric"] == "rate") & (runs["round"] > 0)][
        ["run", "round", "value"]
    ]
    facts["rate"] = rates.groupby("run")["value"].max()
    facts = facts[facts["status"] == "done"]
    return facts, rates.merge(facts[["schedule", "seed"]], left_on="run", right_index=True)


def interval(difference: pd.Series) -> str:
    mean, low, high = t_interval(difference.dropna().to_numpy())
    return f"{mean:+.4f} ({low:+.4f} to {high:+.4f})"


def table(facts: pd.DataFrame) -> list[str]:
    grid = facts.pivot(index="seed", columns="schedule", values="accuracy")
    means = facts.pivot(index="seed", columns="schedule", values="mean model").dropna(axis=1)
    head = ["schedule", "rate", "rounds paid", "accuracy", *(f"- {name}" for name in BASELINES)]
    head += ["mean model", "- constant"] if len(means.columns) else []
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for name in (name for name in SCHEDULES if name in grid):
        cells = [
            name,
            f"{facts[facts['schedule'] == name]['rate'].max():.3g}",
            SPENT.get(name, "T"),
        ]
        cells += [f"{grid[name].mean():.4f} ± {grid[name].std():.4f}"]
        cells += [
            "" if name == baseline else interval(grid[name] - grid[baseline])
            for baseline in BASELINES
        ]
        if name in means:
            cells += [f"{means[name].mean():.4f} ± {means[name].std():.4f}"]
            cells += ["" if name == "constant" else interval(means[name] - means["constant"])]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def shape(rates: pd.DataFrame) -> str:
    """How the refined schedules of all seeds look: the rates as shares of the largest."""
    runs = [
        run.sort_values("round")["value"].to_numpy()
        for _, run in rates[rates["schedule"] == "refined"].groupby("run")
    ]
    first, peak = [run[0] / run.max() for run in runs], [run.argmax() + 1 for run in runs]
    half, end = (
        [np.flatnonzero(run > run.max() / 2).max() + 2 for run in runs],
        [run[-len(run) // 10] / run.max() for run in runs],
    )
    return (
        f"refined: the first rate is {min(first):.2f} to {max(first):.2f} of the largest, which"
        f" comes in round {min(peak)} to {max(peak)}; half of it in round {min(half)} to"
        f" {max(half)}; a tenth of the rounds before the end {min(end):.3f} to {max(end):.3f} is"
        " left"
    )


def draw(places: dict[str, tuple[pd.DataFrame, pd.DataFrame]], path: Path) -> None:
    """Left the rate over rounds of one run of each schedule (at a server), right the paired
    differences from a constant rate."""
    figure = Figure(figsize=(9.5, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    left, *others = figure.subplots(1, 1 + len(places))
    _, rates = places["server"]
    names = [name for name in SCHEDULES if "," not in name]
    for number, name in enumerate(names):
        curve = rates[(rates["schedule"] == name) & (rates["seed"] == rates["seed"].min())]
        left.plot(curve["round"], curve["value"], color=f"C{number}", label=name, linewidth=1.2)
    left.set_xlabel("round")
    left.set_title("rate, one seed at a server", fontsize=9)
    left.legend(fontsize=7, frameon=False)
    for axes, (place, (facts, _)) in zip(others, places.items(), strict=True):
        grid = facts.pivot(index="seed", columns="schedule", values="accuracy")
        shown = [name for name in SCHEDULES[1:] if name in grid]
        ends = np.array([t_interval((grid[name] - grid["constant"]).to_numpy()) for name in shown])
        at = np.arange(len(shown))[::-1]
        axes.errorbar(
            ends[:, 0],
            at,
            xerr=[ends[:, 0] - ends[:, 1], ends[:, 2] - ends[:, 0]],
            fmt="o",
            capsize=2,
            color="C0",
            markersize=4,
        )
        axes.axvline(0, color="0.6", linewidth=0.8)
        axes.set_yticks(at, shown, fontsize=8)
        axes.set_title(f"{PLACES[place]}, {len(grid)} seeds", fontsize=9)
        axes.set_xlabel("accuracy less the constant rate's")
    for axes in (left, *others):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=90)


def main() -> None:
    folder = Path(sys.argv[1])
    places = {place: finals(folder / place) for place in PLACES if (folder / place).is_dir()}
    for place, (facts, rates) in places.items():
        print(
            "",
            f"{PLACES[place]}: {facts['seed'].nunique()} seeds, mean ± standard deviation, 95 %"
            " t-intervals",
            "",
            *table(facts),
            "",
            shape(rates),
            sep="\n",
        )
    if len(sys.argv) > 2:
        draw(places, Path(sys.argv[2]))


if __name__ == "__main__":
    main()
