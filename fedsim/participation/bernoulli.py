"""Independent participation: I_i^t ~ Bern(p_i), drawn at the cost of the cohort."""

from __future__ import annotations

import numpy as np

from fedsim.component import component
from fedsim.participation.base import Pattern, Population
from fedsim.participation.probabilities import ClientProbabilities
from fedsim.rng import generator, uniform

# Probabilities below 2^-40 share a bucket: hardly a candidate ever comes up there
_LAST_BUCKET = 40


@component
class Bernoulli(ClientProbabilities):
    """Every client takes part with its probability p_i, independently of the others and of the
    past."""

    def bind(self, population: Population, seed: int) -> Pattern:
        return _Bernoulli(population, seed, self.client_probabilities(population, seed))


class _Bernoulli(Pattern):
    """Clients are sorted into buckets within a factor of two of their probability. In a bucket with
    largest probability q, candidates are found by geometric skips, each client being one with
    probability q, and kept with probability p_i / q."""

    sampling = "independent"

    def __init__(self, population: Population, seed: int, probabilities: np.ndarray) -> None:
        super().__init__(population, seed, probabilities)
        clients = np.flatnonzero(self.probabilities)
        bucket = np.minimum(-np.floor(np.log2(self.probabilities[clients])), _LAST_BUCKET).astype(
            np.int64
        )
        members = [clients[bucket == number] for number in np.unique(bucket)]
        self.buckets = [(ids, float(self.probabilities[ids].max())) for ids in members]

    def draw(self, round: int) -> np.ndarray:
        random = generator(self.seed, "participation", round)
        found = [
            (ids[geometric_skips(random, bound, len(ids))], bound) for ids, bound in self.buckets
        ]
        candidates = np.concatenate([np.empty(0, dtype=np.int64), *(ids for ids, _ in found)])
        bounds = np.repeat([bound for _, bound in found], [len(ids) for ids, _ in found])
        if len(candidates) == 0:
            return candidates
        kept = (
            uniform(self.seed, "participation", round, candidates) * bounds
            < self.probabilities[candidates]
        )
        return np.sort(candidates[kept])


def geometric_skips(random: np.random.Generator, probability: float, size: int) -> np.ndarray:
    """Positions below `size`, each chosen independently with `probability` in (0, 1]: int64,
    increasing. The cost is that of the chosen."""
    runs, last = [], -1
    while last < size:
        expected = probability * (size - last)
        steps = random.geometric(probability, int(expected + 4 * expected**0.5) + 8)
        # The minimum keeps huge steps from overflowing the sum
        runs.append(last + np.cumsum(np.minimum(steps, size + 1)))
        last = int(runs[-1][-1])
    positions = np.concatenate(runs)
    return positions[: np.searchsorted(positions, size)]
