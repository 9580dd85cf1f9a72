"""Median, trimmed mean and Krum: NumPy and SciPy, examples by hand, cohorts that are too small,
servers and graphs, attackers."""

import numpy as np
import pytest
import torch
from scipy.stats import trim_mean

from fedsim import rng
from fedsim.algorithms import FedAvg, Krum, Median, TrimmedMean
from fedsim.algorithms.krum import BLOCK, squared_distances
from fedsim.attacks import Attack
from fedsim.component import Fraction, component
from fedsim.errors import ConfigError
from fedsim.network.topology import Ring
from fedsim.protocols import Gossip
from tests.helpers import Cohorts, blobs_simulation, quadratic_run

RULES = [Median(), TrimmedMean(share=0.3), Krum(), Krum(attackers=2, selected=None)]
CENTRES = np.random.default_rng(4).normal(size=(7, 3)) * 4


def merged(rule, updates):
    """What a rule makes of updates [H, P] or [H]; the weights, which it is to ignore, are wild."""
    updates = torch.as_tensor(np.asarray(updates, np.float32)).reshape(len(updates), -1)
    return rule.merge(updates, torch.linspace(-5, 90, len(updates)), None).numpy()


@pytest.mark.parametrize("senders", range(1, 12))
def test_median_and_trimmed_mean_are_numpys_and_scipys(senders):
    updates = np.random.default_rng(senders).normal(size=(senders, 9)).astype(np.float32)
    np.testing.assert_allclose(merged(Median(), updates), np.median(updates, axis=0), rtol=1e-6)
    for share in (0.0, 0.1, 0.2, 0.34, 0.49):
        np.testing.assert_allclose(
            merged(TrimmedMean(share=share), updates),
            trim_mean(updates, share),
            rtol=1e-5,
            atol=1e-7,
        )


def test_how_many_are_cut_does_not_hang_on_rounding():
    """0.29 * 100 is 28.999999999999996 in floating point: 29 go at each end, of which one more
    would show."""
    updates = np.r_[np.full(29, -1e6), np.zeros(42), np.full(29, 1e6)]
    assert (
        merged(TrimmedMean(share=0.29), updates) == 0
        and abs(merged(TrimmedMean(share=0.28), updates[:-1])) > 1
    )


@pytest.mark.parametrize(
    ("rule", "updates", "by_hand"),
    [
        # squared distances to the two closest: 1 + 2.25, 0.25 + 1, 0.25 + 2.25, 2.25 + 4, and the
        # attacker far away
        (Krum(attackers=1), [0, 1, 1.5, 3, 100], 1),
        (Krum(attackers=1, selected=None), [0, 1, 1.5, 3, 100], (1 + 1.5) / 2),
        (Krum(attackers=1, selected=3), [0, 1, 1.5, 3, 100], (0 + 1 + 1.5) / 3),
        # Never more than n - f
        (Krum(attackers=1, selected=50), [0, 1, 1.5, 3, 100], (0 + 1 + 1.5 + 3) / 4),
        # with two attackers assumed only the closest counts: 1, 0.25, 0.25, 2.25; the first of
        # equals is taken
        (Krum(attackers=2), [0, 1, 1.5, 3, 100], 1),
        (Krum(attackers=2), [100, 1.5, 1, 0, 3], 1.5),
        (Krum(attackers=0), [0, 1, 1.5, 3, 100], 1.5),  # sums of three: 12.25, 5.25, 4.75, 15.25
        # too few for any guarantee
        (Krum(attackers=3), [7], 7),
        (Krum(attackers=3, selected=None), [7, 9], 7),
        (Krum(attackers=0, selected=2), [7, 9], 8),
        (Krum(), [5, 5, 5, 5, 5, 5], 5),
    ],
)
def test_krum_by_hand(rule, updates, by_hand):
    assert merged(rule, updates) == pytest.approx(by_hand, rel=1e-6)


def test_krums_distances_are_exact_where_updates_nearly_agree():
    """Vectors of length 1e4 that differ by 1e-2, in more coordinates than are taken at a time:
    float32 would lose all of it."""
    random = np.random.default_rng(5)
    rows = (
        random.normal(size=BLOCK + 100) * 40 + random.normal(size=(4, BLOCK + 100)) * 1e-2
    ).astype(np.float32)
    found = squared_distances(torch.from_numpy(rows)).numpy()
    exact = np.square(rows.astype(float)[:, None] - rows.astype(float)[None]).sum(axis=2)
    np.testing.assert_allclose(found, exact, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(found, found.T)


@pytest.mark.parametrize("broken", [np.nan, np.inf, 1e30])
def test_krum_does_not_choose_an_update_that_is_not_finite_or_huge(broken):
    assert np.isfinite(
        merged(Krum(attackers=1, selected=None), [[0, 1], [broken, 0], [1, 1], [1, 0], [0, 0]])
    ).all()
    assert merged(Krum(attackers=1), [[broken, 0], [0, 1], [1, 1], [1, 0], [0, 0]]).max() <= 1


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_at_a_server(rule):
    """The rule of the round's updates, whatever the numbers of examples; nothing in an empty round;
    one update is taken as it is."""
    cohorts, x = [[0, 2, 3, 5, 6], [], [4], [1, 2, 5, 6]], np.zeros(3)
    for cohort in filter(None, cohorts):
        x = x + merged(rule, (CENTRES[cohort] - x) / 2)
    found = quadratic_run(
        CENTRES,
        len(cohorts),
        copies=[1, 9, 2, 8, 3, 7, 4],
        participation=Cohorts(*cohorts),
        aggregator=rule,
    )
    np.testing.assert_allclose(found.models[0], x, rtol=1e-5)


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_over_a_graph(rule):
    """The rule of the trained models of the closed neighbourhood, those that are active; others
    keep their model."""
    cohorts, models = [range(7), [0, 1, 2, 4, 5], [3], range(7)], np.zeros((7, 3))
    for cohort in cohorts:
        before, trained = models.copy(), (models + CENTRES) / 2
        for node in cohort:
            near = sorted(
                other for other in {(node - 1) % 7, node, (node + 1) % 7} if other in cohort
            )
            models[node] = before[node] + merged(rule, trained[near] - before[node])
    found = quadratic_run(
        CENTRES,
        len(cohorts),
        participation=Cohorts(*map(list, cohorts)),
        aggregator=rule,
        protocol=Gossip(),
        topology=Ring(),
    )
    np.testing.assert_allclose(found.models, models, rtol=1e-4, atol=1e-5)


@component
class Blast(Attack):
    """Attackers send a huge vector."""

    share: Fraction = 0.25

    def forge(self, updates, hostile, seed, round):
        return torch.full((int(hostile.sum()), updates.shape[1]), 1e3)


@pytest.mark.parametrize(
    "rule",
    [Median(), TrimmedMean(share=0.26), Krum(attackers=2), Krum(attackers=2, selected=None)],
    ids=repr,
)
def test_attackers_do_not_carry_the_model_away(rule):
    """Two of eight attack: the mean is lost, the robust rules stay where the honest centres are."""
    centres = rng.generator(0, "centres").normal(size=(8, 4))
    lost, kept = (
        quadratic_run(centres, 10, aggregator=part, attack=Blast()).models
        for part in (FedAvg(), rule)
    )
    honest = centres[~Blast().attackers(0, 8)]
    assert np.abs(lost).min() > 100
    assert (kept >= honest.min(axis=0) - 1e-3).all() and (kept <= honest.max(axis=0) + 1e-3).all()


def test_refused_where_it_makes_no_sense():
    graph = {"protocol": Gossip(order="combine_then_adapt"), "topology": Ring()}
    with pytest.raises(ConfigError, match=r"protocol.order='combine_then_adapt'.*Median"):
        blobs_simulation(aggregator=Median(), **graph).prepare()
    with pytest.raises(ConfigError, match="less than 0.5"):
        TrimmedMean(share=0.5)
    with pytest.raises(ConfigError, match="one at a time"):
        Krum().check("walk")
