"""Gradient tracking: its matrix form, the sum that trackers keep, and the exact optimum that gossip
misses."""

import functools

import numpy as np
import pytest

from fedsim.algorithms import Dsgt, FedAU, FedAvg, Sgd, VarianceCorrection
from fedsim.data.partition import Natural
from fedsim.errors import ConfigError
from fedsim.network.mixing import Uniform
from fedsim.network.topology import BarabasiAlbert
from fedsim.participation import Bernoulli, Full
from fedsim.protocols import Gossip, Server
from fedsim.simulation.simulation import Simulation
from fedsim.training import LocalTraining
from tests.helpers import Cohorts, Point, Quadratics, Ticks, blobs_simulation, metropolis_matrix

NODES, WIDTH, GRAPH = 7, 3, BarabasiAlbert(edges=2)
RANDOM = np.random.Generator(np.random.Philox(3))
CENTRES, CURVATURES = 3 * RANDOM.standard_normal((NODES, WIDTH)), 0.5 + RANDOM.random(NODES)
PLAIN = FedAvg(weighting="uniform")


def nodes(**parts):
    """Quadratics with curvatures of their own, from different models."""
    settings = {
        "client": Dsgt(),
        "aggregator": PLAIN,
        "protocol": Gossip(same_start=False),
        "topology": GRAPH,
        "participation": Full(),
        "local": LocalTraining(steps=1, rate=0.1),
    }
    data = Quadratics(centres=CENTRES.tolist(), curvatures=CURVATURES.tolist())
    return Ticks(
        Simulation(
            data, Natural(), functools.partial(Point, start="normal"), **{**settings, **parts}
        )
    )


def gradients(X):
    return CURVATURES[:, None] * (X - CENTRES)


@pytest.mark.parametrize("order", ["adapt_then_combine", "combine_then_adapt"])
def test_with_one_step_it_is_the_matrix_form(order):
    """X <- W (X - eta Y) (or W X - eta Y), Y <- W Y + G_new - G."""
    with nodes(protocol=Gossip(order=order, same_start=False)) as ticks:
        W, X = (
            metropolis_matrix(GRAPH.adjacency(NODES, 0).toarray()),
            ticks.models.astype(np.float64),
        )
        Y = G = gradients(X)
        for _ in range(6):
            X = W @ X - 0.1 * Y if order == "combine_then_adapt" else W @ (X - 0.1 * Y)
            Y, G = W @ Y + gradients(X) - G, gradients(X)
        np.testing.assert_allclose(ticks.run(6), X, atol=1e-5)


def test_local_steps_and_absences_against_a_plain_loop():
    cohorts = [[0, 2, 3, 5], [1, 2, 4], [6], [0, 1, 2, 3, 4, 5, 6], [0, 5, 6]]
    adjacency, decay = GRAPH.adjacency(NODES, 0).toarray(), 0.05
    local = LocalTraining(steps=3, rate=0.1, weight_decay=decay)
    with nodes(participation=Cohorts(*cohorts), local=local) as ticks:
        X, T, G = (
            ticks.models.astype(np.float64),
            np.zeros((NODES, WIDTH)),
            np.zeros((NODES, WIDTH)),
        )
        for cohort in cohorts:
            active = np.isin(np.arange(NODES), cohort)
            nominal = metropolis_matrix(adjacency)
            W = np.where(np.outer(active, active), nominal, 0)
            W += np.diag(1 - W.sum(axis=1))
            Z, mean = X.copy(), np.zeros_like(X)
            for _ in range(3):
                g = gradients(Z) + decay * Z
                mean, Z = mean + g / 3, Z - 0.1 * (g + T - G)
            Y = mean + T - G
            X = np.where(active[:, None], W @ np.where(active[:, None], Z, X), X)
            T, G = (
                np.where(active[:, None], W @ np.where(active[:, None], Y, 0), T),
                np.where(active[:, None], mean, G),
            )
        np.testing.assert_allclose(ticks.run(len(cohorts)), X, atol=1e-5)
        np.testing.assert_allclose(ticks.kept("rule.gradient"), G, atol=1e-4)


@pytest.mark.parametrize("correction", [None, VarianceCorrection()], ids=["plain", "corrected"])
@pytest.mark.parametrize("participation", [Full(), Bernoulli(probability=0.5)], ids=repr)
@pytest.mark.parametrize("aggregator", [PLAIN, FedAU()], ids=repr)
def test_trackers_sum_to_the_gradients_also_when_nodes_are_away_or_models_corrected(
    participation, correction, aggregator
):
    parts = {"client": Dsgt(), "protocol": Gossip(), "topology": GRAPH, "aggregator": aggregator}
    with Ticks(
        blobs_simulation(participation=participation, correction=correction, **parts)
    ) as ticks:
        for _ in range(5):
            ticks.run()
            side = ticks.rounds.receivers.side
            trackers, kept = (
                ticks.array(f"shared/{side}/tracker").sum(axis=0),
                ticks.kept("rule.gradient").sum(axis=0),
            )
            np.testing.assert_allclose(trackers, kept, atol=2e-5)
            assert np.abs(kept).max() > 0.05


def test_the_optimum_is_exact_where_gossip_keeps_a_bias():
    optimum = (CURVATURES[:, None] * CENTRES).sum(axis=0) / CURVATURES.sum()
    local = LocalTraining(steps=1, rate=0.1)
    with nodes(local=local) as tracked, nodes(local=local, client=Sgd()) as plain:
        np.testing.assert_allclose(tracked.run(200), np.tile(optimum, (NODES, 1)), atol=1e-3)
        assert np.abs(plain.run(200) - optimum).max() > 0.1


@pytest.mark.parametrize(
    ("parts", "key"),
    [
        ({"protocol": Server()}, "client"),
        ({"local": LocalTraining(momentum=0.5)}, "client"),
        ({"local": LocalTraining(clip_norm=1.0)}, "client"),
        ({"local": LocalTraining(optimizer="adam")}, "client"),
    ],
)
def test_refused_where_trackers_would_be_wrong(parts, key):
    graph = (
        {}
        if isinstance(parts.get("protocol"), Server)
        else {"protocol": Gossip(), "topology": GRAPH}
    )
    with pytest.raises(ConfigError) as caught:
        blobs_simulation(client=Dsgt(), **{**graph, **parts}).prepare()
    assert caught.value.key == key and caught.value.value == "Dsgt"


def test_without_doubly_stochastic_weights_the_sum_is_another():
    """What the head of the file warns of: uniform weights on an irregular graph."""
    with Ticks(
        blobs_simulation(
            client=Dsgt(), protocol=Gossip(), topology=GRAPH, mixing=Uniform(), aggregator=PLAIN
        )
    ) as ticks:
        ticks.run(4)
        side = ticks.rounds.receivers.side
        off = ticks.array(f"shared/{side}/tracker").sum(axis=0) - ticks.kept("rule.gradient").sum(
            axis=0
        )
        assert np.abs(off).max() > 0.01
