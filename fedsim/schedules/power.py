"""The schedule of stochastic approximation."""

from __future__ import annotations

from fedsim.component import OpenProbability, component
from fedsim.schedules.decays import Schedule


@component
class Power(Schedule):
    """(n + 1)^-exponent in round n = 0, 1, ..., whatever the length of the run: summable squares
    above 1/2, as Robbins and Monro (1951) ask, and the model's step size in SA-SRRW (Hu, Doshi, Eun
    2024, there beta_n).

    exponent: b in (0, 1].
    """

    exponent: OpenProbability = 0.9

    def shape(self, round: int, rounds: int) -> float:
        return (round + 1.0) ** -self.exponent
