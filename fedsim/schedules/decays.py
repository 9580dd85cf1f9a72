"""Schedules with a closed form.

With z = round / rounds, round = 0..rounds-1, those that fall to a floor are 1 in the first round
and reach it just after the last one, so that no round is idle. All run over rounds: the local steps
of a round share one rate.
"""

from __future__ import annotations

import math
from dataclasses import KW_ONLY
from typing import Any

from fedsim.component import (
    NonNegative,
    NonNegativeInt,
    OpenProbability,
    PositiveInt,
    Probability,
    component,
)
from fedsim.errors import require


@component
class Schedule:
    """Base of the schedules.

    warmup: rounds in which the factor rises linearly, 1/(warmup+1), 2/(warmup+1), ...; the schedule
    proper begins after them and has the remaining rounds.
    """

    _: KW_ONLY
    warmup: NonNegativeInt = 0

    def factor(self, round: int, rounds: int) -> float:
        """Factor in [0, 1] of the learning rate in round `round` = 0..rounds-1 of a run of
        `rounds`."""
        if round < self.warmup:
            return (round + 1) / (self.warmup + 1)
        return self.shape(round - self.warmup, rounds - self.warmup)

    def shape(self, round: int, rounds: int) -> float:
        """The factor in round `round` = 0..rounds-1 of the `rounds` after the warm-up."""
        raise NotImplementedError("a schedule defines its shape")

    def ready(self, simulation: Any, resume: bool = False) -> Schedule:
        """The schedule that `simulation` (a fedsim.Simulation) is to use, asked for once, before
        its first round: `self`, unless it is computed from another run of the simulation. resume:
        go on with that run, as with the simulation's own."""
        return self


@component
class Constant(Schedule):
    """The same rate in every round."""

    def shape(self, round: int, rounds: int) -> float:
        return 1.0


@component
class Exponential(Schedule):
    """decay ** round, as in FedSpeed's experiments (Sun et al., ICLR 2023: 0.998).

    decay: factor from one round to the next, in (0, 1].
    """

    decay: OpenProbability = 0.998

    def shape(self, round: int, rounds: int) -> float:
        return self.decay**round


@component
class Step(Schedule):
    """The rate falls by a factor at certain rounds and is constant between them.

    every: at every that many rounds after the warm-up; milestones: or at these rounds (give one of
    the two); decay: the factor, in (0, 1].
    """

    every: PositiveInt | None = 30
    milestones: list[PositiveInt] | None = None
    decay: OpenProbability = 0.1

    def __post_init__(self) -> None:
        alone = (self.every is None) != (self.milestones is None)
        require(
            alone,
            "Step.milestones",
            self.milestones,
            f"give either every or milestones, the other as null (schedule.every={self.every})",
        )
        rising = self.milestones is None or all(
            a < b for a, b in zip([self.warmup, *self.milestones], self.milestones, strict=False)
        )
        require(
            rising,
            "Step.milestones",
            self.milestones,
            f"accepted are rising numbers of rounds above the warm-up ({self.warmup})",
        )

    def shape(self, round: int, rounds: int) -> float:
        passed = (
            round // self.every
            if self.milestones is None
            else sum(at <= round + self.warmup for at in self.milestones)
        )
        return self.decay**passed


@component
class ToFloor(Schedule):
    """Base of the schedules that fall from 1 to a floor: floor + (1 - floor) * fall(z).

    floor: what remains of the rate at the end, in [0, 1].
    """

    floor: Probability = 0.0

    def shape(self, round: int, rounds: int) -> float:
        return self.floor + (1 - self.floor) * self.fall(round / rounds)

    def fall(self, z: float) -> float:
        """From 1 at z = 0 to 0 at z = 1; asked for z below 1."""
        raise NotImplementedError("a schedule defines its fall")


@component
class Linear(ToFloor):
    """1 - z (linear decay, Defazio et al. 2023, arXiv 2310.07831)."""

    def fall(self, z: float) -> float:
        return 1.0 - z


@component
class Cosine(ToFloor):
    """(1 + cos(pi z)) / 2 (cosine annealing without restarts)."""

    def fall(self, z: float) -> float:
        return (1 + math.cos(math.pi * z)) / 2


@component
class REX(ToFloor):
    """(1 - z) / (1/2 + (1 - z)/2): above linear decay all along, and steep at the end.

    Source: REX (Chen et al. 2021) in the form of the package pytorch_optimizer; other
    implementations have constants of their own.
    """

    def fall(self, z: float) -> float:
        return (1 - z) / (1 - z / 2)


@component
class UBA(ToFloor):
    """2u / (2 phi + (2 - phi) u) with u = 1 + cos(pi z) (arXiv 2505.24452): from constant (phi ->
    0) over cosine (phi = 2) to a rate that falls early (larger phi).

    phi: at least 0. The default is ours.
    """

    phi: NonNegative = 1.0

    def fall(self, z: float) -> float:
        u = 1 + math.cos(math.pi * z)
        return 2 * u / (2 * self.phi + (2 - self.phi) * u)
