"""SCAFFOLD and FedGamma: rounds by hand, the mean of the control variates, and drift that they take
away."""

import numpy as np
import pytest

import fedsim
from fedsim.algorithms import FedAvg, Scaffold, Sgd
from fedsim.errors import ConfigError
from fedsim.network.topology import Ring
from fedsim.participation import Bernoulli
from fedsim.protocols import Gossip
from fedsim.schedules import Exponential
from fedsim.training.settings import LocalTraining
from tests.helpers import Cohorts, Ticks, blobs_simulation, quadratic_run

CENTRES = [[4, 0], [0, 8], [-4, 4], [100, 100]]
UNIFORM = FedAvg(weighting="uniform")


@pytest.mark.parametrize(
    ("rounds", "by_hand"),
    [
        # one step of rate 1/2, so that a new control variate is the gradient at the model received.
        # 1: updates (2, 0) and (0, 4); c_0 = (-4, 0), c_1 = (0, -8), c = (-1, -2)
        (1, [1, 2]),
        # 2: client 1: d = (1, -6) + (-1, -2) - (0, -8) = 0; client 2: d = (5, -2) + (-1, -2); c_1 =
        # (1, -6), c_2 = (5, -2), c = (1/2, -2)
        (2, [0, 3]),
        # 3: nobody
        (3, [0, 3]),
        # 4: client 3: d = (-100, -97) + (1/2, -2)
        (4, [49.75, 52.5]),
    ],
)
def test_rounds_by_hand(rounds, by_hand):
    parts = {
        "participation": Cohorts([0, 1], [1, 2], [], [3]),
        "client": Scaffold(),
        "aggregator": UNIFORM,
    }
    np.testing.assert_allclose(
        quadratic_run(CENTRES, rounds, **parts).models[0], by_hand, rtol=1e-6, atol=1e-5
    )


@pytest.mark.parametrize("radius", [0.0, 0.3])
@pytest.mark.parametrize("aggregator", [UNIFORM, FedAvg(weighting="size")])
def test_the_servers_control_variate_is_the_mean_of_all_clients(radius, aggregator):
    """With partial participation, unequal steps and falling rates."""
    local = LocalTraining(steps=None, epochs=2, batch_size=4, rate=0.2)
    parts = {
        "participation": Bernoulli(probability=0.4),
        "schedule": Exponential(decay=0.7),
        "local": local,
        "aggregator": aggregator,
    }
    with Ticks(blobs_simulation(8, client=Scaffold(radius=radius), seed=3, **parts)) as ticks:
        for _ in range(8):
            ticks.run()
            mean = ticks.kept("rule.control").mean(axis=0, dtype=np.float64)
            np.testing.assert_allclose(ticks.array("shared/0/mean_control")[0], mean, atol=1e-6)
        assert np.abs(mean).max() > 0.01


def test_drift_is_taken_away():
    """Unequal curvatures and ten local steps: FedAvg ends at a point of its own, SCAFFOLD at the
    minimum sum a c / sum a."""
    centres, curvatures = np.array([[4.0, 0], [0, 8], [-4, 4]]), np.array([0.2, 1.0, 3.0])
    run = {"curvatures": curvatures.tolist(), "rate": 0.1, "steps": 10, "aggregator": UNIFORM}
    found, drifted = (
        quadratic_run(centres, 30, client=rule, **run).models[0] for rule in (Scaffold(), Sgd())
    )
    minimum = curvatures @ centres / curvatures.sum()
    # That a client goes to its centre: FedAvg weighs the centres by it
    way = 1 - (1 - 0.1 * curvatures) ** 10
    np.testing.assert_allclose(found, minimum, atol=1e-3)
    np.testing.assert_allclose(drifted, way @ centres / way.sum(), atol=1e-3)
    assert np.abs(drifted - minimum).max() > 0.5


def test_the_first_round_is_fedavg_and_fedgamma_the_uphill_gradient():
    first = [
        blobs_simulation(1, client=rule, aggregator=UNIFORM).run().models
        for rule in (Scaffold(), Sgd(), Scaffold(radius=0.5))
    ]
    np.testing.assert_allclose(first[0], first[1], atol=1e-6)
    assert np.abs(first[0] - first[2]).max() > 1e-3
    # at 0 the gradient towards (3, 4) has length 5, and at the peak it is 1 + radius / 5 times as
    # long
    np.testing.assert_allclose(
        quadratic_run([[3, 4]], 1, client=Scaffold(radius=2.5)).models[0], [2.25, 3.0], rtol=1e-6
    )


def test_two_vectors_travel_each_way():
    small = ["rounds=2", "evaluation.every=2", "partition.clients=10", "participation.cohort=4"]
    scaffold, fedavg = (
        fedsim.simulate([*small, f"algorithm={name}"]).summary for name in ("scaffold", "fedavg")
    )
    for way in ("bytes_up", "bytes_down"):
        assert scaffold[way] == 2 * fedavg[way] > 0


def test_a_graph_is_refused():
    with pytest.raises(
        ConfigError,
        match="^client='Scaffold': averages .'control'. over all clients, which only a server can",
    ):
        blobs_simulation(client=Scaffold(), protocol=Gossip(), topology=Ring()).run()
