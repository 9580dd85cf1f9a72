"""Averages of rows in blocks of columns, against dense matrices."""

import numpy as np
import pytest
from scipy.sparse import random_array

from fedsim.rounds.weighted_sums import average, compact

ROWS, SENDERS, BLOCKS = 9, 11, 3
EVERYONE, SOME = np.arange(ROWS), np.array([7, 0, 4])


def matrix(receivers, seed):
    """With one row that is empty and one of zeros."""
    found = random_array(
        (len(receivers), SENDERS),
        density=0.4,
        format="lil",
        dtype=np.float32,
        rng=np.random.default_rng(seed),
    )
    found[1] = 0
    found = compact(found.tocsr())
    found.data[found.indptr[2] : found.indptr[3]] = 0
    return found


def rows(width, count, seed):
    return np.random.default_rng(seed).standard_normal((BLOCKS, count, width), dtype=np.float32)


def results(width):
    """Where a mapped file would lie: at the start of a cache line."""
    memory = np.zeros(BLOCKS * ROWS * width + 16, np.float32)
    skipped = -memory.ctypes.data % 64 // 4
    return memory[skipped:][: BLOCKS * ROWS * width].reshape(BLOCKS, ROWS, width)


@pytest.mark.parametrize("width", [32, 96])
@pytest.mark.parametrize("receivers", [EVERYONE, SOME], ids=["everyone", "some"])
@pytest.mark.parametrize("count", [1, 2])
def test_averages_are_those_of_dense_matrices(width, receivers, count):
    terms = [(matrix(receivers, seed), rows(width, SENDERS + seed, seed)) for seed in range(count)]
    found = results(width)
    assert average(found, receivers, slice(0, width), terms, finite=False) is True
    expected = sum(
        np.einsum("rs,bsw->brw", matrix.toarray(), rows[:, :SENDERS]) for matrix, rows in terms
    )
    np.testing.assert_allclose(found[:, receivers], expected, rtol=1e-5, atol=1e-6)
    others = np.setdiff1d(EVERYONE, receivers)
    assert not found[:, others].any() and not found[:, receivers[1]].any()


@pytest.mark.parametrize("term", [0, 1])
@pytest.mark.parametrize("value", [np.inf, np.nan, 3e38])
def test_any_number_that_is_not_finite_is_found(value, term):
    """3e38 becomes so only when it is added to another one."""
    terms = [(matrix(EVERYONE, seed), rows(64, SENDERS, seed)) for seed in range(2)]
    receiver = np.flatnonzero(np.diff(terms[term][0].indptr) > 1)[-1]
    entries = slice(terms[term][0].indptr[receiver], terms[term][0].indptr[receiver + 1])
    terms[term][0].data[entries] = 1
    for block, column in [(0, 0), (1, 40), (2, 63)]:
        at = block, terms[term][0].indices[entries], column
        before, terms[term][1][at] = terms[term][1][at].copy(), value
        assert average(results(64), EVERYONE, slice(0, 64), terms, finite=False) is False
        assert average(results(64), EVERYONE, slice(0, 64), terms, finite=True) is True
        terms[term][1][at] = before
    assert average(results(64), EVERYONE, slice(0, 64), terms, finite=False) is True


def test_columns_that_are_no_whole_strips_are_averaged_too():
    term, found = (matrix(EVERYONE, 0), rows(40, SENDERS, 0)), results(40)
    average(found, EVERYONE, slice(16, 40), [term], finite=False)
    np.testing.assert_allclose(
        found[..., 16:],
        np.einsum("rs,bsw->brw", term[0].toarray(), term[1])[..., 16:],
        rtol=1e-5,
        atol=1e-6,
    )
    assert not found[..., :16].any()


@pytest.mark.parametrize(
    "rows",
    [rows(64, SENDERS, 0).astype(np.float64), rows(64, SENDERS, 0)[:2], rows(32, SENDERS, 0)],
)
def test_rows_that_are_no_blocks_like_the_results_are_refused(rows):
    with pytest.raises(
        ValueError, match=r"^rows of an average are float32 \[3, S, 64\], not float"
    ):
        average(results(64), EVERYONE, slice(0, 64), [(matrix(EVERYONE, 0), rows)], finite=False)
