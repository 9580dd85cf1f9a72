"""Participation as a two-state Markov chain per client."""

from __future__ import annotations

import numpy as np

from fedsim.component import OpenProbability, component
from fedsim.participation.base import Pattern, Population
from fedsim.participation.probabilities import ClientProbabilities
from fedsim.participation.toggling import NEVER, Toggling
from fedsim.rng import uniform

_TOGGLE, _FIRST_STATE, _FIRST_HOLDING = 0, 1, 2  # streams of random numbers


@component
class Markov(ClientProbabilities):
    """Each client is a chain with stationary on-probability p_i (FedAU, Wang and Ji, ICLR 2024,
    authors' code).

    p_on = max_on and p_off = max_on (1/p_i - 1); where p_off would exceed 1, p_on is divided by it
    and p_off is 1. The state is Bern(p_i) at first and is stepped once before round 0.
    """

    max_on: OpenProbability = 0.05

    def bind(self, population: Population, seed: int) -> Pattern:
        probabilities = self.client_probabilities(population, seed)
        return _Markov(
            population, seed, probabilities, *transition_probabilities(probabilities, self.max_on)
        )


def transition_probabilities(
    probabilities: np.ndarray, max_on: float
) -> tuple[np.ndarray, np.ndarray]:
    """(p_on, p_off), float64 [N] each: off to on and on to off. A client with p_i = 0 gets (0,
    1)."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        p_off = max_on * (1 / probabilities - 1)
        p_on = max_on / np.maximum(p_off, 1)
    return p_on, np.minimum(p_off, 1)


class _Markov(Toggling):
    """Holding times are geometric; each is keyed by the round and the client, so a client's path
    depends on nobody else."""

    def __init__(
        self,
        population: Population,
        seed: int,
        probabilities: np.ndarray,
        p_on: np.ndarray,
        p_off: np.ndarray,
    ) -> None:
        self.p_on, self.p_off = p_on, p_off
        everybody = np.arange(population.size)
        on = uniform(seed, "participation", 0, everybody, _FIRST_STATE) < probabilities
        first = _geometric(
            uniform(seed, "participation", 0, everybody, _FIRST_HOLDING), np.where(on, p_off, p_on)
        )
        super().__init__(population, seed, probabilities, on, first - 1)  # entered at time -1

    def holding(self, round: int, clients: np.ndarray, on: np.ndarray) -> np.ndarray:
        leaving = np.where(on, self.p_off[clients], self.p_on[clients])
        return _geometric(uniform(self.seed, "participation", round, clients, _TOGGLE), leaving)


def _geometric(uniforms: np.ndarray, probability: np.ndarray) -> np.ndarray:
    """Trials until the first success, by inversion: int64 [n]; NEVER where the probability is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        failures = np.floor(np.log1p(-uniforms) / np.log1p(-probability))
    huge = 2.0**62
    trials = np.minimum(np.nan_to_num(failures, nan=huge, posinf=huge), huge).astype(np.int64) + 1
    return np.where(probability > 0, trials, NEVER)
