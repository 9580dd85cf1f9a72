"""Averages of rows in blocks of columns: what is compiled against torch and dense matrices."""

import os
import platform
import shlex
import shutil
import sysconfig
from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import random_array

from fedsim import products
from fedsim.compiled import convolutions
from fedsim.products import average, compact

ROWS, SENDERS, BLOCKS = 9, 11, 3
EVERYONE, SOME = np.arange(ROWS), np.array([7, 0, 4])


@pytest.fixture(autouse=True, params=["torch", "avx2", "avx512"])
def processor(request, monkeypatch):
    """What computes: each kind of processor that there is code for and that this one is."""
    if request.param != "torch" and request.param not in products.PROCESSORS:
        pytest.skip(f"{request.param} is not built, or this processor lacks it")
    monkeypatch.setattr(products, "PROCESSORS", () if request.param == "torch" else (request.param,))
    return request.param


def matrix(receivers, seed):
    """With one row that is empty and one of zeros."""
    found = random_array((len(receivers), SENDERS), density=0.4, format="lil", dtype=np.float32, rng=np.random.default_rng(seed))
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
def test_averages_are_those_of_dense_matrices_and_have_the_bits_of_torch(monkeypatch, width, receivers, count):
    terms = [(matrix(receivers, seed), rows(width, SENDERS + seed, seed)) for seed in range(count)]
    found = results(width)
    assert average(found, receivers, slice(0, width), terms, finite=False) is True
    expected = sum(np.einsum("rs,bsw->brw", matrix.toarray(), rows[:, :SENDERS]) for matrix, rows in terms)
    np.testing.assert_allclose(found[:, receivers], expected, rtol=1e-5, atol=1e-6)
    others = np.setdiff1d(EVERYONE, receivers)
    assert not found[:, others].any() and not found[:, receivers[1]].any()
    monkeypatch.setattr(products, "PROCESSORS", ())
    again = results(width)
    average(again, receivers, slice(0, width), terms, finite=False)
    assert again.tobytes() == found.tobytes()


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


def test_columns_that_are_no_whole_strips_are_left_to_torch():
    term, found = (matrix(EVERYONE, 0), rows(40, SENDERS, 0)), results(40)
    average(found, EVERYONE, slice(16, 40), [term], finite=False)
    np.testing.assert_allclose(found[..., 16:], np.einsum("rs,bsw->brw", term[0].toarray(), term[1])[..., 16:], rtol=1e-5, atol=1e-6)
    assert not found[..., :16].any()


@pytest.mark.parametrize(
    ("key", "value", "wrong"),
    [
        ("processor", "neon", "processor"),
        ("blocks", 0, "blocks"),
        ("blocks", 1 << 57, "blocks"),
        ("width", 48, "width"),
        ("results", np.zeros(31, np.float32), "results"),
        ("targets", np.array([0, ROWS]), "targets"),
        ("targets", np.array([-1, 0]), "targets"),
        ("rows", np.zeros(33, np.float32), "rows"),
        ("starts", np.array([0, 1, 4], np.int32), "starts"),
        ("starts", np.array([0, 2, 1], np.int32), "starts"),
        ("starts", np.array([0, 3], np.int32), "starts"),
        ("senders", np.array([0, SENDERS, 1], np.int32), "senders"),
        ("senders", np.array([0, -1, 1], np.int32), "senders"),
        ("weights", np.ones(2, np.float32), "weights"),
    ],
)
@pytest.mark.parametrize("term", [0, 1])
def test_memory_is_not_touched_where_sizes_do_not_fit(processor, key, value, wrong, term):
    if processor == "torch":
        pytest.skip("torch checks for itself")
    given = {"processor": processor, "results": results(32), "targets": np.array([3, 1]), "blocks": BLOCKS, "width": 32}
    parts = {
        "rows": rows(32, SENDERS, 0),
        "starts": np.array([0, 2, 3], np.int32),
        "senders": np.array([0, 2, 1], np.int32),
        "weights": np.ones(3, np.float32),
    }
    products.compiled.average(*given.values(), tuple(parts.values()), tuple(parts.values()))
    assert given["results"].any()
    given["results"][:] = 0
    changed = given | {key: value} if key in given else given
    terms = [tuple((parts | {key: value} if key in parts and at == term else parts).values()) for at in range(2)]
    with pytest.raises(ValueError, match=f"^average: {wrong} does not fit$"):
        products.compiled.average(*changed.values(), *terms)
    assert not given["results"].any()


@pytest.mark.parametrize("rows", [rows(64, SENDERS, 0).astype(np.float64), rows(64, SENDERS, 0)[:2], rows(32, SENDERS, 0)])
def test_rows_that_are_no_blocks_like_the_results_are_refused(rows):
    with pytest.raises(ValueError, match=r"^rows of an average are float32 \[3, S, 64\], not float"):
        average(results(64), EVERYONE, slice(0, 64), [(matrix(EVERYONE, 0), rows)], finite=False)


def test_it_is_compiled_where_there_is_a_compiler(processor):
    if processor != "torch":
        pytest.skip("asked once")
    compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")[0]
    headers = Path(sysconfig.get_path("include"), "Python.h").exists()
    if not (shutil.which(compiler) and headers and platform.machine() == "x86_64" and platform.system() == "Linux"):
        pytest.skip("no C compiler, no headers of Python, or another kind of machine")
    assert products.compiled is not None and products.compiled.STRIP == products.STRIP
    assert convolutions is not None
