"""Array steps that partitions are made of: Dirichlet shares, cutting without loss, a minimum per
client, drawing from refilled pools.

N clients, L classes, n samples. All are vectorised over clients: 10,000 clients take well under a
second.
"""

from __future__ import annotations

import numpy as np


def log_dirichlet(
    generator: np.random.Generator, alpha: float, draws: int, classes: int
) -> np.ndarray:
    """Logarithms of draws from Dir(alpha * 1): float64 [draws, classes], finite for any alpha > 0.

    Gamma(alpha) = Gamma(alpha + 1) * U^(1/alpha), taken in logarithms: small alpha underflows
    otherwise, and a class that all clients give the share 0 cannot be divided among them.
    """
    shape = (draws, classes)
    log_gamma = (
        np.log(generator.standard_gamma(alpha + 1, shape))
        - generator.standard_exponential(shape) / alpha
    )
    return log_normalise(np.maximum(log_gamma, -1e300), axis=1)


def log_normalise(log_weight: np.ndarray, axis: int) -> np.ndarray:
    """Logarithms of weights that sum to 1 along `axis`."""
    log_weight = log_weight - log_weight.max(axis=axis, keepdims=True)
    return log_weight - np.log(np.exp(log_weight).sum(axis=axis, keepdims=True))


def cut(shares: np.ndarray, totals: np.ndarray) -> np.ndarray:
    """Divide totals[l] samples in proportion to shares[:, l] (columns sum to 1): int64 [N, L],
    columns summing to `totals` exactly.

    The running sum is rounded, not each share, so nothing is lost or used twice and each count is
    off by less than 1 from its share.
    """
    ends = np.minimum(np.rint(np.cumsum(shares, axis=0) * totals), totals).astype(np.int64)
    ends[-1] = totals
    return np.diff(ends, axis=0, prepend=0)


def by_class(
    generator: np.random.Generator, labels: np.ndarray, classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """All samples, class after class, in random order within a class: int64 [n]; and the size of
    each class: int64 [L]."""
    order = generator.permutation(len(labels))
    return order[np.argsort(labels[order], kind="stable")], np.bincount(labels, minlength=classes)


def owners_of(counts: np.ndarray) -> np.ndarray:
    """The client of each sample when class l's samples go to clients 0, 1, ... in runs of counts[:,
    l]: int64 [n], class after class."""
    clients, classes = counts.shape
    return np.repeat(np.tile(np.arange(clients), classes), counts.T.ravel())


def fill(
    owner: np.ndarray, clients: int, min_size: int, generator: np.random.Generator
) -> np.ndarray:
    """Give every client at least `min_size` samples, by moving single samples away from whichever
    shard is the largest at that time.

    owner: int64 [n], the client of each sample; returns the new owners. Needs clients * min_size <=
    n; a giver is never brought below the minimum. The moved samples are random ones of their giver,
    and a receiver is served by as few givers as possible: a client with few samples then stays as
    skewed as those it is served by.
    """
    sizes = np.bincount(owner, minlength=clients)
    missing = np.maximum(min_size - sizes, 0)
    needed = missing.sum()
    if needed == 0:
        return owner
    at_least = np.cumsum(np.bincount(sizes)[::-1])[::-1]  # [s]: clients with s samples or more
    # [s]: samples freed when all shards are lowered to s - 1
    freed = np.cumsum(at_least[::-1])[::-1]
    level = np.flatnonzero(freed >= needed)[-1] - 1
    given = np.maximum(sizes - level, 0)
    givers, spare = np.flatnonzero(given), given.sum() - needed
    given[givers[len(givers) - spare :]] -= 1

    order = generator.permutation(len(owner))
    order = order[np.argsort(owner[order], kind="stable")]
    rank = np.arange(len(owner)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    moved = order[rank < given[owner[order]]]
    owner = owner.copy()
    owner[moved] = np.repeat(np.arange(clients), missing)
    return owner


def draw_refilled(
    generator: np.random.Generator, pool: np.ndarray, counts: np.ndarray
) -> np.ndarray:
    """Draw counts[i] samples for clients i = 0, 1, ... without replacement from a pool that is
    refilled when it is empty.

    pool: int64 [m], m >= 1; counts: int64 [N]; returns int64 [sum(counts)], one client after the
    other. The uses of two samples differ by at most 1. A client for whom the pool is refilled takes
    first what it does not hold, so it holds a sample twice only where it draws more than m.
    """
    ends = np.cumsum(counts)
    starts, size, total = ends - counts, len(pool), int(counts.sum())
    # One row for each filling of the pool
    rounds = generator.permuted(np.tile(pool, (-(-total // size), 1)), axis=1)
    crossing = (counts > 0) & ((ends - 1) // size > starts // size) & (starts % size > 0)
    for client in np.flatnonzero(crossing):
        held = rounds[starts[client] // size, starts[client] % size :]
        last = (ends[client] - 1) // size
        row, taken = rounds[last], ends[client] - last * size
        is_held = np.isin(row, held)
        head = np.concatenate((row[~is_held], row[is_held]))[:taken]
        rounds[last] = np.concatenate((head, row[~np.isin(row, head)]))
    return rounds.ravel()[:total]
