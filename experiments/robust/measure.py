"""Rules against attacks, as tables and a heat map: python measure.py FOLDER [PICTURE]

Reads all runs below FOLDER and prints, for each partition, the final accuracy of every rule under
every attack, and paired differences.
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

RULES = ["average_participating", "median", "trimmed_mean", "multi_krum", "krum"]
ATTACKS = [
    "none",
    "label_flip",
    "little_is_enough",
    "little_is_enough_z1.5",
    "inner_product",
    "sign_flip",
    "gaussian",
    "sign_flip_x5",
]
PARTITIONS = [1.0, 0.1]


def finals(runs: pd.DataFrame) -> pd.DataFrame:
    """Final accuracy of each run: alpha, attack, rule, seed, accuracy. Runs that have not ended are
    left out."""
    last = main_curves(runs, "accuracy").groupby("run")["value"].last()
    found = runs.drop_duplicates("run").set_index("run")
    found = found.rename(
        columns={"partition.alpha": "alpha", "choices.attack": "attack", "algorithm": "rule"}
    )
    found["rule"] = found["rule"].str.split("+").str[0]
    ended = found["status"].isin(("done", "diverged"))
    return (
        found.loc[ended, ["alpha", "attack", "rule", "seed", "status"]]
        .assign(accuracy=last)
        .reset_index()
    )


def table(found: pd.DataFrame, alpha: float) -> list[str]:
    lines = ["| attack | " + " | ".join(RULES) + " |", "|---|" + "---|" * len(RULES)]
    for attack in ATTACKS:
        cells = []
        for rule in RULES:
            part = found[
                (found["alpha"] == alpha) & (found["attack"] == attack) & (found["rule"] == rule)
            ]["accuracy"]
            cells.append(f"{part.mean():.3f} ± {part.std():.3f}" if len(part) else "-")
        lines.append(f"| {attack} | " + " | ".join(cells) + " |")
    return lines


def interval(difference: pd.Series) -> str:
    mean, low, high = t_interval(difference.dropna().to_numpy())
    return f"{mean:+.3f} ({low:+.3f} to {high:+.3f})"


def less_mean(found: pd.DataFrame, alpha: float) -> list[str]:
    """Each rule less the mean, under the same attack and seed."""
    lines = [
        "| attack | " + " | ".join(f"{rule} - mean" for rule in RULES[1:]) + " |",
        "|---|" + "---|" * (len(RULES) - 1),
    ]
    for attack in ATTACKS:
        part = found[(found["alpha"] == alpha) & (found["attack"] == attack)].pivot(
            index="seed", columns="rule", values="accuracy"
        )
        lines.append(
            f"| {attack} | "
            + " | ".join(interval(part[rule] - part[RULES[0]]) for rule in RULES[1:])
            + " |"
        )
    return lines


def less_none(found: pd.DataFrame, alpha: float) -> list[str]:
    """Each rule under attack less the same rule with nobody attacking, with the same seed: what the
    attack costs it."""
    lines = ["| attack | " + " | ".join(RULES) + " |", "|---|" + "---|" * len(RULES)]
    grid = found[found["alpha"] == alpha].pivot(
        index="seed", columns=["rule", "attack"], values="accuracy"
    )
    for attack in ATTACKS[1:]:
        lines.append(
            f"| {attack} | "
            + " | ".join(interval(grid[rule, attack] - grid[rule, "none"]) for rule in RULES)
            + " |"
        )
    return lines


def draw(found: pd.DataFrame, path: Path) -> None:
    figure = Figure(figsize=(9.5, 4), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(PARTITIONS), sharey=True)
    for axes, alpha in zip(panels, PARTITIONS, strict=True):
        means = (
            found[found["alpha"] == alpha]
            .pivot_table(index="attack", columns="rule", values="accuracy")
            .loc[ATTACKS, RULES]
        )
        image = axes.imshow(means, vmin=0.1, vmax=1, cmap="viridis", aspect="auto")
        for (row, column), value in np.ndenumerate(means.to_numpy()):
            axes.text(
                column,
                row,
                f"{value:.2f}",
                ha="center",
                va="center",
                color="black" if value > 0.6 else "white",
                fontsize=8,
            )
        axes.set_xticks(range(len(RULES)), ["mean", *RULES[1:]], rotation=25, fontsize=8)
        axes.set_yticks(range(len(ATTACKS)), ATTACKS, fontsize=8)
        axes.set_title(f"Dirichlet({alpha:g})")
    figure.colorbar(image, ax=panels, label="final accuracy", fraction=0.03)
    figure.savefig(path, dpi=90)


def main() -> None:
    found = finals(fedsim.load_runs(sys.argv[1]))
    print(
        f"{len(found)} runs, {found['seed'].nunique()} seeds, not done:"
        f" {(found['status'] != 'done').sum()}"
    )
    for alpha in PARTITIONS:
        print(
            "",
            f"Dirichlet({alpha:g}): final accuracy, mean ± standard deviation over seeds",
            "",
            *table(found, alpha),
            sep="\n",
        )
        print(
            "",
            f"Dirichlet({alpha:g}): less the mean under the same attack, paired, 95 % t-intervals",
            "",
            *less_mean(found, alpha),
            sep="\n",
        )
        print(
            "",
            f"Dirichlet({alpha:g}): what the attack costs, paired, 95 % t-intervals",
            "",
            *less_none(found, alpha),
            sep="\n",
        )
    if len(sys.argv) > 2:
        draw(found, Path(sys.argv[2]))


if __name__ == "__main__":
    main()
