"""Participation: the laws of each pattern in closed form, keyed draws, and resumption."""

import importlib

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import fedsim.participation as participation
from fedsim.participation import Bernoulli, Cyclic, Full, Markov, Population, Trace, Uniform
from fedsim.participation.bernoulli import geometric_skips
from fedsim.participation.markov import transition_probabilities
from fedsim.rng import generator, uniform


def population(size, empty=(), labels=None):
    eligible = np.ones(size, dtype=bool)
    eligible[list(empty)] = False
    return Population(size, eligible, labels)


def masks(pattern, rounds):
    """bool [rounds, N]"""
    out = np.zeros((rounds, len(pattern.probabilities)), dtype=bool)
    for t in range(rounds):
        out[t, pattern.cohort(t)] = True
    return out


def runs_of(column):
    """[(value, length), ...] of one client's mask."""
    edges = np.flatnonzero(np.diff(column)) + 1
    return [(part[0], len(part)) for part in np.split(column, edges)]


@pytest.fixture
def patterns(tmp_path):
    """One of each, over 40 clients of which two hold no data."""
    rows = pd.DataFrame({"round": np.arange(900) // 3, "client": np.arange(900) * 7 % 40})
    rows.to_parquet(tmp_path / "trace.parquet")
    people = population(40, empty=(3, 17))
    spread = list(np.linspace(0.01, 0.9, 40))
    settings = {
        "full": Full(),
        "uniform": Uniform(cohort=7),
        "bernoulli": Bernoulli(given=spread),
        "markov": Markov(given=spread),
        "cyclic": Cyclic(given=spread, period=30),
        "random_phase": Cyclic(given=spread, period=30, random_phase=True),
        "trace": Trace(file=str(tmp_path / "trace.parquet"), repeat=True),
    }
    return {name: lambda seed=0, s=s: s.bind(people, seed) for name, s in settings.items()}


NAMES = ["full", "uniform", "bernoulli", "markov", "cyclic", "random_phase", "trace"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("after", [1, 256])
def test_a_restored_pattern_goes_on_with_the_same_cohorts(patterns, name, after):
    stop = after + int(generator(0, "test", len(name)).integers(200))
    whole = patterns[name]()
    expected = masks(whole, 600)  # crosses the toggling patterns' windows
    first, resumed = patterns[name](), patterns[name]()
    masks(first, stop)
    saved = first.state()
    assert all(isinstance(value, np.ndarray) for value in saved.values())
    first.cohort(stop)  # goes on, and must not reach into what was saved
    resumed.restore(saved)
    for t in range(stop, 600):
        np.testing.assert_array_equal(resumed.cohort(t), np.flatnonzero(expected[t]))


@pytest.mark.parametrize("name", NAMES)
def test_cohorts_are_sorted_keyed_and_without_empty_clients(patterns, name):
    first, again, other = patterns[name](), patterns[name](), patterns[name](seed=1)
    differs = False
    for t in range(0, 60, 2):  # gaps are allowed
        cohort = first.cohort(t)
        np.random.random(3)  # the global generator plays no part
        np.testing.assert_array_equal(cohort, again.cohort(t))
        differs |= not np.array_equal(cohort, other.cohort(t))
        assert (
            cohort.dtype == np.int64 and np.all(np.diff(cohort) > 0) and not {3, 17} & set(cohort)
        )
        cohort[:] = 0  # a caller's scribbling must not change the pattern
    assert differs == (name not in ("full", "trace"))
    assert first.probabilities[3] == first.probabilities[17] == 0
    for earlier in (58, 4):
        with pytest.raises(ValueError, match="increasing order"):
            first.cohort(earlier)


@pytest.mark.parametrize("name", ["markov", "cyclic"])
def test_gaps_give_the_cohorts_of_the_rounds_asked(patterns, name):
    every, some = masks(patterns[name](), 700), patterns[name]()
    for t in (0, 5, 255, 256, 257, 699):
        np.testing.assert_array_equal(some.cohort(t), np.flatnonzero(every[t]))


@pytest.mark.parametrize(
    "name", ["full", "uniform", "bernoulli", "markov", "cyclic", "random_phase", "trace"]
)
def test_exposed_probabilities_are_the_long_run_shares(patterns, name):
    pattern, rounds = patterns[name](), 3000
    share = masks(pattern, rounds).mean(0)
    # variance of a time average; a chain's correlation time is at most (2 - p_on - p_off) / (p_on +
    # p_off) < 2 / 0.05
    noise = 5 * np.sqrt(0.25 / rounds * (40 if name == "markov" else 1))
    np.testing.assert_allclose(share, pattern.probabilities, atol=noise if name != "full" else 0)


# --- Uniform
# --------------------------------------------------------------------------------------------------


def test_uniform_cohorts_make_every_pair_equally_likely():
    pattern = Uniform(cohort=2).bind(population(6, empty=(2,)), 0)
    counts = np.zeros((6, 6))
    for t in range(4000):
        a, b = pattern.cohort(t)
        counts[a, b] += 1
    pairs = counts[counts > 0]
    assert len(pairs) == 10 and stats.chisquare(pairs).pvalue > 1e-4
    np.testing.assert_allclose(pattern.probabilities, [0.4, 0.4, 0, 0.4, 0.4, 0.4])


# --- Bernoulli
# --------------------------------------------------------------------------------------------------

LEVELS = np.array([1.0, 0.9, 0.6, 0.5, 0.49, 0.3, 0.1, 0.03, 0.004])


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_bernoulli_marginals_and_independence(seed):
    copies, rounds = 40, 1500
    p = np.repeat(LEVELS, copies)
    seen = masks(Bernoulli(given=p.tolist()).bind(population(len(p)), seed), rounds)
    pooled = seen.reshape(rounds, len(LEVELS), copies).mean((0, 2))
    np.testing.assert_array_less(
        np.abs(pooled - LEVELS), 5 * np.sqrt(LEVELS * (1 - LEVELS) / (rounds * copies)) + 1e-12
    )
    # Each place in a bucket is as likely as any other
    position = seen.reshape(rounds, len(LEVELS), copies)[:, 1:].mean(0)
    z = (position - LEVELS[1:, None]) / np.sqrt(LEVELS[1:, None] * (1 - LEVELS[1:, None]) / rounds)
    assert 0.75 < z.std() < 1.25 and np.abs(z).max() < 5.5
    size = seen.sum(1)
    variance = (p * (1 - p)).sum()  # of a sum of independent indicators
    assert abs(size.var() / variance - 1) < 5 * np.sqrt(2 / rounds)
    assert abs(np.corrcoef(size[1:], size[:-1])[0, 1]) < 5 / np.sqrt(rounds)


def test_bernoulli_has_the_law_of_a_coin_per_client():
    p = np.array([0.9, 0.55, 0.3, 0.26])  # two buckets, each with thinning
    pattern = Bernoulli(given=p.tolist()).bind(population(4), 5)
    code = masks(pattern, 6000) @ (1 << np.arange(4))
    outcome = np.arange(16)[:, None] >> np.arange(4) & 1
    law = np.prod(np.where(outcome, p, 1 - p), axis=1)
    assert stats.chisquare(np.bincount(code, minlength=16), 6000 * law).pvalue > 1e-4


def test_bernoulli_cohort_sizes_agree_with_the_plain_loop():
    p = np.random.default_rng(0).beta(0.5, 4, 300)
    ours = masks(Bernoulli(given=p.tolist()).bind(population(300), 0), 2000).sum(1)
    plain = (np.random.default_rng(1).random((2000, 300)) < p).sum(1)
    assert stats.ks_2samp(ours, plain).pvalue > 1e-4


def test_geometric_skips():
    np.testing.assert_array_equal(geometric_skips(generator(0, "test"), 1.0, 5), np.arange(5))
    assert len(geometric_skips(generator(0, "test"), 1e-300, 10**6)) == 0
    draws = [geometric_skips(generator(0, "test", k), 0.2, 10) for k in range(2000)]
    assert all(np.all(np.diff(d) > 0) and (len(d) == 0 or 0 <= d[0] <= d[-1] < 10) for d in draws)
    assert stats.chisquare(np.bincount(np.concatenate(draws), minlength=10)).pvalue > 1e-4


@pytest.mark.parametrize(
    "module, settings", [("bernoulli", {}), ("markov", {}), ("cyclic", {"period": 1000})]
)
def test_a_round_costs_its_cohort_and_not_a_million_clients(monkeypatch, module, settings):
    owner, drawn = importlib.import_module(f"fedsim.participation.{module}"), []
    pattern = getattr(participation, module.title())(probability=1e-3, **settings).bind(
        population(1_000_000), 0
    )
    counted = owner.uniform
    monkeypatch.setattr(
        owner, "uniform", lambda *args: drawn.append(len(args[3])) or counted(*args)
    )
    sizes = [len(pattern.cohort(t)) for t in range(20)]
    assert 800 < np.mean(sizes) < 1200 and sum(drawn) < 3 * sum(sizes)


# --- Markov
# --------------------------------------------------------------------------------------------------


def test_transition_probabilities_by_hand():
    p_on, p_off = transition_probabilities(np.array([0.1, 1 / 21, 0.02, 1.0, 0.0]), 0.05)
    np.testing.assert_allclose(p_on, [0.05, 0.05, 0.05 / 2.45, 0.05, 0.0])
    np.testing.assert_allclose(p_off, [0.45, 1.0, 1.0, 0.0, 1.0])
    np.testing.assert_allclose((p_on / (p_on + p_off))[[0, 1, 2, 3]], [0.1, 1 / 21, 0.02, 1.0])


@pytest.mark.parametrize("probability", [0.5, 0.1, 0.02])
def test_markov_is_stationary_from_round_0_with_geometric_holding_times(probability):
    clients, rounds = 3000, 120
    seen = masks(Markov(probability=probability).bind(population(clients), 1), rounds)
    (p_on,), (p_off,) = transition_probabilities(np.array([probability]), 0.05)
    deviation = 5 * np.sqrt(probability * (1 - probability) / clients)
    assert np.all(np.abs(seen.mean(1) - probability) < deviation)  # in every single round
    # The first step, and all of them
    for before, after in ((seen[:1], seen[1:2]), (seen[:-1], seen[1:])):
        for state, leaving in ((True, p_off), (False, p_on)):
            count = (before == state).sum()
            left = (after[before == state] != state).mean()
            assert abs(left - leaving) <= 5 * np.sqrt(leaving * (1 - leaving) / count)
    lengths = {True: [], False: []}
    long = masks(Markov(probability=probability).bind(population(60), 2), 4000)
    for column in long.T:
        for value, length in runs_of(column)[1:-1]:
            lengths[bool(value)].append(length)
    for state, leaving in ((True, p_off), (False, p_on)):
        values = np.array(lengths[state])
        spread = np.sqrt(1 - leaving) / leaving
        # Censoring of the longest
        assert (
            abs(values.mean() - 1 / leaving) <= 5 * spread / np.sqrt(len(values)) + 0.02 / leaving
        )
        if leaving < 1:
            assert abs(values.var() / spread**2 - 1) < 0.3


def test_a_markov_path_belongs_to_its_client_alone():
    few = masks(Markov().bind(population(10), 4), 200)
    many = masks(Markov().bind(population(5000), 4), 200)
    np.testing.assert_array_equal(few, many[:, :10])
    # The state before round 0, which is stepped once before it is used
    begun = uniform(4, "participation", 0, np.arange(5000), 1) < 0.1
    assert abs((~many[0, begun]).mean() - 0.45) < 5 * np.sqrt(0.25 / begun.sum())
    certain = masks(Markov(given=[1.0, 0.0]).bind(population(2), 0), 50)
    assert certain[:, 0].all() and not certain[:, 1].any()


# --- Cyclic
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("random_phase", [False, True])
def test_cyclic_blocks_have_exact_lengths(random_phase):
    given = [0.25, 0.004, 0.5, 1.0, 0.0, 0.025]
    pattern = Cyclic(given=given, random_phase=random_phase).bind(population(6), 3)
    on, off = [25, 1, 50, 100, None, 2], [75, 99, 50, 1, None, 98]  # round(2.5) is 2
    seen = masks(pattern, 450)
    for client in (0, 1, 2, 3, 5):
        blocks = runs_of(seen[:, client])
        assert len(blocks) >= 5 and all(
            length == (on if value else off)[client] for value, length in blocks[1:-1]
        )
        assert blocks[0][1] <= (on if blocks[0][0] else off)[client]
        assert pattern.probabilities[client] == on[client] / (on[client] + off[client])
    assert not seen[:, 4].any() and pattern.probabilities[4] == 0


def test_cyclic_starts_off_for_a_uniform_time():
    seen = masks(Cyclic(probability=0.3, period=20).bind(population(7000), 0), 14)
    starts = np.where(seen.any(0), seen.argmax(0), -1)
    # Everybody has begun within off = 14 rounds, each of 0..13 equally often
    assert starts.min() == 0
    assert stats.chisquare(np.bincount(starts, minlength=14)).pvalue > 1e-4


def test_random_phase_makes_the_duty_cycle_the_chance_in_every_round():
    clients = 6000
    people = population(clients)
    even = masks(Cyclic(probability=0.3, period=20, random_phase=True).bind(people, 0), 40).mean(1)
    assert np.all(np.abs(even - 0.3) < 5 * np.sqrt(0.21 / clients))
    swinging = masks(Cyclic(probability=0.3, period=20).bind(people, 0), 40).mean(1)
    assert swinging.min() < 0.1 and swinging.max() > 0.4
