"""Keyed random numbers: known answers, independence of who is drawn together, and uniformity."""

import numpy as np
import pytest
from scipy import stats

from fedsim.rng import bits, derived_seed, generator, philox, uniform

ONES = 0xFFFFFFFF
CLIENTS = np.array([0, 1, 7, 1000, 2**31, ONES])


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        ((0, 0, 0, 0), (0, 0), "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ((ONES,) * 4, (ONES, ONES), "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
)
def test_known_answers_of_random123(counter, key, words):
    assert " ".join(f"{int(word):08x}" for word in philox(counter, key)) == words


def test_counters_broadcast():
    rows, columns = np.arange(3)[:, None], np.arange(5)[None, :]
    table = np.stack(philox((rows, columns, 4, ONES), (1, 2)), axis=-1)
    assert table.shape == (3, 5, 4)
    assert table[2, 3].tolist() == [int(word) for word in philox((2, 3, 4, ONES), (1, 2))]


@pytest.mark.parametrize("width", [1, 4, 9])
def test_bits_depend_neither_on_company_nor_on_width(width):
    together = bits(3, "batches", 5, CLIENTS, 23, stream=2)
    assert together.max() < 2**32
    for row, client in enumerate(CLIENTS):
        assert np.array_equal(
            bits(3, "batches", 5, CLIENTS[row : row + 1], width, stream=2)[0], together[row, :width]
        ), client
    order = [4, 0, 2]
    assert np.array_equal(bits(3, "batches", 5, CLIENTS[order], 23, stream=2), together[order])
    assert np.array_equal(
        uniform(3, "split", 5, CLIENTS[order]), uniform(3, "split", 5, CLIENTS)[order]
    )


def test_nobody_and_nothing():
    assert bits(0, "batches", 0, np.arange(0), 8).shape == (0, 8)
    assert bits(0, "batches", 0, np.arange(3), 0).shape == (3, 0)
    assert uniform(0, "batches", 0, np.arange(0)).shape == (0,)


def test_every_coordinate_changes_all_bits():
    first = bits(3, "batches", 5, CLIENTS, 64, stream=2)
    others = [
        bits(4, "batches", 5, CLIENTS, 64, stream=2),
        bits(3, "split", 5, CLIENTS, 64, stream=2),
        bits(3, "batches", 6, CLIENTS, 64, stream=2),
        bits(3, "batches", 5, CLIENTS, 64, stream=3),
        bits(3, "batches", 2, CLIENTS, 64, stream=5),  # round and stream are not exchangeable
        bits(3, "batches", 5, CLIENTS - CLIENTS[::-1] % 7 + 11, 64, stream=2),
    ]
    for other in others:
        assert not (first == other).any()
    assert len(np.unique(first)) == first.size  # nor do clients or positions repeat one another


@pytest.mark.parametrize("seed", [0, 1, 2**40 + 5])
@pytest.mark.parametrize("shift", [0, 24])
def test_bytes_are_uniform_and_neighbours_independent(seed, shift):
    values = (
        np.stack([bits(seed, "batches", round, np.arange(50), 40) for round in range(20)]).astype(
            np.int64
        )
        >> shift
        & 255
    )
    assert 1e-4 < stats.chisquare(np.bincount(values.ravel(), minlength=256)).pvalue < 1 - 1e-4
    for axis in range(3):  # rounds, clients, positions
        low, high = (
            np.take(values, range(values.shape[axis])[part], axis) >> 4
            for part in (slice(None, -1), slice(1, None))
        )
        pairs = np.bincount((low * 16 + high).ravel(), minlength=256)
        assert 1e-4 < stats.chisquare(pairs).pvalue < 1 - 1e-4


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_uniform_numbers_are_uniform_below_one_and_fine_grained(seed):
    values = np.concatenate(
        [uniform(seed, "participation", round, np.arange(1000)) for round in range(20)]
    )
    assert values.min() >= 0 and values.max() < 1
    assert 1e-4 < stats.kstest(values, "uniform").pvalue
    # 32 bits would repeat in 20,000 draws with chance 5 %
    assert len(np.unique(values)) == len(values)
    assert 1e-4 < stats.kstest(values * 2**32 % 1, "uniform").pvalue  # the bits below the first 32


def test_largest_uniform_number_is_below_one(monkeypatch):
    monkeypatch.setattr("fedsim.rng.bits", lambda *_: np.full((1, 2), ONES, np.uint64))
    assert uniform(0, "split", 0, np.arange(1))[0] == 1 - 2.0**-53


def test_generators_are_keyed():
    keys = [
        (0, "init"),
        (1, "init"),
        (0, "split"),
        (0, "init", 0),
        (0, "init", 0, 0),
        (0, "init", 1),
        (0, "init", 0, 1),
    ]
    draws = [generator(*key).random() for key in keys]
    assert len(set(draws)) == len(keys)
    assert draws == [generator(*key).random() for key in keys]
    seeds = [derived_seed(*key) for key in keys]
    assert len(set(seeds)) == len(keys) and all(
        isinstance(seed, int) and 0 <= seed < 2**63 for seed in seeds
    )
