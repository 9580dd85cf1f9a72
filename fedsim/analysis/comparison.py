"""Methods compared over seeds: final values, rounds to a target, cost, and paired differences."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from fedsim.analysis.labels import place_runs, settings_of_runs
from fedsim.analysis.runs import load_runs
from fedsim.analysis.targets import LOWER_IS_BETTER, rounds_to_target
from fedsim.errors import ConfigError, require

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure
    from rich.console import Console

    Runs = pd.DataFrame | str | Path | Iterable[str | Path]


@dataclass(frozen=True)
class Comparison:
    """What `compare` found.

    table: one row per (panel, method): panel, method, mean and std (over seeds, n - 1 in the
    denominator) of the final value, n runs, unfinished runs (left out), rounds_to_target (median
    over runs, inf: not reached; missing without target), reached (runs that reached it), bytes (up
    and down) and seconds (means); differences: one row per (panel, pair of methods): panel, method,
    baseline, difference (mean of method - baseline over common seeds), low and high (95 %
    t-interval, missing for one seed), n seeds; curves: panel, method, seed, run, status, counted
    (in the table), round, value; panel: the column that tells panels apart; notes: what was left
    out.
    """

    table: pd.DataFrame
    differences: pd.DataFrame
    curves: pd.DataFrame
    metric: str
    panel: str | None
    target: float | None
    notes: list[str]

    def print(self, console: Console | None = None) -> None:
        """Print the tables on the terminal."""
        from fedsim.analysis.tables import print_comparison

        print_comparison(self, console)

    def to_markdown(self) -> str:
        """The tables as Markdown."""
        from fedsim.analysis.tables import markdown

        return markdown(self)

    def to_csv(self, path: str | Path) -> None:
        """Write the table to `path` and the differences beside it, to <name>-differences.csv."""
        from fedsim.analysis.tables import write_csv

        write_csv(self, Path(path))

    def plot(self, path: str | Path | None = None, band: str = "std") -> Figure:
        """The curves (see `fedsim.analysis.curves.plot_comparison`)."""
        from fedsim.analysis.curves import plot_comparison

        return plot_comparison(self, path, band)


def compare(
    runs: Runs,
    metric: str = "accuracy",
    by: str | Sequence[str] = "auto",
    panel: str | None = "participation",
    last: int | float = 1,
    target: float | None = None,
    baseline: str | None = None,
    statuses: Sequence[str] = ("done",),
) -> Comparison:
    """Compare the methods found in `runs` (a table from `load_runs`, or folders).

    metric: of the server's model, or of the nodes on a graph ("accuracy": accuracy_mean), or
    "scope/metric" for another; by, panel: see `fedsim.analysis.labels.place_runs`; last: the final
    value is the mean over that many last evaluations, or that share of them if below 1; target: for
    rounds to target; baseline: the method that the others are compared with (default: every pair);
    statuses: runs that count in the tables. Intervals are for each pair alone, not for all pairs at
    once. Raises ConfigError for a name that is not there, or if one method has several runs of a
    seed that differ in their settings.
    """
    import pandas as pd

    require(
        last > 0, "last", last, "accepted is a number of evaluations, or a share of them below 1"
    )
    table = runs if isinstance(runs, pd.DataFrame) else load_runs(runs)
    require(not table.empty, "runs", table.shape, "runs with at least one evaluation")
    placed, notes = _one_run_per_seed(place_runs(table, by, panel), settings_of_runs(table), by)
    main = main_curves(table, metric)
    require(
        not main.empty,
        "metric",
        metric,
        f"a metric of the runs: {', '.join(sorted(_metrics(table)))}",
    )
    curves = placed[["panel", "method", "seed", "run", "status"]].merge(main, on="run")
    cells = curves[["panel", "method"]].drop_duplicates()
    methods = list(dict.fromkeys(cells["method"]))
    require(
        baseline is None or baseline in methods,
        "baseline",
        baseline,
        f"one of {', '.join(methods)}",
    )
    curves.insert(5, "counted", curves["status"].isin(statuses))
    facts = _facts(
        curves[curves["counted"]], table, last, target, metric.rpartition("/")[2] in LOWER_IS_BETTER
    )
    unfinished = placed[~placed["status"].isin(statuses)]
    notes += [
        f"{row.run} ({row.panel}, {row.method}, seed {row.seed}) is {row.status}: left out"
        for row in unfinished.itertuples()
    ]
    notes += [
        f"{run} has no evaluation and is {status}: left out"
        for run, status in table.attrs.get("without_rows", [])
    ]
    summary = [
        _cell(panel, method, facts, unfinished, target)
        for panel, method in cells.itertuples(index=False, name=None)
    ]
    return Comparison(
        pd.DataFrame(summary),
        _differences(facts, methods, baseline),
        curves,
        metric,
        panel,
        target,
        notes,
    )


def plot(
    runs: Runs,
    metric: str = "accuracy",
    by: str | Sequence[str] = "auto",
    panel: str | None = "participation",
    target: float | None = None,
    band: Literal["std", "minmax"] = "std",
    path: str | Path | None = None,
) -> Figure:
    """Curves of many runs (a table from `load_runs`, or folders): the mean over seeds with a band,
    one panel per value of `panel`.

    See `compare` for metric, by, panel and target, and `plot_comparison` for band and path.
    """
    from fedsim.analysis.curves import plot_comparison

    return plot_comparison(compare(runs, metric, by, panel, target=target), path, band)


def main_curves(table: pd.DataFrame, metric: str) -> pd.DataFrame:
    """run, round, value of one metric: of the server's model, else the mean over nodes, else of the
    nodes together, else of the mean model, else of the run. "scope/metric" names one outright."""
    import pandas as pd

    scope, _, name = metric.rpartition("/")
    usual = [
        ("server", name),
        ("nodes", f"{name}_mean"),
        ("nodes", name),
        ("mean_model", name),
        ("run", name),
    ]
    places = [(scope, name)] if scope else usual
    whole = table[table["node"] < 0]
    parts: list[pd.DataFrame] = []
    for scope, name in places:
        part = whole[(whole["scope"] == scope) & (whole["metric"] == name)]
        known = set().union(*(earlier["run"] for earlier in parts))
        parts.append(part.loc[~part["run"].isin(known), ["run", "round", "value"]])
    return pd.concat(parts, ignore_index=True).sort_values(
        ["run", "round"], kind="stable", ignore_index=True
    )


def _metrics(table: pd.DataFrame) -> set[str]:
    pairs = table.loc[table["node"] < 0, ["scope", "metric"]].drop_duplicates()
    return {f"{scope}/{metric}" for scope, metric in pairs.itertuples(index=False, name=None)}


def _one_run_per_seed(
    placed: pd.DataFrame, settings: list[str], by: str | Sequence[str]
) -> tuple[pd.DataFrame, list[str]]:
    """One run for each (panel, method, seed). The same run made twice counts once: a done one
    rather than another, a later rather than an earlier."""
    notes, dropped = [], []
    for (_, method, seed), group in placed.groupby(["panel", "method", "seed"], sort=False):
        differing = [name for name in settings if group[name].nunique(dropna=False) > 1]
        if len(group) > 1 and differing:
            problem = (
                f"{method} has {len(group)} runs of seed {seed} that differ in"
                f" {', '.join(differing)}; add them, or use auto"
            )
            raise ConfigError("by", by, problem)
        best = max(group.index, key=lambda index: (group.loc[index, "status"] == "done", index))
        dropped += [index for index in group.index if index != best]
        notes += [
            f"{run} repeats {group.loc[best, 'run']}: left out"
            for index, run in group["run"].items()
            if index != best
        ]
    return placed.drop(index=dropped), notes


def _facts(
    curves: pd.DataFrame, table: pd.DataFrame, last: int | float, target: float | None, lower: bool
) -> pd.DataFrame:
    """One row for each run: panel, method, seed, final, reached (round, inf: not reached), bytes,
    seconds."""
    import pandas as pd

    totals = table[
        (table["scope"] == "run") & table["metric"].isin(("bytes_up", "bytes_down", "seconds"))
    ]
    # They are running totals
    totals = totals.pivot_table(index="run", columns="metric", values="value", aggfunc="last")
    facts = []
    for (panel, method, seed, run), curve in curves.groupby(
        ["panel", "method", "seed", "run"], sort=False
    ):
        values = curve["value"].to_numpy()
        count = math.ceil(last * len(values)) if last < 1 else min(int(last), len(values))
        reached = (
            None
            if target is None
            else rounds_to_target(zip(curve["round"], values, strict=True), target, lower=lower)
        )
        total = totals.loc[run] if run in totals.index else {}
        facts.append(
            {
                "panel": panel,
                "method": method,
                "seed": seed,
                "final": values[-count:].mean(),
                "reached": math.inf if reached is None else reached,
                "bytes": total.get("bytes_up", math.nan) + total.get("bytes_down", math.nan),
                "seconds": total.get("seconds", math.nan),
            }
        )
    frame = pd.DataFrame(
        facts, columns=["panel", "method", "seed", "final", "reached", "bytes", "seconds"]
    )
    return frame.astype(dict.fromkeys(("final", "reached", "bytes", "seconds"), "float64"))


def _cell(
    panel: str, method: str, facts: pd.DataFrame, unfinished: pd.DataFrame, target: float | None
) -> dict[str, object]:
    cell = facts[(facts["panel"] == panel) & (facts["method"] == method)]
    final, reached = cell["final"].to_numpy(), cell["reached"].to_numpy()
    n = len(cell)
    return {
        "panel": panel,
        "method": method,
        "mean": final.mean() if n else math.nan,
        "std": final.std(ddof=1) if n > 1 else math.nan,
        "n": n,
        "unfinished": int(
            ((unfinished["panel"] == panel) & (unfinished["method"] == method)).sum()
        ),
        "rounds_to_target": np.median(reached) if n and target is not None else math.nan,
        "reached": int(np.isfinite(reached).sum()) if target is not None else 0,
        "bytes": cell["bytes"].mean(),
        "seconds": cell["seconds"].mean(),
    }


def _differences(facts: pd.DataFrame, methods: list[str], baseline: str | None) -> pd.DataFrame:
    import pandas as pd

    pairs = [(a, b) for number, b in enumerate(methods) for a in methods[number + 1 :]]
    if baseline is not None:
        pairs = [(method, baseline) for method in methods if method != baseline]
    found = []
    for panel, cell in facts.groupby("panel", sort=False):
        finals = {
            method: dict(zip(part["seed"], part["final"], strict=True))
            for method, part in cell.groupby("method", sort=False)
        }
        for a, b in pairs:
            common = [seed for seed in finals.get(a, {}) if seed in finals.get(b, {})]
            if common:
                mean, low, high = t_interval(
                    np.array([finals[a][seed] - finals[b][seed] for seed in common])
                )
                found.append(
                    {
                        "panel": panel,
                        "method": a,
                        "baseline": b,
                        "difference": mean,
                        "low": low,
                        "high": high,
                        "n": len(common),
                    }
                )
    return pd.DataFrame(
        found, columns=["panel", "method", "baseline", "difference", "low", "high", "n"]
    )


def t_interval(values: np.ndarray, confidence: float = 0.95) -> tuple[float, float, float]:
    """Mean and the ends of its two-sided Student interval; the ends are NaN for one value. values:
    [n]."""
    from scipy import stats

    mean, n = float(np.mean(values)), len(values)
    if n < 2:
        return mean, math.nan, math.nan
    half = float(stats.t.ppf((1 + confidence) / 2, n - 1) * np.std(values, ddof=1) / math.sqrt(n))
    return mean, mean - half, mean + half
