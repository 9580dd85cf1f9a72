"""Rounds over a graph by hand, in both orders, with everybody and with a node away."""

import numpy as np
import pytest

from fedsim.algorithms import Aggregator, FedAvg
from fedsim.network.mixing import Metropolis, OwnShare, Uniform
from fedsim.network.topology import Star
from fedsim.protocols import Gossip
from tests.helpers import Cohorts, Heavy, quadratic_run

# one step of rate 1/2 with gradient x - c, on a star of three with centre 0; from 0 the models
# become (6, 0), (0, 12), (-6, 6)
CENTRES = [[12, 0], [0, 24], [-12, 12]]
PLAIN = FedAvg(weighting="uniform")


def graph_run(rounds, order="adapt_then_combine", mixing=None, **parts):
    return quadratic_run(
        CENTRES,
        rounds,
        protocol=Gossip(order=order),
        topology=Star(),
        mixing=mixing,
        aggregator=PLAIN,
        **parts,
    ).models


@pytest.mark.parametrize(
    ("mixing", "by_hand"),
    [
        # Metropolis: 1/3 between centre and leaf; 1/3 and 2/3 to themselves
        (None, [[0, 6], [2, 8], [-2, 4]]),
        (Metropolis(), [[0, 6], [2, 8], [-2, 4]]),
        (Uniform(), [[0, 6], [3, 6], [0, 3]]),  # 1/3 each at the centre, halves at a leaf
        (
            OwnShare(share=0.25),
            [[(6 + 1.5 * -6) / 4, (1.5 * 18) / 4], [18 / 4, 12 / 4], [(-6 + 18) / 4, 6 / 4]],
        ),
    ],
)
def test_adapt_then_combine_mixes_the_trained_models(mixing, by_hand):
    np.testing.assert_allclose(graph_run(1, mixing=mixing), by_hand, rtol=1e-6, atol=1e-6)


def test_adapt_then_combine_second_round():
    # from (0, 6), (2, 8), (-2, 4) halfway to the centres: (6, 3), (1, 16), (-7, 8)
    np.testing.assert_allclose(
        graph_run(2), [[0, 9], [8 / 3, 35 / 3], [-8 / 3, 19 / 3]], rtol=1e-6, atol=1e-6
    )


def test_combine_then_adapt_mixes_the_models_as_they_were_and_adds_the_own_update():
    np.testing.assert_allclose(
        graph_run(1, "combine_then_adapt"), [[6, 0], [0, 12], [-6, 6]], rtol=1e-6, atol=1e-6
    )
    # mixed (0, 6), (2, 8), (-2, 4), plus half of what each model lacked to its centre: (3, 0), (0,
    # 6), (-3, 3)
    np.testing.assert_allclose(
        graph_run(2, "combine_then_adapt"), [[3, 6], [2, 14], [-5, 7]], rtol=1e-6, atol=1e-6
    )


@pytest.mark.parametrize(
    ("mixing", "by_hand"),
    [
        (Metropolis(), [[4, 4], [2, 8], [1, 1]]),  # what node 2 would have given stays with node 0
        # All of the other share goes to the one that was heard
        (OwnShare(share=0.25), [[1.5, 9], [4.5, 3], [1, 1]]),
    ],
)
def test_an_absent_node_neither_trains_nor_sends_nor_receives(mixing, by_hand):
    """From (1, 1) with the centres moved by 1, so that nodes 0 and 1 train to (6, 0) and (0,
    12)."""
    centres = [[11, -1], [-1, 23], [7, 7]]
    graph = {
        "protocol": Gossip(),
        "topology": Star(),
        "mixing": mixing,
        "participation": Cohorts([0, 1]),
    }
    np.testing.assert_allclose(
        quadratic_run(centres, 1, start=1.0, aggregator=PLAIN, **graph).models,
        by_hand,
        rtol=1e-6,
        atol=1e-6,
    )


@pytest.mark.parametrize("order", ["adapt_then_combine", "combine_then_adapt"])
def test_the_base_class_alone_is_plain_gossip(order):
    graph = {
        "protocol": Gossip(order=order),
        "topology": Star(),
        "participation": Cohorts([0, 1], [2], [0, 1, 2]),
    }
    base, plain = (
        quadratic_run(CENTRES, 3, aggregator=rule, **graph).models for rule in (Aggregator(), PLAIN)
    )
    np.testing.assert_array_equal(base, plain)


def test_nodes_start_alike_or_each_from_its_own_initialisation():
    starts = [
        quadratic_run(
            CENTRES,
            1,
            start="normal",
            rate=1e-30,
            protocol=Gossip(same_start=same),
            topology=Star(),
            participation=Cohorts([]),
        )
        for same in (True, False)
    ]
    assert (
        len(np.unique(starts[0].models, axis=0)) == 1
        and len(np.unique(starts[1].models, axis=0)) == 3
    )
    np.testing.assert_array_equal(starts[0].models[0], starts[1].models[0])


def test_shared_vectors_are_each_receivers_own():
    """Updates -(x - c - last / 2) / 2 with each node's own `last`: the mean update it heard in its
    last active round."""
    weights = {
        (0, 1, 2): [[1, 1, 1], [1, 2, 0], [1, 0, 2]],
        (0, 1): [[2, 1, 0], [1, 2, 0], [0, 0, 3]],
    }
    cohorts = [(0, 1, 2), (0, 1), (0, 1, 2)]
    graph = {"protocol": Gossip(), "topology": Star(), "participation": Cohorts(*cohorts)}
    models = quadratic_run(CENTRES, 3, client=Heavy(), aggregator=PLAIN, **graph).models
    x, last = np.zeros((3, 2)), np.zeros((3, 2))
    for cohort in cohorts:
        active, W = np.isin(range(3), cohort)[:, None], np.array(weights[cohort]) / 3
        update = np.where(active, -(x - CENTRES - last / 2) / 2, 0)
        x, last = W @ (x + update), np.where(active, W @ update, last)
    np.testing.assert_allclose(models, x, rtol=1e-6, atol=1e-6)
