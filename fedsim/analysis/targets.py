"""How soon a curve reaches a target, and how soon each node of a graph does and stays there."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from fedsim.errors import require

if TYPE_CHECKING:
    import pandas as pd

LOWER_IS_BETTER = ("loss", "objective", "consensus_distance")


def rounds_to_target(
    curve: Iterable[tuple[int, float]] | Mapping[int, float] | pd.Series,
    target: float,
    window: int = 3,
    lower: bool = False,
) -> int | None:
    """The first round whose mean over the last `window` evaluations reaches `target`; None: not
    reached.

    curve: (round, value) in order of rounds, or a mapping or pandas Series by round; lower: the
    value is to fall to the target (a loss). A mean over fewer than `window` evaluations does not
    count, nor does one with a NaN in it.
    """
    require(window >= 1, "window", window, "accepted is an integer of at least 1")
    pairs = curve.items() if hasattr(curve, "items") else curve
    recent: deque[float] = deque(maxlen=window)
    for round, value in pairs:
        recent.append(float(value))
        mean = sum(recent) / window
        # (0.7 + 0.7 + 0.7) / 3 < 0.7
        reached = (mean <= target if lower else mean >= target) or math.isclose(
            mean, target, rel_tol=1e-12
        )
        if len(recent) == window and reached:
            return int(round)
    return None


def rounds_per_node(table: pd.DataFrame, target: float, metric: str = "accuracy") -> pd.DataFrame:
    """For each run and node the first round from which the node stays at the target: at that
    evaluation and every later one its value is `target` or better. inf: the last evaluation is
    worse.

    table: from `load_runs` or a result's `metrics`, of runs with evaluation.per_node=true. Returns
    columns run (missing if the table has none), node, round (float64), in order of runs and nodes.
    The mean of `round` over the nodes is what an ordinary node needs, its greatest what the slowest
    one needs. Raises ConfigError where nodes were recorded at the end alone.
    """
    rows = table[(table["scope"] == "node") & (table["metric"] == metric)]
    keys = [name for name in ("run", "node") if name in rows]
    evaluations = rows.groupby(keys, sort=False)["round"].nunique()
    recorded = len(rows) > 0 and evaluations.min() > 1
    require(
        recorded,
        "runs",
        f"{metric} of {len(evaluations)} nodes",
        "runs that recorded each node all along (evaluation.per_node=true)",
    )
    worse = rows["value"] > target if metric in LOWER_IS_BETTER else rows["value"] < target
    worse |= rows["value"].isna()
    ordered = rows.assign(worse=worse).sort_values("round", kind="stable")
    return (
        ordered.groupby(keys, sort=True)
        .apply(_stays_from, include_groups=False)
        .rename("round")
        .reset_index()
    )


def _stays_from(curve: pd.DataFrame) -> float:
    """The round after the last one that is worse. curve: round, worse, in order of rounds."""
    rounds, worse = curve["round"].to_numpy(), curve["worse"].to_numpy()
    since = len(worse) - int(worse[::-1].argmax()) if worse.any() else 0
    return float(rounds[since]) if since < len(rounds) else math.inf
