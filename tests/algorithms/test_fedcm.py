"""FedCM and MoFedSAM: rounds by hand, what the momentum is, and the identities."""

import numpy as np
import pytest

import fedsim
from fedsim.algorithms import FedAvg, FedCM, FedSam, Sgd
from fedsim.network.topology import Star
from fedsim.participation import Bernoulli
from fedsim.protocols import Gossip
from fedsim.schedules import Exponential
from fedsim.training.settings import LocalTraining
from tests.helpers import Cohorts, Ticks, blobs_simulation, quadratic_run

CENTRES, UNIFORM = [[4, 0], [0, 8], [-4, 4]], FedAvg(weighting="uniform")


@pytest.mark.parametrize(
    ("rounds", "by_hand"),
    [
        # alpha = 1/2, one step; rates 1/2, 1/4, 1/8, 1/16. 1: d = (x - c) / 2, updates (1, 0) and
        # (0, 2); M = -(1/2, 1) / (1/2) = (-1, -2)
        (1, [0.5, 1]),
        # 2: nobody: M stays
        (2, [0.5, 1]),
        # 3: client 2: d = (4.5, -3) / 2 + M / 2 = (1.75, -2.5), which is M from here on: the rate
        # is in no M
        (3, [0.28125, 1.3125]),
        # 4: client 0: d = (-3.71875, 1.3125) / 2 + M / 2
        (4, [0.28125 + 0.984375 / 16, 1.3125 + 0.59375 / 16]),
    ],
)
def test_rounds_by_hand(rounds, by_hand):
    parts = {
        "participation": Cohorts([0, 1], [], [2], [0]),
        "schedule": Exponential(decay=0.5),
        "aggregator": UNIFORM,
    }
    np.testing.assert_allclose(
        quadratic_run(CENTRES, rounds, client=FedCM(share=0.5), **parts).models[0],
        by_hand,
        rtol=1e-6,
    )


def test_the_momentum_is_the_mean_direction_of_the_last_round():
    """Its length is that of a gradient whatever the rate, the steps and the rate of the server."""
    local, rate = LocalTraining(steps=3, batch_size=4, rate=0.2), 0.5
    parts = {
        "participation": Bernoulli(probability=0.4),
        "schedule": Exponential(decay=0.7),
        "local": local,
    }
    simulation = blobs_simulation(
        6, client=FedCM(), aggregator=FedAvg(weighting="uniform", rate=rate), seed=3, **parts
    )
    with Ticks(simulation) as ticks:
        before, moved = ticks.models, 0
        for round in range(6):
            after, momentum = ticks.run(), ticks.array("shared/0/momentum")
            if (after != before).any():
                np.testing.assert_allclose(
                    momentum * -(rate * 3 * 0.2 * 0.7**round), after - before, atol=1e-6
                )
                moved += 1
            before = after
    assert moved > 3


def test_over_a_graph_each_node_has_a_momentum_of_its_own():
    """A star with centre 0, Metropolis weights: 1/3 between centre and leaf, 1/3 and 2/3 to
    themselves; node 2 is away in round 2."""
    centres, weights = (
        np.array([[12.0, 0], [0, 24], [-12, 12]]),
        np.array([[1, 1, 1], [1, 2, 0], [1, 0, 2]]) / 3,
    )
    cohorts = Cohorts([0, 1, 2], [0, 1], [0, 1, 2])
    graph = {
        "protocol": Gossip(),
        "topology": Star(),
        "aggregator": UNIFORM,
        "participation": cohorts,
    }
    found = quadratic_run(centres, 3, client=FedCM(share=0.5), **graph).models
    X, M = np.zeros((3, 2)), np.zeros((3, 2))
    for cohort in cohorts.cohorts:
        w = weights if len(cohort) == 3 else np.array([[2, 1, 0], [1, 2, 0], [0, 0, 3]]) / 3
        active = np.isin(range(3), cohort)[:, None]
        D = np.where(active, -(X - centres + M) / 4, 0)
        X, M = w @ (X + D), np.where(active, w @ D / -0.5, M)
    np.testing.assert_allclose(found, X, rtol=1e-5)


@pytest.mark.parametrize(
    ("momentum", "plain"),
    [(FedCM(share=1.0), Sgd()), (FedCM(share=1.0, radius=0.5), FedSam(radius=0.5))],
)
def test_without_momentum_they_are_fedavg_and_fedsam(momentum, plain):
    parts = {"participation": Bernoulli(probability=0.4), "seed": 1}
    found, expected = (
        blobs_simulation(client=rule, **parts).run().models for rule in (momentum, plain)
    )
    np.testing.assert_allclose(found, expected, atol=1e-6)
    other = blobs_simulation(client=FedCM(share=0.5, radius=momentum.radius), **parts).run().models
    assert np.abs(other - expected).max() > 1e-3


SMALL = ["rounds=3", "evaluation.every=3", "partition.clients=10", "participation.cohort=4"]


def test_mofedsam_without_radius_is_fedcm():
    models = [
        fedsim.simulate([*SMALL, *args]).models
        for args in (["algorithm=mofedsam", "client.radius=0"], ["algorithm=fedcm"])
    ]
    assert models[0].tobytes() == models[1].tobytes()
    assert models[0].tobytes() != fedsim.simulate([*SMALL, "algorithm=mofedsam"]).models.tobytes()


def test_the_download_is_doubled_and_over_a_graph_models_and_updates_travel_apart():
    server = [
        fedsim.simulate([*SMALL, f"algorithm={name}"]).summary
        for name in ("fedcm", "average_participating")
    ]
    assert (
        server[0]["bytes_up"] == server[1]["bytes_up"]
        and server[0]["bytes_down"] == 2 * server[1]["bytes_down"]
    )
    graph = [
        fedsim.simulate([*SMALL, f"algorithm={name}", "protocol=gossip", "topology=ring"]).summary
        for name in ("fedcm", "gossip")
    ]
    assert graph[0]["bytes_up"] == 2 * graph[1]["bytes_up"] > 0
