"""Everybody, and cohorts of a fixed size."""

from __future__ import annotations

import numpy as np

from fedsim.component import PositiveInt, component
from fedsim.errors import require
from fedsim.participation.base import Participation, Pattern, Population
from fedsim.rng import generator


@component
class Full(Participation):
    """Every client that holds data, every round."""

    def bind(self, population: Population, seed: int) -> Pattern:
        return _Full(population, seed, 1.0)


class _Full(Pattern):
    sampling = "everyone"

    def draw(self, round: int) -> np.ndarray:
        return np.flatnonzero(self.probabilities)


@component
class Uniform(Participation):
    """`cohort` clients every round, each subset of that size equally likely, without replacement
    (McMahan et al. 2017)."""

    cohort: PositiveInt = 10

    def bind(self, population: Population, seed: int) -> Pattern:
        eligible = int(population.eligible.sum())
        require(
            self.cohort <= eligible,
            "participation.cohort",
            self.cohort,
            f"at most the number of clients that hold data, {eligible}",
        )
        return _Uniform(population, seed, self.cohort)


class _Uniform(Pattern):
    sampling = "fixed_size"

    def __init__(self, population: Population, seed: int, size: int) -> None:
        self.clients = np.flatnonzero(population.eligible)
        self.size = size
        super().__init__(population, seed, size / len(self.clients))

    def draw(self, round: int) -> np.ndarray:
        positions = generator(self.seed, "participation", round).choice(
            len(self.clients), self.size, replace=False, shuffle=False
        )
        return self.clients[np.sort(positions)]
