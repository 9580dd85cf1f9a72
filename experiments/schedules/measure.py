"""Schedules compared under their own tuned rates: python measure.py FOLDER [PICTURE]

Reads the runs below FOLDER/server and FOLDER/graph; prints, for each place, the final accuracy of every schedule and its paired differences
from the constant rate and from linear decay; PICTURE gets the rates over rounds and the differences.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import fedsim
from fedsim.analysis.compare import main_curves, t_interval

PLACES = {"server": "at a server", "graph": "over a graph"}
SCHEDULES = ["constant", "two_steps", "cosine", "linear", "rex", "uba", "refined", "refined, half", "linear, twice"]
SPENT = {"refined": "2T (base run of T)", "refined, half": "T (base run of T/2)", "linear, twice": "2T"}
BASELINES = ("constant", "linear")


def finals(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """One row for each run: schedule, seed, rate, accuracy (mean over nodes on a graph); and every round's rate."""
    runs = fedsim.load_runs(folder)
    found = runs.drop_duplicates("run").set_index("run")
    schedule = found["choices.schedule"]
    rounds = runs[runs["scope"] == "run"].groupby("run")["round"].max()
    usual = rounds.median()
    ending = rounds.map(lambda each: ", half" if each < usual else ", twice" if each > usual else "")
    facts = pd.DataFrame({"schedule": schedule + ending, "seed": found["seed"], "status": found["status"]})
    facts["accuracy"] = main_curves(runs, "accuracy").groupby("run")["value"].last()
    rates = runs[(runs["scope"] == "run") & (runs["metric"] == "rate") & (runs["round"] > 0)][["run", "round", "value"]]
    facts["rate"] = rates.groupby("run")["value"].max()
    facts = facts[facts["status"] == "done"]
    return facts, rates.merge(facts[["schedule", "seed"]], left_on="run", right_index=True)


def table(facts: pd.DataFrame) -> list[str]:
    grid = facts.pivot(index="seed", columns="schedule", values="accuracy")
    lines = ["| schedule | rate | rounds paid | accuracy | - constant | - linear |", "|---|---|---|---|---|---|"]
    for name in SCHEDULES:
        if name not in grid:
            continue
        cells = []
        for baseline in BASELINES:
            mean, low, high = t_interval((grid[name] - grid[baseline]).dropna().to_numpy())
            cells.append("" if name == baseline else f"{mean:+.4f} ({low:+.4f} to {high:+.4f})")
        part = facts[facts["schedule"] == name]
        rate, spent = part["rate"].max(), SPENT.get(name, "T")
        final = f"{part['accuracy'].mean():.4f} ± {part['accuracy'].std():.4f}"
        lines.append(f"| {name} | {rate:.3g} | {spent} | {final} | {cells[0]} | {cells[1]} |")
    return lines


def draw(places: dict[str, tuple[pd.DataFrame, pd.DataFrame]], path: Path) -> None:
    """Left the rate over rounds of one run of each schedule (at a server), right the paired differences from a constant rate."""
    figure = Figure(figsize=(9.5, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    left, *others = figure.subplots(1, 1 + len(places))
    _, rates = places["server"]
    names = [name for name in SCHEDULES if "," not in name]
    for number, name in enumerate(names):
        curve = rates[(rates["schedule"] == name) & (rates["seed"] == rates["seed"].min())]
        left.plot(curve["round"], curve["value"], color=f"C{number}", label=name, linewidth=1.2)
    left.set_xlabel("round")
    left.set_title("tuned rate, at a server", fontsize=9)
    left.legend(fontsize=7, frameon=False)
    for axes, (place, (facts, _)) in zip(others, places.items(), strict=True):
        grid = facts.pivot(index="seed", columns="schedule", values="accuracy")
        shown = [name for name in SCHEDULES[1:] if name in grid]
        ends = np.array([t_interval((grid[name] - grid["constant"]).to_numpy()) for name in shown])
        at = np.arange(len(shown))[::-1]
        axes.errorbar(ends[:, 0], at, xerr=[ends[:, 0] - ends[:, 1], ends[:, 2] - ends[:, 0]], fmt="o", capsize=2, color="C0", markersize=4)
        axes.axvline(0, color="0.6", linewidth=0.8)
        axes.set_yticks(at, shown, fontsize=8)
        axes.set_title(f"accuracy less the constant rate's, {PLACES[place]}", fontsize=9)
    for axes in (left, *others):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=90)


def main() -> None:
    folder = Path(sys.argv[1])
    places = {place: finals(folder / place) for place in PLACES if (folder / place).is_dir()}
    for place, (facts, _) in places.items():
        print(
            "",
            f"{PLACES[place]}: {facts['seed'].nunique()} seeds, mean ± standard deviation, 95 % t-intervals",
            "",
            *table(facts),
            sep="\n",
        )
    if len(sys.argv) > 2:
        draw(places, Path(sys.argv[2]))


if __name__ == "__main__":
    main()
