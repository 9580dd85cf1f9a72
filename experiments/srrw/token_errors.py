"""The mean squared error of a walk's tokens with its standard error: `metrics=[token_errors]`, from
the repository's root."""

from __future__ import annotations

import numpy as np

from fedsim.component import component
from fedsim.evaluation import DistanceToOptimum, Look
from fedsim.evaluation.distance_to_optimum import minimiser


@component
class TokenErrors(DistanceToOptimum):
    """Mean over the tokens of ||x - x*||^2 and its standard error (tokens are independent)."""

    def measure(self, look: Look) -> dict[str, float]:
        known = getattr(self, "_known", None)
        if known is None or known[0] is not look.task:
            known = self._known = (look.task, minimiser(look.task))
        errors = np.square(look.models - known[1]).sum(axis=1)
        return {
            "distance_to_optimum": float(errors.mean()),
            "standard_error": float(errors.std(ddof=1) / np.sqrt(len(errors))),
        }
