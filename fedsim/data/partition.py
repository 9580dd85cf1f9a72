"""Partitions: how the training samples are divided among N clients.

| partition | skew | use of a sample | sizes |
|---|---|---|---|
| Iid | none | exactly once | equal (differ by at most 1) |
| Dirichlet | labels | exactly once | vary |
| DirichletPrior | labels | with replacement | equal |
| Pathological | labels | with replacement | equal |
| Quantity | sizes | exactly once | vary |
| Natural | as in the data | at most once | as in the data |

Every partition keeps its promise by construction or refuses with the reason; nothing is drawn again
until it fits. The draw is keyed by (seed, "partition").
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import numpy as np

from fedsim import rng
from fedsim.component import NonNegativeInt, Positive, PositiveInt, component
from fedsim.data.allocation import (
    by_class,
    cut,
    draw_refilled,
    fill,
    log_dirichlet,
    log_normalise,
    owners_of,
)
from fedsim.data.shards import Shards
from fedsim.errors import ConfigError, require

if TYPE_CHECKING:
    from fedsim.data.dataset import Split


@component
class Partition(ABC):
    """Base of the partitions.

    clients: N; min_size: the least number of samples of a client; 0 allows empty clients, which
    never take part.
    """

    clients: PositiveInt = 100
    min_size: NonNegativeInt = 1

    @abstractmethod
    def split(self, train: Split, classes: int, seed: int) -> Shards:
        """Divide the n training samples among the clients. classes: 0 for regression.

        Raises ConfigError where the data do not allow what the settings promise.
        """

    def _check_enough(self, samples: int) -> None:
        require(
            self.clients * self.min_size <= samples,
            "partition.min_size",
            self.min_size,
            f"{self.clients} clients with at least {self.min_size} each need"
            f" {self.clients * self.min_size} training samples and there are {samples}; accepted"
            f" are partition.min_size <= {samples // self.clients} (0 allows empty clients)"
            + (
                f" or partition.clients <= {samples // self.min_size}"
                if samples >= self.min_size > 0
                else ""
            ),
        )

    def _check_labels(self, classes: int) -> None:
        require(
            classes > 0,
            "partition",
            type(self).__name__,
            "divides by class label and these data have none (regression): use partition=iid,"
            " quantity or natural",
        )


@component
class Iid(Partition):
    """Shuffle and cut: every sample exactly once, sizes that differ by at most 1. With more clients
    than samples the last are empty."""

    def split(self, train: Split, classes: int, seed: int) -> Shards:
        samples = len(train.y)
        self._check_enough(samples)
        order = rng.generator(seed, "partition").permutation(samples)
        sizes = samples // self.clients + (np.arange(self.clients) < samples % self.clients)
        return Shards.from_owners(order, np.repeat(np.arange(self.clients), sizes), self.clients)


@component
class Dirichlet(Partition):
    """Label skew, every sample exactly once (Wang & Ji, FedAU, ICLR 2024, as in the authors' code);
    sizes vary.

    Client i draws a label distribution q_i ~ Dir(alpha * 1); class l's samples, in random order,
    are cut into runs proportional to q_il / sum_j q_jl. Clients below `min_size` then receive
    samples from the largest shards (departure: the authors leave them empty).
    """

    alpha: Positive = 0.1

    def split(self, train: Split, classes: int, seed: int) -> Shards:
        self._check_labels(classes)
        self._check_enough(len(train.y))
        generator = rng.generator(seed, "partition")
        log_prior = log_dirichlet(generator, self.alpha, self.clients, classes)
        samples, totals = by_class(generator, train.y, classes)
        owner = owners_of(cut(np.exp(log_normalise(log_prior, axis=0)), totals))
        return Shards.from_owners(
            samples, fill(owner, self.clients, self.min_size, generator), self.clients
        )


@component
class Quantity(Partition):
    """Quantity skew (Li et al., NIID-Bench, ICDE 2022): labels iid, the shares of the N clients are
    one draw of Dir(alpha * 1).

    Every sample exactly once. Before rounding and `min_size`, sizes have mean n / N and squared
    coefficient of variation (N - 1) / (N alpha + 1). Clients below `min_size` receive samples from
    the largest shards.
    """

    alpha: Positive = 0.5

    def split(self, train: Split, classes: int, seed: int) -> Shards:
        samples = len(train.y)
        self._check_enough(samples)
        generator = rng.generator(seed, "partition")
        shares = np.exp(log_dirichlet(generator, self.alpha, 1, self.clients)).T
        owner = owners_of(cut(shares, np.array([samples])))
        return Shards.from_owners(
            generator.permutation(samples),
            fill(owner, self.clients, self.min_size, generator),
            self.clients,
        )


@component
class EqualSized(Partition):
    """Base of the partitions that give each client the same number of samples: `size`, or n // N
    where it is null.

    Samples of a class are drawn without replacement from a pool that is refilled when it is empty:
    a sample may be held by several clients, by one client twice only where that client draws more
    than the class has, and not every sample need be used.
    """

    size: PositiveInt | None = None

    def _size(self, samples: int) -> int:
        require(
            samples >= self.clients or (self.size is not None and samples > 0),
            "partition.clients",
            self.clients,
            f"at most {samples} (the training samples), or set partition.size, which lets clients"
            " share samples",
        )
        size = self.size or samples // self.clients
        require(
            size >= self.min_size,
            "partition.min_size",
            self.min_size,
            f"at most {size}, the size of every client's shard",
        )
        return size

    def _draw(
        self, generator: np.random.Generator, labels: np.ndarray, counts: np.ndarray
    ) -> Shards:
        """counts: int64 [N, classes], samples that each client draws from each class; 0 for classes
        without samples."""
        samples, totals = by_class(generator, labels, counts.shape[1])
        pools = np.split(samples, np.cumsum(totals)[:-1])
        drawn = [
            draw_refilled(generator, pool, wanted)
            for pool, wanted in zip(pools, counts.T, strict=True)
            if len(pool)
        ]
        return Shards.from_owners(np.concatenate(drawn), owners_of(counts), self.clients)


@component
class DirichletPrior(EqualSized):
    """Label skew with equal sizes (as in FL-Simulator, the code of FedSpeed): the classes of client
    i's samples are drawn one by one from its class prior q_i ~ Dir(alpha * 1) over the classes that
    have training samples.

    The pool of a class is refilled when it is empty: samples of a class in demand repeat, some of
    another class stay unused.
    """

    alpha: Positive = 0.1

    def priors(self, train: Split, classes: int, seed: int) -> np.ndarray:
        """The class prior of each client for this seed: float64 [N, classes], rows summing to 1."""
        return self._priors(rng.generator(seed, "partition"), train.y, classes)

    def split(self, train: Split, classes: int, seed: int) -> Shards:
        self._check_labels(classes)
        size = self._size(len(train.y))
        generator = rng.generator(seed, "partition")
        counts = generator.multinomial(size, self._priors(generator, train.y, classes))
        return self._draw(generator, train.y, counts)

    def _priors(
        self, generator: np.random.Generator, labels: np.ndarray, classes: int
    ) -> np.ndarray:
        present = np.flatnonzero(np.bincount(labels, minlength=classes))
        priors = np.zeros((self.clients, classes))
        priors[:, present] = np.exp(
            log_dirichlet(generator, self.alpha, self.clients, len(present))
        )
        return priors


@component
class Pathological(EqualSized):
    """Each client holds exactly `classes_per_client` classes, chosen uniformly, in equal parts
    (that differ by at most 1); sizes are equal.

    After McMahan et al. 2017 (two classes a client) with FL-Simulator's refilled class pools
    (departure: there the classes of a client's samples are drawn one by one with equal probability,
    so that a class can be missed). Where N * classes_per_client allows it every class that has
    training samples is held by somebody: a class that nobody chose replaces one that several
    clients chose, at a random one of them.
    """

    classes_per_client: PositiveInt = 2

    def split(self, train: Split, classes: int, seed: int) -> Shards:
        self._check_labels(classes)
        size, held = self._size(len(train.y)), self.classes_per_client
        present = np.flatnonzero(np.bincount(train.y, minlength=classes))
        key = "partition.classes_per_client"
        require(
            held <= len(present),
            key,
            held,
            f"at most {len(present)}, the number of classes with training samples",
        )
        require(
            held <= size,
            key,
            held,
            f"at most {size}, the size of every client's shard (partition.size sets it)",
        )
        generator = rng.generator(seed, "partition")
        chosen = self._choose(generator, len(present))
        # [held]; `chosen` is in random order, so the larger parts are random too
        parts = size // held + (np.arange(held) < size % held)
        counts = np.zeros((self.clients, classes), dtype=np.int64)
        np.put_along_axis(counts, present[chosen], parts[None, :], axis=1)
        return self._draw(generator, train.y, counts)

    def _choose(self, generator: np.random.Generator, classes: int) -> np.ndarray:
        """Distinct classes of each client, in random order: int64 [N, classes_per_client]."""
        chosen = np.argsort(generator.random((self.clients, classes)), axis=1)[
            :, : self.classes_per_client
        ]
        slots = chosen.reshape(-1)
        for missing in np.flatnonzero(np.bincount(slots, minlength=classes) == 0):
            repeated = np.flatnonzero(np.bincount(slots, minlength=classes)[slots] > 1)
            if len(repeated) == 0:
                break
            slots[generator.choice(repeated)] = missing
        return slots.reshape(self.clients, -1)


@component
class Natural(Partition):
    """The division that comes with the data: one client for each client id, numbered in ascending
    order of the ids.

    Clients with fewer than `min_size` samples and samples without a client (id -1) are left out.
    clients: how many of the remaining clients to keep, a random subset keyed by the seed; null
    keeps all.
    """

    clients: PositiveInt | None = None

    def ids(self, train: Split, seed: int) -> np.ndarray:
        """The client id in the data of each client: int64 [N], ascending."""
        if train.client is None or not np.any(train.client >= 0):
            raise ConfigError(
                "partition",
                type(self).__name__,
                "these data carry no client ids: use partition=iid, dirichlet or quantity",
            )
        ids, sizes = np.unique(train.client[train.client >= 0], return_counts=True)
        kept = ids[sizes >= self.min_size]
        require(
            len(kept) > 0,
            "partition.min_size",
            self.min_size,
            f"at most {sizes.max()}, the size of the largest client in the data",
        )
        if len(kept) < len(ids):
            left_out = sizes[sizes < self.min_size].sum()
            logging.getLogger(__name__).info(
                "natural partition: %d of %d clients have fewer than %d samples and are left out"
                " (%d samples)",
                len(ids) - len(kept),
                len(ids),
                self.min_size,
                left_out,
            )
        if self.clients is None:
            return kept
        require(
            self.clients <= len(kept),
            "partition.clients",
            self.clients,
            f"at most {len(kept)}, the clients in the data with at least {self.min_size} samples;"
            " null takes all",
        )
        return np.sort(rng.generator(seed, "partition").choice(kept, self.clients, replace=False))

    def split(self, train: Split, classes: int, seed: int) -> Shards:
        ids = self.ids(train, seed)
        samples = np.flatnonzero(np.isin(train.client, ids))
        return Shards.from_owners(samples, np.searchsorted(ids, train.client[samples]), len(ids))
