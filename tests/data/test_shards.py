"""Test parts of the clients: who keeps what, and what the draw depends on."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from fedsim.data.partition import Dirichlet
from fedsim.data.shards import Shards, holdout
from fedsim.errors import ConfigError

BALANCED = SimpleNamespace(y=np.repeat(np.arange(10), 600), client=None)


def same(a, b):
    return np.array_equal(a.indices, b.indices) and np.array_equal(a.offsets, b.offsets)


def test_label_counts_are_the_histograms_of_the_shards():
    shards = Shards.from_owners(np.array([4, 0, 4, 2]), np.array([2, 0, 2, 0]), 4)
    assert [shards.shard(client).tolist() for client in range(4)] == [[0, 2], [], [4, 4], []]
    assert shards.sizes.tolist() == [2, 0, 2, 0] and shards.owners.tolist() == [0, 0, 2, 2]
    assert shards.label_counts(np.array([1, 0, 1, 0, 2]), 3).tolist() == [
        [0, 2, 0],
        [0, 0, 0],
        [0, 0, 2],
        [0, 0, 0],
    ]


@settings(max_examples=40, deadline=None)
@given(
    samples=st.lists(st.lists(st.integers(0, 40), max_size=12), min_size=1, max_size=8),
    fraction=st.floats(0, 0.99),
    seed=st.integers(0, 2**32),
)
def test_holdout_divides_each_client_and_copies_stay_together(samples, fraction, seed):
    owner = np.repeat(np.arange(len(samples)), [len(s) for s in samples])
    shards = Shards.from_owners(np.array(sum(samples, []), dtype=np.int64), owner, len(samples))
    train, test = holdout(shards, fraction, seed)
    for client, held in enumerate(samples):
        assert sorted([*train.shard(client), *test.shard(client)]) == sorted(held)
        assert not set(train.shard(client)) & set(test.shard(client))
        distinct = len(set(held))
        wanted = (
            0
            if fraction == 0 or distinct < 2
            else min(max(int(fraction * distinct + 0.5), 1), distinct - 1)
        )
        assert len(set(test.shard(client))) == wanted


def test_holdout_is_keyed_by_seed_and_client():
    shards = Dirichlet(clients=20).split(BALANCED, 10, 0)
    _, test = holdout(shards, 0.25, 1)
    assert same(test, holdout(shards, 0.25, 1)[1]) and not same(test, holdout(shards, 0.25, 2)[1])
    kept = shards.offsets[7]  # the first 7 clients alone, and one more with a single sample
    alone = Shards(shards.indices[: kept + 1], np.append(shards.offsets[:8], kept + 1))
    _, again = holdout(alone, 0.25, 1)
    assert np.array_equal(again.indices, test.indices[: test.offsets[7]])
    twins = Shards.from_owners(np.tile(np.arange(40), 2), np.repeat([0, 1], 40), 2)
    _, test = holdout(twins, 0.5, 0)
    assert set(test.shard(0)) != set(test.shard(1))


def test_holdout_takes_each_sample_equally_often():
    shards = Shards(np.arange(5), np.array([0, 5]))
    often = np.bincount(
        np.concatenate([holdout(shards, 0.4, seed)[1].indices for seed in range(500)]), minlength=5
    )
    assert often.sum() == 1000 and np.all(np.abs(often - 200) < 4 * np.sqrt(500 * 0.4 * 0.6))


@pytest.mark.parametrize("fraction", [1.0, -0.1, float("nan")])
def test_holdout_refuses_a_fraction_out_of_range(fraction):
    with pytest.raises(ConfigError, match="holdout.fraction="):
        holdout(Shards(np.arange(2), np.array([0, 2])), fraction, 0)
