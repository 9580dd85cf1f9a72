"""Weighted sums of rows by a sparse matrix: how models and messages are mixed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse import csr_array
from torch import Tensor

TILE = 1 << 18  # numbers of a tile, which then stays in a core's cache while its rows are read degree + 1 times
LINE = 16  # numbers of a cache line
NARROWEST = 2  # cache lines of a tile's row
PAGE = 1024  # numbers of a page of memory: going to another one takes longer than reading some lines


def product(matrix: csr_array, rows: Tensor) -> Tensor:
    """matrix [r, S] times rows [S, Q], float32 [r, Q]. A row of the result is summed in the order of the matrix' entries, whatever other
    rows and columns are computed with it."""
    return products_with(matrix)(rows)


def products_with(matrix: csr_array) -> Callable[[Tensor], Tensor]:
    """`product` by one matrix [r, S], for many rows [S, Q]: what these have in common is done once."""
    indices, offsets = torch.from_numpy(matrix.indices), torch.from_numpy(matrix.indptr)
    settings = {"offsets": offsets, "mode": "sum", "per_sample_weights": torch.from_numpy(matrix.data), "include_last_offset": True}
    return lambda rows: F.embedding_bag(indices, rows, **settings)


def compact(matrix: csr_array) -> csr_array:
    """The same with indices of 32 bits: they share the cache with the rows that are read."""
    return csr_array((matrix.data, matrix.indices.astype(np.int32), matrix.indptr.astype(np.int32)), shape=matrix.shape)


def tile_width(rows: int) -> int:
    """Columns of a tile: whole cache lines, so few that `rows` rows fit into a core's cache, but no fewer than pays."""
    return max(TILE // max(rows, 1) // LINE, NARROWEST) * LINE


def tiles(columns: slice, rows: int) -> list[slice]:
    """The columns in pieces of a tile's width."""
    width = tile_width(rows)
    return [slice(start, min(start + width, columns.stop)) for start in range(columns.start, columns.stop, width)]


def block_width(rows: int, columns: int) -> int:
    """How many columns of models that are mixed lie together: all, or those of a tile where that is less than a page of each row."""
    width = tile_width(rows)
    return columns if width >= min(PAGE, columns) else width


def shares(size: int, count: int) -> list[slice]:
    """0..size in at most `count` equal pieces of whole cache lines."""
    width = -(-size // (count * LINE)) * LINE
    return [slice(start, min(start + width, size)) for start in range(0, size, width)]
