"""How soon a curve reaches a target."""

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
    curve: Iterable[tuple[int, float]] | Mapping[int, float] | pd.Series, target: float, window: int = 3, lower: bool = False
) -> int | None:
    """The first round whose mean over the last `window` evaluations reaches `target`; None: not reached.

    curve: (round, value) in order of rounds, or a mapping or pandas Series by round; lower: the value is to fall to the target (a loss).
    A mean over fewer than `window` evaluations does not count, nor does one with a NaN in it.
    """
    require(window >= 1, "window", window, "accepted is an integer of at least 1")
    pairs = curve.items() if hasattr(curve, "items") else curve
    recent: deque[float] = deque(maxlen=window)
    for round, value in pairs:
        recent.append(float(value))
        mean = sum(recent) / window
        reached = (mean <= target if lower else mean >= target) or math.isclose(mean, target, rel_tol=1e-12)  # (0.7 + 0.7 + 0.7) / 3 < 0.7
        if len(recent) == window and reached:
            return int(round)
    return None
