"""Which examples a client uses in which local step: keyed by (seed, round, client), so the same for
every algorithm, engine and worker."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedsim import rng
from fedsim.data.shards import Shards
from fedsim.training.settings import LocalTraining


def local_steps(sizes: np.ndarray, settings: LocalTraining) -> np.ndarray:
    """Local steps of clients with shards of these sizes: int64, same shape. An epoch is as many
    steps as the shard has batches."""
    if settings.steps is not None:
        return np.where(sizes > 0, settings.steps, 0)
    return np.maximum(
        np.rint(settings.epochs * _steps_per_epoch(sizes, settings)), sizes > 0
    ).astype(np.int64)


def _steps_per_epoch(sizes: np.ndarray, settings: LocalTraining) -> np.ndarray:
    if settings.last_batch == "keep":
        return -(-sizes // settings.batch_size)
    return np.where(sizes > 0, np.maximum(sizes // settings.batch_size, 1), 0)


@dataclass(frozen=True)
class Batches:
    """The batches of C clients over their local steps.

    index: int64 [C, K, B], positions in the data set (padding repeats an example of the client);
    count: int64 [C, K], examples that count in each batch (0 after a client's last step); steps:
    int64 [C].
    """

    index: np.ndarray
    count: np.ndarray
    steps: np.ndarray

    def of(self, part: slice) -> Batches:
        """Those of some of the clients, no wider or longer than if they had been drawn alone."""
        steps, count = self.steps[part], self.count[part]
        longest, widest = int(steps.max()), int(count.max())
        return Batches(self.index[part, :longest, :widest], count[:, :longest], steps)


# Shards so unequal that drawing them together would waste this factor are drawn apart, with the
# same result
RAGGED = 4


def draw_batches(
    shards: Shards,
    clients: np.ndarray,
    settings: LocalTraining,
    seed: int,
    round: int,
    keys: np.ndarray | None = None,
) -> Batches:
    """Batches of these clients (int64 [C], none with an empty shard) in one round: each epoch is a
    fresh permutation of the shard. keys: what the draws are keyed by, int64 [C] (None: the
    clients)."""
    keys = clients if keys is None else keys
    sizes = shards.offsets[clients + 1] - shards.offsets[clients]
    epochs = -(-local_steps(sizes, settings) // _steps_per_epoch(sizes, settings))
    parts = _alike(np.argsort(sizes, kind="stable"), sizes, epochs)
    if len(parts) == 1:
        return _drawn(shards, clients, settings, seed, round, keys)
    return _joined(
        [_drawn(shards, clients[part], settings, seed, round, keys[part]) for part in parts], parts
    )


def _alike(order: np.ndarray, sizes: np.ndarray, epochs: np.ndarray) -> list[np.ndarray]:
    """Positions `order` (sorted by size) in parts, so that padding each to its widest and longest
    wastes little."""
    drawn = len(order) * int(epochs[order].max()) * int(sizes[order[-1]])
    if len(order) == 1 or drawn <= RAGGED * int((epochs * sizes)[order].sum()):
        return [order]
    return [part for half in np.array_split(order, 2) for part in _alike(half, sizes, epochs)]


def _drawn(
    shards: Shards,
    clients: np.ndarray,
    settings: LocalTraining,
    seed: int,
    round: int,
    keys: np.ndarray,
) -> Batches:
    starts, sizes = shards.offsets[clients], shards.offsets[clients + 1] - shards.offsets[clients]
    steps, per_epoch, width = (
        local_steps(sizes, settings),
        _steps_per_epoch(sizes, settings),
        int(sizes.max()),
    )
    epochs = int((-(-steps // per_epoch)).max())
    outside = np.arange(width)[None, :] >= sizes[:, None]
    orders = []
    for epoch in range(epochs):
        bits = rng.bits(seed, "batches", round, keys, width, stream=epoch)
        bits[outside] = 1 << 32
        orders.append(np.argsort(bits, axis=1, kind="stable"))
    order = np.stack(orders, axis=1)  # [C, epochs, width]

    step = np.arange(steps.max())[None, :]
    first = (step % per_epoch[:, None]) * settings.batch_size  # [C, K]
    count = np.minimum(settings.batch_size, sizes[:, None] - first)
    count[step >= steps[:, None]] = 0
    within = first[:, :, None] + np.arange(min(settings.batch_size, width))
    within = np.where(within < sizes[:, None, None], within, 0)
    epoch = np.minimum(step // per_epoch[:, None], epochs - 1)
    picked = order[np.arange(len(clients))[:, None, None], epoch[:, :, None], within]
    return Batches(shards.indices[starts[:, None, None] + picked], count, steps)


def _joined(parts: list[Batches], places: list[np.ndarray]) -> Batches:
    """Batches of several clients as one, padded. places: where the clients of each part stand
    then."""
    clients = sum(map(len, places))
    longest, widest = (max(part.index.shape[axis] for part in parts) for axis in (1, 2))
    index, count, steps = (
        np.empty((clients, longest, widest), np.int64),
        np.zeros((clients, longest), np.int64),
        np.empty(clients, np.int64),
    )
    for part, at in zip(parts, places, strict=True):
        _, length, width = part.index.shape
        index[at] = part.index[:, :1, :1]
        index[at, :length, :width] = part.index
        count[at, :length], steps[at] = part.count, part.steps
    return Batches(index, count, steps)
