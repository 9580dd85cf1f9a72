"""Push-sum: a plain loop, mass that is conserved, and the true mean on directed graphs."""

import functools

import numpy as np
import pytest

from fedsim.algorithms import FedAU, FedAvg, Median, PushSum, Sgd, VarianceCorrection
from fedsim.data.partition import Natural
from fedsim.errors import ConfigError
from fedsim.network.directed_graphs import Exponential, RandomOut
from fedsim.network.mixing import Metropolis, Push, Uniform
from fedsim.network.topology import BarabasiAlbert, Ring
from fedsim.participation import Bernoulli, Full
from fedsim.protocols import Gossip, Server
from fedsim.simulation.simulation import Simulation
from fedsim.training import LocalTraining
from tests.helpers import Cohorts, Point, Quadratics, Ticks, blobs_simulation

NODES, WIDTH = 9, 3
CENTRES = 3 * np.random.Generator(np.random.Philox(5)).standard_normal((NODES, WIDTH))
FROZEN = LocalTraining(steps=1, rate=1e-12)
PLAIN = FedAvg(weighting="uniform")


def nodes(number=NODES, **parts):
    settings = {
        "client": PushSum(),
        "aggregator": PLAIN,
        "protocol": Gossip(same_start=False),
        "topology": RandomOut(degree=2),
        "mixing": Push(),
        "participation": Full(),
        "local": FROZEN,
    }
    data = Quadratics(
        centres=CENTRES.tolist() if number == NODES else np.zeros((number, WIDTH)).tolist()
    )
    return Ticks(
        Simulation(
            data, Natural(), functools.partial(Point, start="normal"), **{**settings, **parts}
        )
    )


def released(ticks):
    """The nodes' models x / w and weights w."""
    receivers = ticks.rounds.receivers
    return ticks.array(receivers.released()), ticks.array(f"shared/{receivers.side}/weight")


def columns(adjacency, active):
    """1 / (out + 1) from each sender to each of those it sends to, the rest at home."""
    A = np.where(np.outer(active, active), adjacency / (adjacency.sum(axis=0) + 1), 0)
    return A + np.diag(1 - A.sum(axis=0))


@pytest.mark.parametrize("order", ["adapt_then_combine", "combine_then_adapt"])
@pytest.mark.parametrize(
    "topology",
    [RandomOut(degree=2), RandomOut(degree=3, per_round=True), BarabasiAlbert(edges=2)],
    ids=repr,
)
def test_a_plain_loop_gives_the_same(topology, order):
    """Two local steps of rate 0.3 from z = x / w, with nodes away."""
    cohorts = [[0, 1, 2, 4, 5, 8], list(range(NODES)), [3], [0, 2, 3, 6, 7, 8], [1, 4]]
    local = LocalTraining(steps=2, rate=0.3)
    with nodes(
        topology=topology,
        local=local,
        participation=Cohorts(*cohorts),
        protocol=Gossip(order=order, same_start=False),
    ) as ticks:
        x, w = ticks.models.astype(np.float64), np.ones((NODES, 1))
        for round, cohort in enumerate(cohorts):
            active = np.isin(np.arange(NODES), cohort)
            A = columns(topology.adjacency(NODES, 0, round).toarray(), active)
            z = x / w
            update = np.where(active[:, None], (0.7**2 - 1) * (z - CENTRES), 0)
            x = A @ x + update if order == "combine_then_adapt" else A @ (x + update)
            w = A @ w
        np.testing.assert_allclose(ticks.run(len(cohorts)), x, atol=1e-5)
        z, weights = released(ticks)
        np.testing.assert_allclose(weights, w, atol=1e-6)
        np.testing.assert_allclose(z, x / w, atol=1e-5)
        assert np.abs(w - 1).max() > 0.2


@pytest.mark.parametrize("participation", [Full(), Bernoulli(probability=0.6)], ids=repr)
@pytest.mark.parametrize("aggregator", [PLAIN, FedAU()], ids=repr)
def test_mass_is_conserved_and_everybody_finds_the_true_mean(participation, aggregator):
    with nodes(participation=participation, aggregator=aggregator) as ticks:
        total = ticks.models.sum(axis=0)
        for _ in range(60):
            ticks.run()
        z, w = released(ticks)
        np.testing.assert_allclose(ticks.models.sum(axis=0), total, atol=1e-4)
        assert w.sum() == pytest.approx(NODES, abs=1e-4)
        np.testing.assert_allclose(z, np.tile(total / NODES, (NODES, 1)), atol=1e-3)


def test_plain_averaging_over_the_same_graph_is_biased():
    with nodes(client=Sgd(), mixing=Uniform()) as ticks:
        mean = ticks.models.mean(axis=0)
        models = ticks.run(80)
        assert np.ptp(models, axis=0).max() < 1e-3 and np.abs(models - mean).max() > 0.05


def test_on_a_regular_graph_weights_stay_one_and_it_is_gossip():
    for topology in (Ring(), Exponential(), Exponential(rotate=False)):
        with nodes(topology=topology, local=LocalTraining(steps=2, rate=0.3)) as pushed:
            ours = pushed.run(5)
            np.testing.assert_allclose(released(pushed)[1], 1, atol=1e-6)
        with nodes(
            client=Sgd(),
            mixing=Uniform(),
            topology=topology,
            local=LocalTraining(steps=2, rate=0.3),
        ) as plain:
            np.testing.assert_allclose(ours, plain.run(5), atol=1e-5)


def test_the_exponential_graph_averages_exactly_in_log2_n_rounds():
    with nodes(16, topology=Exponential()) as ticks:
        mean = ticks.models.mean(axis=0)
        assert np.abs(ticks.run(3) - mean).max() > 0.05
        np.testing.assert_allclose(ticks.run(1), np.tile(mean, (16, 1)), atol=1e-6)


def test_a_message_holds_a_model_and_a_weight():
    parts = {
        "topology": Ring(),
        "mixing": Push(),
        "protocol": Gossip(),
        "aggregator": PLAIN,
        "participation": Cohorts([0, 1, 2], [5]),
    }
    pushed = blobs_simulation(2, client=PushSum(), **parts).run().summary["bytes_up"]
    plain = (
        blobs_simulation(2, client=Sgd(), **{**parts, "mixing": Uniform()})
        .run()
        .summary["bytes_up"]
    )
    assert pushed == plain + 4 * 4  # four messages


@pytest.mark.parametrize(
    ("parts", "key"),
    [
        ({"client": Sgd()}, "mixing"),
        ({"correction": VarianceCorrection()}, "correction"),
        ({"aggregator": Median()}, "aggregator"),
        ({"mixing": Metropolis()}, "mixing"),
        ({"mixing": None}, "mixing"),  # the default is Metropolis
        ({"protocol": Server(), "topology": None, "mixing": None}, "client"),
    ],
)
def test_refused_where_it_makes_no_sense(parts, key):
    settings = {
        "client": PushSum(),
        "protocol": Gossip(),
        "topology": RandomOut(),
        "mixing": Push(),
        "aggregator": PLAIN,
    }
    with pytest.raises(ConfigError) as caught:
        blobs_simulation(**{**settings, **parts}).prepare()
    assert caught.value.key == key
