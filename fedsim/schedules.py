"""Learning rates over rounds. A schedule's factor multiplies `local.rate`."""

from __future__ import annotations

from fedsim.component import OpenProbability, component


@component
class Schedule:
    """Base of the schedules."""

    def factor(self, round: int, rounds: int) -> float:
        """Factor in [0, 1] of the learning rate in round `round` = 0..rounds-1 of a run of `rounds`."""
        raise NotImplementedError


@component
class Constant(Schedule):
    """The same rate in every round."""

    def factor(self, round: int, rounds: int) -> float:
        return 1.0


@component
class Exponential(Schedule):
    """decay ** round, as in FedSpeed's experiments (Sun et al., ICLR 2023: 0.998).

    decay: factor from one round to the next, in (0, 1].
    """

    decay: OpenProbability = 0.998

    def factor(self, round: int, rounds: int) -> float:
        return self.decay**round


@component
class Linear(Schedule):
    """1 - round / rounds: falls to zero just after the last round (Defazio et al. 2023, arXiv 2310.07831)."""

    def factor(self, round: int, rounds: int) -> float:
        return 1.0 - round / rounds
