"""Keyed random numbers: every draw is a function of (seed, purpose, ...), never of a global
generator or of who draws it.

Two forms. `generator` gives a NumPy generator for one key: for set-up and draws made once a round.
`bits` and `uniform` give counter-addressed numbers for many (round, client, position) at once,
without an object per client.
"""

from __future__ import annotations

import functools
import zlib

import numpy as np

_M0, _M1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_W0, _W1 = 0x9E3779B9, 0xBB67AE85
_LOW, _SHIFT = np.uint64(0xFFFFFFFF), np.uint64(32)


def generator(seed: int, purpose: str, *key: int) -> np.random.Generator:
    """A NumPy generator (Philox) for one key. seed, key: integers >= 0; purpose: what is drawn
    ("partition", ...)."""
    return np.random.Generator(
        np.random.Philox(
            np.random.SeedSequence([seed, zlib.crc32(purpose.encode()), len(key), *key])
        )
    )


def derived_seed(seed: int, purpose: str, *key: int) -> int:
    """A 63-bit integer seed for libraries that want one (torch, networkx)."""
    return int(generator(seed, purpose, *key).integers(2**63))


def philox(counter: tuple[np.ndarray | int, ...], key: tuple[int, int]) -> list[np.ndarray]:
    """Philox4x32-10 (Salmon et al., SC 2011). counter: four broadcastable arrays of 32-bit
    integers; returns four arrays of 32-bit words held in uint64, of the broadcast shape."""
    c0, c1, c2, c3 = np.broadcast_arrays(*(np.asarray(c, dtype=np.uint64) for c in counter))
    k0, k1 = key
    for _ in range(10):
        p0, p1 = c0 * _M0, c2 * _M1
        c0, c1, c2, c3 = (
            (p1 >> _SHIFT) ^ c1 ^ np.uint64(k0),
            p1 & _LOW,
            (p0 >> _SHIFT) ^ c3 ^ np.uint64(k1),
            p0 & _LOW,
        )
        k0, k1 = (k0 + _W0) & 0xFFFFFFFF, (k1 + _W1) & 0xFFFFFFFF
    return [c0, c1, c2, c3]


@functools.lru_cache(maxsize=64)
def _key(seed: int, purpose: str) -> tuple[int, int]:
    first, second = np.random.SeedSequence([seed, zlib.crc32(purpose.encode())]).generate_state(
        2, np.uint32
    )
    return int(first), int(second)


def bits(
    seed: int, purpose: str, round: int, clients: np.ndarray, width: int, stream: int = 0
) -> np.ndarray:
    """32 random bits for each (round, client, position < width): uint64 [clients, width]. `stream`
    separates draws of one purpose (epochs, say). A value depends on its own coordinates only, not
    on which clients are drawn together, nor on `width`."""
    blocks = np.arange(-(-width // 4), dtype=np.uint64)
    ids = np.asarray(clients, dtype=np.uint64)[:, None]
    words = philox((blocks[None, :], ids, np.uint64(round), np.uint64(stream)), _key(seed, purpose))
    return np.stack(words, axis=-1).reshape(len(ids), 4 * len(blocks))[:, :width]


def uniform(
    seed: int, purpose: str, round: int, clients: np.ndarray, stream: int = 0
) -> np.ndarray:
    """One uniform number in [0, 1) with 53 random bits for each client: float64 [clients]."""
    words = bits(seed, purpose, round, clients, 2, stream)
    return ((words[:, 0] << _SHIFT | words[:, 1]) >> np.uint64(11)) * 2.0**-53
