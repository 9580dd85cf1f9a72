"""FedAvg: one round by hand, and its forms among themselves."""

import numpy as np
import pytest

from fedsim.algorithms import FedAvg
from fedsim.network.topology import Star
from fedsim.protocols import Gossip
from tests.helpers import Cohorts, quadratic_run

# one step of rate 1/2 from 0 with gradient x - c: the updates are (2, 0), (0, 4), (-2, 2), (4, 4);
# shards of 1, 3, 2 and 2
CENTRES, COPIES = [[4, 0], [0, 8], [-4, 4], [8, 8]], [1, 3, 2, 2]
COHORT, PROBABILITIES = [0, 1, 3], [0.5, 0.25, 0.5, 0.8]


def server(aggregator, rounds=1, **parts):
    cohorts = Cohorts(*[COHORT] * rounds, probabilities=PROBABILITIES)
    return quadratic_run(
        CENTRES, rounds, copies=COPIES, participation=cohorts, aggregator=aggregator, **parts
    ).models[0]


@pytest.mark.parametrize(
    ("weighting", "by_hand"),
    [
        ("size", [(1 * 2 + 3 * 0 + 2 * 4) / 6, (1 * 0 + 3 * 4 + 2 * 4) / 6]),
        ("uniform", [6 / 3, 8 / 3]),
        ("all", [6 / 4, 8 / 4]),
        ("known_prob", [(2 / 0.5 + 0 / 0.25 + 4 / 0.8) / 4, (0 / 0.5 + 4 / 0.25 + 4 / 0.8) / 4]),
    ],
)
@pytest.mark.parametrize("rate", [1.0, 0.5])
def test_one_round_at_a_server(weighting, by_hand, rate):
    np.testing.assert_allclose(
        server(FedAvg(weighting=weighting, rate=rate)), rate * np.array(by_hand), rtol=1e-6
    )


def test_the_second_round_starts_from_the_first():
    # x1 = (2, 8/3); a round moves x by the mean of (c - x) / 2 over the cohort, whose centres have
    # the mean (4, 16/3)
    np.testing.assert_allclose(server(FedAvg(weighting="uniform"), rounds=2), [3.0, 4.0], rtol=1e-6)


def test_two_local_steps():
    # x goes three quarters of the way to c in two steps of rate 1/2
    np.testing.assert_allclose(server(FedAvg(weighting="uniform"), steps=2), [3.0, 4.0], rtol=1e-6)


@pytest.mark.parametrize(
    ("weighting", "weights"),  # of the updates of nodes 0 and 1 at nodes 0 and 1
    [
        # What node 2 would have given stays with node 0
        ("uniform", [[2 / 3, 1 / 3], [1 / 3, 2 / 3]]),
        ("all", [[1 / 3, 1 / 3], [1 / 3, 2 / 3]]),  # it is lost
        # 1 / (3 * 0.25) and 1 / (3 * 0.5); a node's own p is 1
        ("known_prob", [[1 / 3, 4 / 3], [2 / 3, 2 / 3]]),
        ("size", [[2 / 5, 3 / 5], [1 / 7, 6 / 7]]),  # 2/3 * 1 : 1/3 * 3 and 1/3 * 1 : 2/3 * 3
    ],
)
def test_one_round_over_a_star_with_a_leaf_away(weighting, weights):
    """Metropolis weights of a star of three: 1/3 between the centre 0 and a leaf, 1/3 and 2/3 to
    themselves. Nodes 0 and 1 are active."""
    participation = Cohorts([0, 1], probabilities=[0.5, 0.25, 0.5])
    graph = {"protocol": Gossip(), "topology": Star(), "participation": participation}
    models = quadratic_run(
        CENTRES[:3],
        1,
        copies=COPIES[:3],
        start=[1.0, 1.0],
        aggregator=FedAvg(weighting=weighting),
        **graph,
    ).models
    updates = (np.array(CENTRES[:2]) - 1) / 2
    np.testing.assert_allclose(models, [*(1 + np.array(weights) @ updates), [1, 1]], rtol=1e-6)


def test_average_all_is_average_participating_times_share_of_the_cohort():
    np.testing.assert_allclose(
        server(FedAvg(weighting="all", rate=4 / 3)), server(FedAvg(weighting="uniform")), rtol=1e-6
    )


def test_known_prob_with_certain_participation_is_average_all():
    parts = {"copies": COPIES, "participation": Cohorts(COHORT, probabilities=1.0)}
    known, every = (
        quadratic_run(CENTRES, 1, aggregator=FedAvg(weighting=name), **parts).models
        for name in ("known_prob", "all")
    )
    np.testing.assert_array_equal(known, every)
