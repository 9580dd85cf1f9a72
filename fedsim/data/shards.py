"""Shards: which training samples each client holds, as index arrays into one shared data set; and a
test part for each client."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedsim import rng
from fedsim.errors import require


@dataclass(frozen=True)
class Shards:
    """Client i of N holds samples indices[offsets[i]:offsets[i+1]] of the training set, in
    ascending order.

    indices: int64 [total]; a sample occurs more than once where the partition draws with
    replacement. offsets: int64 [N+1].
    """

    indices: np.ndarray
    offsets: np.ndarray

    @classmethod
    def from_owners(cls, samples: np.ndarray, owner: np.ndarray, clients: int) -> Shards:
        """Give samples[j] to client owner[j]. samples, owner: int64 [total]."""
        order = np.lexsort((samples, owner))
        sizes = np.bincount(owner, minlength=clients)
        return cls(
            samples[order].astype(np.int64),
            np.concatenate(([0], np.cumsum(sizes))).astype(np.int64),
        )

    def __len__(self) -> int:
        """Number of clients N."""
        return len(self.offsets) - 1

    @property
    def sizes(self) -> np.ndarray:
        """Samples of each client: int64 [N]."""
        return np.diff(self.offsets)

    @property
    def owners(self) -> np.ndarray:
        """The client of each entry of `indices`: int64 [total]."""
        return np.repeat(np.arange(len(self)), self.sizes)

    def shard(self, client: int) -> np.ndarray:
        """Samples of one client: int64 [n_i]."""
        return self.indices[self.offsets[client] : self.offsets[client + 1]]

    def label_counts(self, labels: np.ndarray, classes: int) -> np.ndarray:
        """How many samples of each class each client holds: int64 [N, classes]. labels: integers
        [n], of the whole training set."""
        cells = self.owners * classes + labels[self.indices]
        return np.bincount(cells, minlength=len(self) * classes).reshape(len(self), classes)


def holdout(shards: Shards, fraction: float, seed: int) -> tuple[Shards, Shards]:
    """Split every client's samples into a training and a test part, for personalised accuracy.
    Returns (train, test).

    Of a client's n distinct samples, `fraction` * n (rounded, at least 1, at most n - 1) are test
    samples; a client with one sample keeps it for training, and fraction = 0 leaves all test parts
    empty. Copies of a sample within a client stay on one side. The draw is keyed by (seed, client):
    it depends on nothing but the client's own samples. Raises ConfigError unless 0 <= fraction < 1.
    """
    require(
        0 <= fraction < 1,
        "holdout.fraction",
        fraction,
        "a number from 0 (inclusive) to 1 (exclusive)",
    )
    span = int(shards.indices.max(initial=0)) + 1
    distinct, entry = np.unique(shards.owners * span + shards.indices, return_inverse=True)
    client = distinct // span
    count = np.bincount(client, minlength=len(shards))
    wanted = np.floor(fraction * count + 0.5).astype(np.int64)
    tests = np.where((count > 1) & (fraction > 0), np.clip(wanted, 1, np.maximum(count - 1, 1)), 0)

    rank = np.empty(len(distinct), dtype=np.int64)
    rank[np.lexsort((_keys(seed, count), client))] = np.arange(len(distinct)) - np.repeat(
        np.cumsum(count) - count, count
    )
    is_test = (rank < tests[client])[entry]
    owners = shards.owners
    return (
        Shards.from_owners(shards.indices[~is_test], owners[~is_test], len(shards)),
        Shards.from_owners(shards.indices[is_test], owners[is_test], len(shards)),
    )


def _keys(seed: int, count: np.ndarray) -> np.ndarray:
    """count[i] random sort keys for each client i, one client after the other: uint64 [sum(count)].
    Clients are handled by powers of two of their size, so that one large client does not widen the
    table of all."""
    keys = np.empty(int(count.sum()), dtype=np.uint64)
    starts = np.cumsum(count) - count
    bucket = np.ceil(np.log2(np.maximum(count, 1))).astype(np.int64)
    for power in np.unique(bucket[count > 0]):
        clients = np.flatnonzero((bucket == power) & (count > 0))
        position = np.arange(2 ** int(power))
        used = position < count[clients, None]
        keys[(starts[clients, None] + position)[used]] = rng.bits(
            seed, "split", 0, clients, len(position)
        )[used]
    return keys
