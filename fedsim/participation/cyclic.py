"""Participation in fixed blocks: on for a while, off for a while."""

from __future__ import annotations

import numpy as np

from fedsim.component import PositiveInt, component
from fedsim.participation.base import Pattern, Population
from fedsim.participation.probabilities import ClientProbabilities
from fedsim.participation.toggling import NEVER, Toggling
from fedsim.rng import uniform


@component
class Cyclic(ClientProbabilities):
    """Client i is on for max(1, round(period p_i)) rounds, then off for max(1, period - on) rounds,
    and so on (FedAU, authors' code).

    Everybody starts off, for a number of rounds uniform on {0, ..., off - 1}; so the chance to be
    on in a given round swings, and the true probability exposed, on / (on + off), is the time
    average. random_phase=true starts each client at a uniformly random point of its cycle instead,
    which makes it the chance in every round too. A client with p_i = 0 never takes part.
    """

    period: PositiveInt = 100
    random_phase: bool = False

    def bind(self, population: Population, seed: int) -> Pattern:
        wanted = self.client_probabilities(population, seed)
        on = np.maximum(1, np.rint(self.period * wanted)).astype(np.int64)
        return _Cyclic(
            population, seed, wanted > 0, on, np.maximum(1, self.period - on), self.random_phase
        )


class _Cyclic(Toggling):
    def __init__(
        self,
        population: Population,
        seed: int,
        ever: np.ndarray,
        on: np.ndarray,
        off: np.ndarray,
        random_phase: bool,
    ) -> None:
        self.rounds_on, self.rounds_off = on, off
        draw = uniform(seed, "participation", 0, np.arange(population.size))
        if random_phase:
            # Rounds into the cycle, which begins with `on`
            phase = np.floor(draw * (on + off)).astype(np.int64)
            started = phase < on
            remaining = np.where(started, on, on + off) - phase
        else:
            started = np.zeros(population.size, dtype=bool)
            remaining = np.floor(draw * off).astype(np.int64)
        share = np.where(ever, on / (on + off), 0.0)
        super().__init__(population, seed, share, started & ever, np.where(ever, remaining, NEVER))

    def holding(self, round: int, clients: np.ndarray, on: np.ndarray) -> np.ndarray:
        return np.where(on, self.rounds_on[clients], self.rounds_off[clients])
