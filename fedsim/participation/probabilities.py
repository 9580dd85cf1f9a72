"""How likely each client is to take part: equal, correlated with its labels, or given."""

from __future__ import annotations

from typing import Literal

import numpy as np

from fedsim.component import OpenProbability, Positive, Probability, component
from fedsim.errors import ConfigError, require
from fedsim.participation.base import Participation, Population
from fedsim.participation.tables import integers, read_table
from fedsim.rng import generator


@component
class ClientProbabilities(Participation):
    """Settings shared by the patterns in which each client has its own probability p_i.

    probability: the mean of p_i over clients, and each p_i where correlation is "none".
    correlation: "labels" is the generator of FedAU (Wang and Ji, ICLR 2024; authors' code): one
    kappa ~ Dir(alpha 1) for the system and
        p_i = min(1, max(minimum, probability L <q_i, kappa>)), q_i the share of each of the L
            classes in client i's shard.
        The floor lifts the mean a little: to 0.106 for 250 clients, 10 classes, Dirichlet(0.1)
            shards and the defaults.
    alpha, minimum: as above; used with "labels" only. given: p_i itself, one number per client or
    the path of a CSV or Parquet file with columns client and probability, instead of the above.
    """

    probability: OpenProbability = 0.1
    correlation: Literal["none", "labels"] = "none"
    alpha: Positive = 0.1
    minimum: Probability = 0.02
    given: list[Probability] | str | None = None

    def __post_init__(self) -> None:
        name = type(self).__name__
        if self.correlation == "labels":
            require(
                self.given is None,
                f"{name}.given",
                self.given,
                "null where correlation=labels makes the probabilities",
            )
            accepted = f"at most the mean probability, {self.probability:g}"
            require(self.minimum <= self.probability, f"{name}.minimum", self.minimum, accepted)

    def client_probabilities(self, population: Population, seed: int) -> np.ndarray:
        """p_i: float64 [N], 0 for clients that are not eligible. Raises ConfigError where labels or
        given numbers do not fit."""
        if self.given is not None:
            values = self._given(population.size)
        elif self.correlation == "labels":
            values = self._by_labels(population, seed)
        else:
            values = np.full(population.size, self.probability)
        return np.where(population.eligible, values, 0.0)

    def _by_labels(self, population: Population, seed: int) -> np.ndarray:
        shares = population.label_distribution
        if shares is None:
            raise ConfigError(
                "participation.correlation", "labels", "'none' here: the data set has no classes"
            )
        # A client without data has no label shares, perhaps NaN
        shares = np.where(population.eligible[:, None], shares, 0.0)
        classes = shares.shape[1]
        kappa = generator(seed, "probabilities").dirichlet(np.full(classes, self.alpha))
        return np.clip(self.probability * classes * (shares @ kappa), self.minimum, 1.0)

    def _given(self, clients: int) -> np.ndarray:
        key = "participation.given"
        if not isinstance(self.given, str):
            require(
                len(self.given) == clients,
                key,
                self.given,
                f"one number for each of the {clients} clients, not {len(self.given)}",
            )
            return np.array(self.given, dtype=np.float64)
        client, probability = read_table(self.given, key, ("client", "probability"))
        client = integers(client, key, self.given, "client", clients)
        once = np.array_equal(np.sort(client), np.arange(clients))
        require(
            once,
            key,
            self.given,
            f"a table with exactly one row for each of the {clients} clients, not {len(client)}"
            " rows",
        )
        valid = bool(np.all((probability >= 0) & (probability <= 1)))
        require(
            valid, key, self.given, "a table whose column probability holds numbers from 0 to 1"
        )
        values = np.empty(clients)
        values[client] = probability
        return values
