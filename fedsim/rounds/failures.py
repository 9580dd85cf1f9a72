"""Clients that fail, as a simulated condition, and what is done with updates that cannot be
used."""

from __future__ import annotations

from typing import Literal

import numpy as np

from fedsim import rng
from fedsim.component import Positive, Probability, component


@component
class Failures:
    """Which clients of a cohort fail in a round, and what happens to updates that are not finite or
    too long.

    dropout: probability that a client drops out in mid-round: it received the model, and nothing of
    it arrives or is kept; broken: probability that a client's update arrives as NaN; policy: refuse
    (the run ends as diverged, with its curve), drop (the client counts as absent in that round; how
    many is in the metrics) or keep (averaged as it is); max_norm: longest Euclidean norm of an
    update that is used (null: any).
    """

    dropout: Probability = 0.0
    broken: Probability = 0.0
    policy: Literal["refuse", "drop", "keep"] = "refuse"
    max_norm: Positive | None = None

    def dropouts(self, seed: int, round: int, cohort: np.ndarray) -> np.ndarray:
        """Who drops out, bool [S]."""
        return self._struck(self.dropout, seed, "dropout", round, cohort)

    def breaks(self, seed: int, round: int, cohort: np.ndarray) -> np.ndarray:
        """Whose update is made NaN, bool [S]."""
        return self._struck(self.broken, seed, "broken update", round, cohort)

    def unusable(self, norms: np.ndarray) -> np.ndarray:
        """Which updates of these norms cannot be used, bool [S]."""
        return ~np.isfinite(norms) | (norms > (np.inf if self.max_norm is None else self.max_norm))

    @staticmethod
    def _struck(
        probability: float, seed: int, purpose: str, round: int, cohort: np.ndarray
    ) -> np.ndarray:
        if not probability:
            return np.zeros(len(cohort), bool)
        return rng.uniform(seed, purpose, round, cohort) < probability
