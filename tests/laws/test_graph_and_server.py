"""What ties a graph to a server, to linear algebra and to spectral theory."""

import functools

import numpy as np
import pytest

from fedsim.algorithms import FedAU, FedAvg, VarianceCorrection
from fedsim.data.partition import Natural
from fedsim.network.mixing import Metropolis, OwnShare, Uniform
from fedsim.network.topology import BarabasiAlbert, Complete, RandomRegular, Ring, Star
from fedsim.participation import Bernoulli
from fedsim.protocols import Gossip
from fedsim.simulation.simulation import Simulation
from fedsim.training.settings import LocalTraining
from tests.helpers import (
    Point,
    Quadratics,
    Ticks,
    blobs_simulation,
    dense_mixing,
    metropolis_matrix,
)

FROZEN = LocalTraining(steps=1, rate=1e-12)  # mixing alone


def nodes_at(width, topology, nodes, mixing=None, seed=0, local=FROZEN, centres=None, **parts):
    """Nodes that start from standard normal models of this width."""
    centres = np.zeros((nodes, width)) if centres is None else centres
    model = functools.partial(Point, start="normal")
    protocol = parts.pop("protocol", Gossip(same_start=False))
    data = Quadratics(centres=centres.tolist())
    parts = {
        "protocol": protocol,
        "topology": topology,
        "mixing": mixing,
        "local": local,
        "seed": seed,
        "aggregator": FedAvg("uniform"),
        **parts,
    }
    return Ticks(Simulation(data, Natural(), model, **parts))


@pytest.mark.parametrize("mixing", [Metropolis(), Uniform(), OwnShare(share=1 / 8)], ids=repr)
@pytest.mark.parametrize(
    "aggregator", [FedAvg(weighting="uniform"), FedAvg(weighting="size"), FedAU()], ids=repr
)
def test_a_complete_graph_with_equal_weights_is_a_server(aggregator, mixing):
    """8 clients with 3 to 10 examples, all taking part, from one initialisation."""
    server = blobs_simulation(5, aggregator=aggregator).run().models
    graph = (
        blobs_simulation(
            5, aggregator=aggregator, protocol=Gossip(), topology=Complete(), mixing=mixing
        )
        .run()
        .models
    )
    np.testing.assert_allclose(graph, server.repeat(8, axis=0), atol=2e-6)
    assert np.abs(server - blobs_simulation(1, local=FROZEN).run().models).max() > 0.1


@pytest.mark.parametrize("order", ["adapt_then_combine", "combine_then_adapt"])
@pytest.mark.parametrize("topology", [Ring(), BarabasiAlbert(edges=2), Star()], ids=repr)
def test_gossip_is_its_matrix_form(order, topology):
    """With one step of rate eta on quadratics: D-PSGD X <- W X - eta (X - C), local SGD on a graph
    X <- W (X - eta (X - C))."""
    nodes, width, rate = 7, 3, 0.3
    centres = 3 * np.random.Generator(np.random.Philox(1)).standard_normal((nodes, width))
    protocol, local = Gossip(order=order, same_start=False), LocalTraining(steps=1, rate=rate)
    with nodes_at(
        width, topology, nodes, Metropolis(), local=local, centres=centres, protocol=protocol
    ) as ticks:
        W, X = (
            metropolis_matrix(topology.adjacency(nodes, 0).toarray()),
            ticks.models.astype(np.float64),
        )
        for _ in range(6):
            gradient = X - centres
            X = (
                W @ X - rate * gradient
                if order == "combine_then_adapt"
                else W @ (X - rate * gradient)
            )
        np.testing.assert_allclose(ticks.run(6), X, atol=1e-5)


def consensus_distance(models):
    return np.sqrt(np.square(models - models.mean(axis=0)).sum(axis=1).mean())


@pytest.mark.parametrize(
    "topology", [Ring(), Star(), BarabasiAlbert(edges=2), RandomRegular(degree=4)], ids=repr
)
def test_consensus_error_shrinks_by_the_second_largest_modulus(topology):
    """Each round by at most max(|l2|, |lN|), and in the long run by exactly that."""
    with nodes_at(40, topology, 12, Metropolis()) as ticks:
        moduli = np.sort(
            np.abs(np.linalg.eigvalsh(metropolis_matrix(topology.adjacency(12, 0).toarray())))
        )
        distances = [consensus_distance(ticks.models)] + [
            consensus_distance(ticks.run()) for _ in range(12)
        ]
    ratios = np.array(distances[1:]) / distances[:-1]
    assert moduli[-1] == pytest.approx(1) and ratios.max() <= moduli[-2] + 1e-4
    assert ratios[-1] > 0.85 * moduli[-2]


@pytest.mark.parametrize("order", ["adapt_then_combine", "combine_then_adapt"])
def test_metropolis_mixing_keeps_the_mean_model_also_when_nodes_are_away(order):
    """On an irregular graph, where uniform weights over closed neighbourhoods do not."""
    parts = {
        "participation": Bernoulli(probability=0.6),
        "protocol": Gossip(order=order, same_start=False),
    }
    drift = {}
    for mixing in (Metropolis(), Uniform()):
        with nodes_at(30, BarabasiAlbert(edges=2), 12, mixing, **parts) as ticks:
            before = ticks.models
            drift[type(mixing)] = np.abs(ticks.run(6).mean(axis=0) - before.mean(axis=0)).max()
            assert consensus_distance(ticks.models) < 0.7 * consensus_distance(before)
    assert drift[Metropolis] < 1e-6 and drift[Uniform] > 0.01


def test_mixing_shrinks_the_variance_of_independent_models():
    """50 nodes of degree 8, own share 1/2: by b^2 + (1 - b)^2 / n at first, after t rounds by the
    node mean of sum_j (W^t)_ij^2."""
    with nodes_at(10_000, RandomRegular(degree=8), 50, OwnShare(share=0.5)) as ticks:
        W = dense_mixing(ticks.prepared.plan.links)
        start, found, expected = ticks.models.var(axis=1).mean(), [], []
        for t in range(1, 6):
            found.append(ticks.run().var(axis=1).mean() / start)
            expected.append(np.square(np.linalg.matrix_power(W, t)).sum(axis=1).mean())
    assert expected[0] == pytest.approx(0.5**2 + 0.5**2 / 8)
    np.testing.assert_allclose(expected, [0.281, 0.115, 0.061, 0.039, 0.030], atol=2e-3)
    # 10,000 parameters: a sampling error of 1.4 %
    np.testing.assert_allclose(found, expected, rtol=0.03)


def test_the_correction_stops_the_variance_from_vanishing():
    with nodes_at(
        1500, RandomRegular(degree=8), 50, OwnShare(share=0.5), correction=VarianceCorrection()
    ) as ticks:
        start = ticks.models.var(axis=1)
        np.testing.assert_allclose(ticks.run(1).var(axis=1).mean(), start.mean(), rtol=1e-3)
        np.testing.assert_allclose(ticks.run(4).var(axis=1).mean(), start.mean(), rtol=1e-3)


def test_a_fresh_graph_each_round_mixes_with_another_matrix_each_round():
    """The models after t rounds are W_t ... W_1 X, and no two W are alike."""
    topology = RandomRegular(degree=4, per_round=True)
    with nodes_at(5, topology, 12, Metropolis()) as ticks:
        X, matrices = ticks.models.astype(np.float64), []
        for round in range(4):
            matrices.append(metropolis_matrix(topology.adjacency(12, 0, round).toarray()))
            X = matrices[-1] @ X
        np.testing.assert_allclose(ticks.run(4), X, atol=1e-6)
    assert len(np.unique(matrices, axis=0)) == 4
