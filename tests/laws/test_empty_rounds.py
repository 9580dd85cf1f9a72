"""Rounds in which nobody takes part, and clients that never do: what stays as it is, and what
happens all the same."""

import functools

import numpy as np
import pytest

from fedsim.algorithms import FedAU, FedAvg, FedSpeed
from fedsim.data.partition import Iid
from fedsim.participation import Bernoulli
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

# The server adds the mean of all clients' duals every round
EVERYONES_DUALS = ("fedspeed", "feddyn", "fedspeed_fedau", "fedsmoo")


@pytest.mark.parametrize("name", algorithms())
def test_an_empty_round_leaves_the_model_as_it_is_or_adds_the_mean_dual(name):
    cohorts = Cohorts([0, 3, 5], [3, 4], [], [])
    with Ticks(blobs_simulation(4, participation=cohorts, **algorithms()[name])) as ticks:
        before = ticks.run(2)
        mean_dual = (
            ticks.array("shared/0/mean_dual") if name in EVERYONES_DUALS else np.zeros_like(before)
        )
        np.testing.assert_array_equal(ticks.run(), before + mean_dual)
        np.testing.assert_array_equal(ticks.run(), before + mean_dual + mean_dual)
        assert (np.abs(mean_dual).max() > 1e-3) == (name in EVERYONES_DUALS)


@pytest.mark.parametrize("name", algorithms())
def test_nobody_ever(name):
    """The first models come out, evaluated, with no messages counted."""
    result = blobs_simulation(3, participation=Cohorts(), **algorithms()[name]).run()
    with Ticks(blobs_simulation(3, **algorithms()[name])) as ticks:
        np.testing.assert_array_equal(result.models, ticks.models)
    assert (
        result.status == "done" and result.summary["bytes_up"] == result.summary["bytes_down"] == 0
    )


def test_fedaus_clock_runs_in_empty_rounds():
    """Client 0 of 2 takes part in rounds 0, 4 and 5: its intervals are 1, 4 and 1, so it is sent
    with the weights 1, 1 and 5/2."""
    models = quadratic_run(
        [[8], [0]], 6, participation=Cohorts([0], [], [], [], [0], [0]), aggregator=FedAU()
    ).models
    x = 2 + (8 - 2) / 4
    np.testing.assert_allclose(models, [[x + 5 / 2 * (8 - x) / 4]])


def test_fedspeed_by_hand():
    """Client 0 of 2 moves from 0 to 2 and keeps the dual 2: x1 = 2 + 2 / 2, and the mean dual 1
    comes again in each empty round."""
    rule = FedSpeed(radius=0.0, prox=2.0)
    models = [
        quadratic_run(
            [[4], [0]],
            rounds,
            participation=Cohorts([0]),
            client=rule,
            aggregator=FedAvg(weighting="uniform"),
        ).models[0, 0]
        for rounds in (1, 2, 3)
    ]
    np.testing.assert_allclose(models, [3, 4, 5])


@pytest.mark.parametrize(
    ("parts", "by_hand"),
    [
        ({"aggregator": FedAvg(weighting="all")}, 2.0 + 4.0 + 6.0),
        ({"aggregator": FedAU()}, 2.0 + 4.0 + 6.0),
        (
            {
                "aggregator": FedAvg(weighting="known_prob"),
                "participation": Bernoulli(probability=1.0),
            },
            2.0 + 4.0 + 6.0,
        ),
        # The mean dual once more
        (
            {"aggregator": FedAvg(weighting="uniform"), "client": FedSpeed(radius=0.0)},
            2 * (2.0 + 4.0 + 6.0),
        ),
    ],
    ids=["all", "fedau", "known_prob", "fedspeed"],
)
def test_clients_without_data_are_not_counted(parts, by_hand):
    """Three examples, centres 4, 8 and 12, for five clients: N is 3."""
    data, model = Quadratics(centres=[[4.0], [8.0], [12.0]]), functools.partial(Point, start=0.0)
    local = LocalTraining(steps=1, rate=0.5)
    result = Simulation(
        data, Iid(clients=5, min_size=0), model, rounds=1, local=local, progress=False, **parts
    ).run()
    np.testing.assert_allclose(result.models, [[by_hand / 3]], rtol=1e-6)
