"""Tables and a picture of this experiment from its runs.

python measure.py suite FOLDER [PICTURE] for each setting and method: accuracy, rounds and gradients
to a target python measure.py interval FOLDER [PICTURE] the local interval at equal rounds and at
equal gradients python measure.py tuned SUITE TUNED tuned step sizes beside those of the suite, the
runs of each in a folder

Gradients are those of a client that takes part in every round: rounds x local steps x gradients of
a step (2 with a step uphill).
"""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from fedsim.analysis import load_runs, rounds_to_target
from fedsim.analysis.comparison import main_curves, t_interval
from fedsim.analysis.curves import DASHES, PALETTE

UPHILL = ("fedsam", "mofedsam", "fedgamma", "fedspeed", "fedsmoo")
BASELINE = "average_participating"
LAST = 3  # evaluations whose mean is a run's value
# Where all agree
SHARED = {
    "partition.alpha": 0.1,
    "partition.clients": 100,
    "local.steps": 25,
    "local.rate": 0.1,
    "aggregator.rate": 1.0,
}


def curves_of(folder: Path) -> pd.DataFrame:
    """algorithm, setting, clients, steps, rates, seed, run, round, gradients, value, smooth (mean
    of evaluations)."""
    table = load_runs(folder)
    for name, value in SHARED.items():
        if name not in table:
            table[name] = value
    table = table[table["status"] == "done"]
    about = table[["run", "algorithm", "seed", *SHARED]].drop_duplicates("run")
    curves = main_curves(table, "accuracy").merge(about, on="run")
    curves["setting"] = [
        "iid" if math.isnan(alpha) else f"{alpha:g}"
        for alpha in curves["partition.alpha"].astype(float)
    ]
    curves = curves.rename(columns={"partition.clients": "clients", "local.steps": "steps"}).astype(
        {"steps": int, "seed": int}
    )
    curves["gradients"] = (
        curves["round"]
        * curves["steps"]
        * curves["algorithm"].isin(UPHILL).map({True: 2, False: 1})
    )
    curves = curves.sort_values(["run", "round"])
    curves["smooth"] = curves.groupby("run")["value"].transform(
        lambda values: values.rolling(LAST, min_periods=1).mean()
    )
    return curves


def spread(values: pd.Series) -> str:
    return f"{values.mean():.4f}" + (f" ± {values.std():.4f}" if len(values) > 1 else "")


def row(runs: pd.DataFrame, base: pd.DataFrame, target: float) -> list[str]:
    """The cells of one method in one setting."""
    reached = [
        rounds_to_target(zip(run["round"], run["value"], strict=True), target, LAST)
        for _, run in runs.groupby("run")
    ]
    rounds = pd.Series([math.inf if each is None else each for each in reached]).median()
    gradients = rounds * (runs["gradients"] / runs["round"]).max()
    cost = ["not reached", ""] if math.isinf(rounds) else [f"{rounds:.0f}", f"{gradients:.0f}"]
    return [spread(last(runs)), difference(runs, base), *cost]


def last(curves: pd.DataFrame) -> pd.Series:
    """The value of each seed."""
    return curves.groupby("seed")["smooth"].last()


def difference(runs: pd.DataFrame, base: pd.DataFrame) -> str:
    """Paired over seeds, with a 95 % t-interval; nothing for a method and itself."""
    if runs is base:
        return ""
    mean, low, high = t_interval((last(runs) - last(base)).dropna().to_numpy())
    return f"{mean:+.4f}" + ("" if math.isnan(low) else f" ({low:+.4f} to {high:+.4f})")


def percent_below(base: pd.DataFrame) -> float:
    """The target: what the baseline reaches, to a percent below."""
    return math.floor(100 * last(base).mean()) / 100


def suite(curves: pd.DataFrame, picture: Path | None) -> None:
    """One table for each setting, the best method last."""
    for (clients, setting), part in curves.groupby(["clients", "setting"]):
        base = part[part["algorithm"] == BASELINE]
        target = percent_below(base)
        print(
            f"\n{clients} clients, {setting}; seeds"
            f" {', '.join(map(str, sorted(part['seed'].unique())))}; target {target:g}\n"
        )
        print(
            "| | accuracy | from FedAvg | rounds to target | gradients to target | FedSpeed's lead"
            " over it |\n|---|---|---|---|---|---|"
        )
        groups = {
            name: runs if name != BASELINE else base for name, runs in part.groupby("algorithm")
        }
        for name, runs in sorted(groups.items(), key=lambda pair: last(pair[1]).mean()):
            print(
                f"| `{name}` | "
                + " | ".join([*row(runs, base, target), difference(groups["fedspeed"], runs)])
                + " |"
            )
    if picture is not None:
        draw(curves[(curves["clients"] == 100) & (curves["setting"] == "0.1")], picture, 0.2)


def interval(curves: pd.DataFrame, picture: Path | None) -> None:
    """Accuracy of each local interval after as many rounds, and after as many gradients."""
    ends = curves.groupby("run")[["round", "gradients"]].max().min()
    print(
        f"| | K | after {ends['round']} rounds | after {ends['gradients']} gradients | (its rounds)"
        " |\n|---|---|---|---|---|"
    )
    for (algorithm, steps), part in curves.groupby(["algorithm", "steps"]):
        at_rounds = part[part["round"] <= ends["round"]].groupby("seed")["smooth"].last()
        spent = part[part["gradients"] <= ends["gradients"]].groupby("seed").last()
        print(
            f"| `{algorithm}` | {steps} | {spread(at_rounds)} | {spread(spent['smooth'])} |"
            f" {spent['round'].max()} |"
        )
    if picture is not None:
        draw(
            curves.assign(algorithm=curves["algorithm"] + ", K = " + curves["steps"].astype(str)),
            picture,
            0.2,
        )


def tuned(plain: pd.DataFrame, chosen: pd.DataFrame) -> None:
    """Each method with the suite's step sizes and with those chosen for it: against the baseline
    with its own, and against itself."""
    plain = plain[(plain["clients"] == 100) & (plain["setting"] == "0.1")]
    before, after = (dict(list(each.groupby("algorithm"))) for each in (plain, chosen))
    base = after[BASELINE]
    target = percent_below(base)
    print(f"seeds {', '.join(map(str, sorted(chosen['seed'].unique())))}; target {target:g}\n")
    print(
        "| | client rate | server rate | untuned | tuned | gain | tuned, from FedAvg | rounds to"
        " target | gradients to target ",
        end="",
    )
    print("| FedSpeed's lead over it |\n|---|---|---|---|---|---|---|---|---|---|")
    for name, runs in sorted(after.items(), key=lambda pair: last(pair[1]).mean()):
        rates = [f"{runs[each].iloc[0]:.3g}" for each in ("local.rate", "aggregator.rate")]
        value, *rest = row(runs, base, target)
        cells = [
            *rates,
            spread(last(before[name])),
            value,
            difference(runs, before[name]),
            *rest,
            difference(after["fedspeed"], runs),
        ]
        print(f"| `{name}` | " + " | ".join(cells) + " |")


def draw(curves: pd.DataFrame, picture: Path, height: float) -> None:
    """Accuracy against rounds, and against gradients: the uppermost `height`."""
    figure = Figure(figsize=(9.6, 4.8), dpi=90, layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for axes, over, label in zip(
        panels,
        ("round", "gradients"),
        ("round", "gradients of a client that always takes part"),
        strict=True,
    ):
        for number, (name, part) in enumerate(curves.groupby("algorithm", sort=False)):
            mean = part.groupby(over)["smooth"].mean()
            look = {
                "color": PALETTE[number % len(PALETTE)],
                "linestyle": DASHES[number // len(PALETTE) % len(DASHES)],
            }
            axes.plot(mean.index, mean, label=name, linewidth=1.4, **look)
        axes.set_xlabel(label)
        axes.grid(color="0.9")
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel(
        f"accuracy, mean of {LAST} evaluations and {curves['seed'].nunique()} seeds"
    )
    top = curves["smooth"].max()
    panels[0].set_ylim(top - height, top + 0.01)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    figure.savefig(picture)


def main(kind: str, folder: str, other: str | None = None) -> None:
    curves = curves_of(Path(folder))
    if kind == "tuned":
        tuned(curves, curves_of(Path(other or ".")))
    else:
        {"suite": suite, "interval": interval}[kind](curves, Path(other) if other else None)


if __name__ == "__main__":
    main(*sys.argv[1:])
