"""Participation as it was recorded."""

from __future__ import annotations

import numpy as np

from fedsim.component import component
from fedsim.participation.base import Participation, Pattern, Population
from fedsim.participation.tables import integers, read_table


@component
class Trace(Participation):
    """Cohorts from a CSV or Parquet file with columns round and client, both counted from 0; a pair
    given twice counts once.

    Rounds without a row are empty, and so are all rounds after the last, unless repeat=true starts
    the trace again. Clients without data are left out. The true probability exposed is a client's
    share of the rounds 0 to last of the file.
    """

    file: str
    repeat: bool = False

    def bind(self, population: Population, seed: int) -> Pattern:
        key = "participation.file"
        rounds, clients = read_table(self.file, key, ("round", "client"))
        rounds = integers(rounds, key, self.file, "round")
        clients = integers(clients, key, self.file, "client", population.size)
        # Sorted by round, then client
        pairs = np.unique(np.stack([rounds, clients], axis=1), axis=0)
        return _Trace(
            population,
            seed,
            pairs[population.eligible[pairs[:, 1]]],
            int(rounds.max()) + 1,
            self.repeat,
        )


class _Trace(Pattern):
    def __init__(
        self, population: Population, seed: int, pairs: np.ndarray, length: int, repeat: bool
    ) -> None:
        self.rounds, self.clients = pairs[:, 0].copy(), pairs[:, 1].copy()
        self.length, self.repeat = length, repeat
        super().__init__(
            population, seed, np.bincount(self.clients, minlength=population.size) / length
        )

    def draw(self, round: int) -> np.ndarray:
        recorded = round % self.length if self.repeat else round
        first, last = np.searchsorted(self.rounds, [recorded, recorded + 1])
        return self.clients[first:last].copy()
