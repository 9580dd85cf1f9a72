"""What clients do with their shards within a round, seen from outside: how many steps, on which
examples."""

import functools

import numpy as np
import pytest

from fedsim.algorithms import FedAvg, FedSpeed
from fedsim.data.partition import Iid
from fedsim.network.topology import Complete
from fedsim.protocols import Gossip
from fedsim.simulation.simulation import Simulation
from fedsim.training.settings import LocalTraining
from tests.helpers import (
    Cohorts,
    Point,
    Quadratics,
    Ticks,
    algorithms,
    blobs_simulation,
    quadratic_run,
)

CENTRES, COPIES = [[16, 0], [0, 32], [-8, 8], [64, 64]], [1, 3, 2, 4]


@pytest.mark.parametrize("together", [1, 3, 4])
@pytest.mark.parametrize("dual", [False, True])
def test_an_epoch_is_as_many_steps_as_a_shard_has_batches(together, dual):
    """Clients of 1, 3, 2 and 4 steps of rate 1/2, stacked in any company: they go 1 - 2^-K of the
    way to their centres. With a dual h and lambda = 1, d = 2x - a - c + h, so that one step of rate
    1/2 lands on (a + c - h) / 2 and further ones stay there."""
    local = LocalTraining(steps=None, epochs=1, batch_size=1, rate=0.5, clients_per_batch=together)
    client = FedSpeed(radius=0.0, prox=1.0, mean_dual="none") if dual else None
    parts = {"client": client} if dual else {}
    cohorts = Cohorts([0, 1, 2, 3], [0, 1, 3])
    uniform = FedAvg(weighting="uniform")
    found = quadratic_run(
        CENTRES, 2, copies=COPIES, local=local, participation=cohorts, aggregator=uniform, **parts
    ).models[0]
    x, duals = np.zeros(2), np.zeros((4, 2))
    for cohort in cohorts.cohorts:
        updates = []
        for i in cohort:
            way = (
                (x + CENTRES[i] - duals[i]) / 2 - x
                if dual
                else (1 - 0.5 ** COPIES[i]) * (CENTRES[i] - x)
            )
            duals[i] = duals[i] + way
            updates.append(way)
        x = x + np.mean(updates, axis=0)
    np.testing.assert_allclose(found, x, rtol=1e-5)


@pytest.mark.parametrize("name", algorithms())
def test_stacking_clients_changes_rounding_only(name):
    """Unequal shards, step counts and states: one client a call, or eight."""
    cohorts, runs = Cohorts([0, 2, 3, 6], [1, 2, 3, 4, 7], [0, 5, 6, 7]), []
    for together in (1, 3, 8):
        local = LocalTraining(
            steps=None,
            epochs=2,
            batch_size=3,
            rate=0.1,
            momentum=0.5,
            keep_optimizer=True,
            clients_per_batch=together,
        )
        runs.append(
            blobs_simulation(3, local=local, participation=cohorts, **algorithms()[name])
            .run()
            .models
        )
    np.testing.assert_allclose(runs[1], runs[0], atol=1e-5)
    np.testing.assert_allclose(runs[2], runs[0], atol=1e-5)


EXAMPLES, ROUNDS = 2.0 ** np.arange(6), 24


def examples_used(seed=0, **parts):
    """The example of each round's single step of rate 1/2: x <- (x + c) / 2. One client holds them
    all, or each of two nodes three."""
    clients = 2 if "protocol" in parts else 1
    local, model = (
        LocalTraining(steps=1, batch_size=1, rate=0.5),
        functools.partial(Point, start=0.0),
    )
    data = Quadratics(centres=EXAMPLES[:, None].tolist())
    simulation = Simulation(
        data, Iid(clients=clients), model, local=local, rounds=ROUNDS, seed=seed, **parts
    )
    with Ticks(simulation) as ticks:
        models = np.array([ticks.models, *(ticks.run() for _ in range(ROUNDS))])[:, :, 0].mean(
            axis=1, dtype=np.float64
        )
    return 2 * models[1:] - models[:-1]


def test_each_round_draws_batches_of_its_own():
    used = examples_used()
    np.testing.assert_allclose(np.abs(used[:, None] - EXAMPLES).min(axis=1), 0, atol=1e-4)
    assert len(np.unique(used.round(2))) >= 5  # of six, in 24 draws
    assert np.abs(examples_used(seed=1) - used).max() > 0.5


def test_two_algorithms_see_the_same_batches():
    np.testing.assert_allclose(
        examples_used(client=FedSpeed(radius=0.0, prox=1e6, mean_dual="none")),
        examples_used(),
        atol=1e-3,
    )
    orders = [Gossip(order=order) for order in ("adapt_then_combine", "combine_then_adapt")]
    graphs = [examples_used(protocol=order, topology=Complete()) for order in orders]
    np.testing.assert_allclose(*graphs, atol=1e-3)  # the mean over both nodes of what they used
