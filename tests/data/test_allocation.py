"""The steps partitions are made of, each against a slow reference or its law."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from fedsim.data.allocation import cut, draw_refilled, fill, log_dirichlet


@pytest.mark.parametrize("alpha", [1e-3, 0.1, 1.0, 30.0])
def test_dirichlet_draws_have_the_second_moment_of_the_law(alpha):
    draws = np.exp(log_dirichlet(np.random.default_rng(1), alpha, 20_000, 10))
    np.testing.assert_allclose(draws.sum(axis=1), 1)
    second = (draws**2).sum(axis=1)
    assert (
        abs(second.mean() - (alpha + 1) / (10 * alpha + 1))
        < 4 * second.std() / np.sqrt(20_000) + 1e-9
    )
    assert np.all(np.abs(draws.mean(axis=0) - 0.1) < 4 * draws.std(axis=0) / np.sqrt(20_000))


def test_cut_loses_nothing_and_is_off_by_at_most_one():
    # [50 clients, 4 classes]
    shares = np.exp(log_dirichlet(np.random.default_rng(0), 0.5, 4, 50)).T
    totals = np.array([0, 1, 997, 6000])
    counts = cut(shares, totals)
    assert np.array_equal(counts.sum(axis=0), totals) and np.all(counts >= 0)
    assert np.all(np.abs(counts - shares * totals) <= 1)


@settings(max_examples=60, deadline=None)
@given(owner=st.lists(st.integers(0, 9), min_size=1, max_size=120), data=st.data())
def test_fill_moves_one_sample_at_a_time_from_the_largest_shard(owner, data):
    owner = np.array(owner)
    min_size = data.draw(st.integers(0, len(owner) // 10))
    filled = fill(owner, 10, min_size, np.random.default_rng(0))
    sizes = np.bincount(owner, minlength=10)
    missing = np.maximum(min_size - sizes, 0)
    reference = np.maximum(sizes, min_size)
    for _ in range(missing.sum()):
        reference[reference.argmax()] -= 1
    assert sorted(np.bincount(filled, minlength=10)) == sorted(reference)
    assert np.count_nonzero(filled != owner) == missing.sum()  # nothing else has moved


def test_fill_takes_random_samples_of_the_giver():
    given = fill(np.zeros(1000, dtype=int), 2, 400, np.random.default_rng(0)).nonzero()[0]
    assert abs(given.mean() - 499.5) < 4 * np.sqrt(1000**2 / 12 / 400)


def test_fill_serves_a_client_from_as_few_givers_as_can_be():
    """So that a small client is as skewed as its givers: a run along 3 givers and 9 receivers meets
    at most 3 + 9 - 1 pairs."""
    owner = np.repeat([0, 1, 2], [400, 300, 400])
    filled = fill(owner, 12, 50, np.random.default_rng(0))
    moved = filled != owner
    assert len(set(zip(owner[moved], filled[moved], strict=True))) <= 11


def test_draw_refilled_skips_what_a_client_holds_when_the_pool_is_refilled():
    for seed in range(50):
        drawn = draw_refilled(np.random.default_rng(seed), np.arange(5), np.array([3, 4, 0, 5, 3]))
        first, second, fourth, fifth = np.split(drawn, [3, 7, 12])
        assert [len(set(part)) for part in (first, second, fourth, fifth)] == [3, 4, 5, 3]
        assert set(first) | set(second[:2]) == set(range(5)) == set(fourth[3:]) | set(fifth)
