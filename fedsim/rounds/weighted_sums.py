"""Weighted sums of rows by a sparse matrix: how models and messages are mixed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse import csr_array
from torch import Tensor

# Numbers of a tile, which then stays in a core's cache while its rows are read degree + 1 times
TILE = 1 << 18
LINE = 16  # numbers of a cache line
STRIP = 2 * LINE  # columns that are summed at once: a tile's width is a multiple of it
# Numbers of a page of memory: going to another one takes longer than reading some lines
PAGE = 1024

# A compact matrix [r, S] and the rows that it is multiplied with, float32 [blocks, S or more,
# width]
Term = tuple[csr_array, np.ndarray]


def product(matrix: csr_array, rows: Tensor) -> Tensor:
    """matrix [r, S] times rows [S, Q], float32 [r, Q]. A row of the result is summed in the order
    of the matrix' entries, whatever other rows and columns are computed with it."""
    return products_with(matrix)(rows)


def products_with(matrix: csr_array) -> Callable[[Tensor], Tensor]:
    """`product` by one matrix [r, S], for many rows [S, Q]: what these have in common is done
    once."""
    indices, offsets = torch.from_numpy(matrix.indices), torch.from_numpy(matrix.indptr)
    settings = {
        "offsets": offsets,
        "mode": "sum",
        "per_sample_weights": torch.from_numpy(matrix.data),
        "include_last_offset": True,
    }
    return lambda rows: F.embedding_bag(indices, rows, **settings)


def average(
    results: np.ndarray, receivers: np.ndarray, columns: slice, terms: Sequence[Term], finite: bool
) -> bool:
    """Write the sum of one or two terms, products float32 [r, columns], to rows `receivers`, int64
    [r], of each block of results, float32 [blocks, R, width], which begin with a cache line. Gives
    whether it is finite; finite: this is known. The bits depend neither on the columns nor on what
    computes them. ValueError if arrays do not fit.
    """
    width = results.shape[-1]
    for _, rows in terms:
        if (rows.dtype, rows.shape[0], rows.shape[2]) != (np.float32, results.shape[0], width):
            raise ValueError(
                f"rows of an average are float32 [{len(results)}, S, {width}], not {rows.dtype}"
                f" {list(rows.shape)}"
            )
    return _average(torch.from_numpy(results), receivers, columns, terms, finite)


def _average(
    results: Tensor, receivers: np.ndarray, columns: slice, terms: Sequence[Term], finite: bool
) -> bool:
    """A tile of all rows is copied together into the cache, where each row is then read several
    times."""
    everyone = np.array_equal(receivers, np.arange(results.shape[1]))
    where = slice(None) if everyone else torch.from_numpy(receivers)
    times = [
        (products_with(matrix), torch.from_numpy(rows)[:, : matrix.shape[1]])
        for matrix, rows in terms
    ]
    found = True
    for tile in tiles(columns, results.shape[1]):
        for block, result in enumerate(results[:, :, tile]):
            mixed = None
            for multiply, rows in times:
                part = multiply(rows[block, :, tile].clone(memory_format=torch.contiguous_format))
                mixed = part if mixed is None else mixed.add_(part)
            result[where] = mixed
            found = found and (
                finite or bool(torch.isfinite(torch.stack(torch.aminmax(mixed))).all())
            )
            del mixed, part  # so that the next ones take their place, in the cache too
    return found


def compact(matrix: csr_array) -> csr_array:
    """The same with indices of 32 bits: they share the cache with the rows that are read."""
    return csr_array(
        (matrix.data, matrix.indices.astype(np.int32), matrix.indptr.astype(np.int32)),
        shape=matrix.shape,
    )


def tile_width(rows: int) -> int:
    """Columns of a tile: whole strips, so few that `rows` rows fit into a core's cache, but at
    least one."""
    return max(TILE // max(rows, 1) // STRIP, 1) * STRIP


def tiles(columns: slice, rows: int) -> list[slice]:
    """The columns in pieces of a tile's width."""
    width = tile_width(rows)
    return [
        slice(start, min(start + width, columns.stop))
        for start in range(columns.start, columns.stop, width)
    ]


def block_width(rows: int, columns: int) -> int:
    """How many columns of models that are mixed lie together: all, or those of a tile where that is
    less than a page of each row."""
    width = tile_width(rows)
    return columns if width >= min(PAGE, columns) else width


def shares(size: int, count: int) -> list[slice]:
    """0..size in at most `count` equal pieces of whole cache lines."""
    width = -(-size // (count * LINE)) * LINE
    return [slice(start, min(start + width, size)) for start in range(0, size, width)]
