"""MIFA: numbers by hand, a server that stores every client's update, and where the memory lies."""

import numpy as np
import pytest

from fedsim.algorithms import FedAvg, FedSpeed, FedVarp, Mifa
from fedsim.errors import ConfigError
from fedsim.network.topology import Ring
from fedsim.protocols import Gossip
from tests.helpers import Cohorts, Ticks, blobs_simulation, quadratic_run

N, DIMENSIONS = 6, 3
CENTRES = np.random.default_rng(2).normal(size=(N, DIMENSIONS))
COHORTS = [[0, 1], [3], [], [0, 3, 5], [2], [0, 1, 2, 3, 4, 5], [], [4], [1, 5]]


def test_four_rounds_by_hand():
    """Updates are half of centre - x. y = (2, 0), (2, 7/2), the same again in the empty round,
    (-5/4, 7/2)."""
    for rounds, expected in enumerate([1, 3.75, 6.5, 7.625], start=1):
        models = quadratic_run(
            [[4], [8]], rounds, participation=Cohorts([0], [1], [], [0]), aggregator=Mifa()
        ).models
        np.testing.assert_allclose(models, [[expected]], rtol=1e-6)


def test_a_server_that_stores_all_updates():
    x, stored = np.zeros(DIMENSIONS), np.zeros((N, DIMENSIONS))
    for cohort in COHORTS:
        stored[cohort] = (CENTRES[cohort] - x) / 2
        x = x + 0.7 * stored.mean(axis=0)
    models = quadratic_run(
        CENTRES, len(COHORTS), participation=Cohorts(*COHORTS), aggregator=Mifa(rate=0.7)
    ).models
    np.testing.assert_allclose(models[0], x, rtol=1e-5)


@pytest.mark.parametrize("aggregator", [Mifa(), FedVarp()], ids=["mifa", "fedvarp"])
def test_with_everybody_it_is_fedavg(aggregator):
    found, plain = (
        blobs_simulation(5, aggregator=part).run()
        for part in (aggregator, FedAvg(weighting="uniform"))
    )
    np.testing.assert_allclose(found.models, plain.models, rtol=1e-5, atol=1e-6)
    assert found.summary["bytes_up"] == plain.summary["bytes_up"]


@pytest.mark.parametrize("aggregator", [Mifa(), FedVarp()], ids=["mifa", "fedvarp"])
def test_memory_follows_the_clients_that_have_taken_part(aggregator):
    """Their last updates, and the mean of them at the server."""
    with Ticks(
        blobs_simulation(3, participation=Cohorts([1, 4], [4, 6], []), aggregator=aggregator)
    ) as ticks:
        ticks.run(3)
        stored = ticks.kept("memory.update")
        mean = ticks.array("receiver/0/mean_update")[0]
        assert ticks.rounds.clients.rows.owners.tolist() == [1, 4, 6]
        assert np.flatnonzero(np.abs(stored).max(axis=1) > 1e-3).tolist() == [1, 4, 6]
    np.testing.assert_allclose(stored.mean(axis=0), mean, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("aggregator", [Mifa(), FedVarp()], ids=["mifa", "fedvarp"])
def test_refused_where_it_makes_no_sense(aggregator):
    with pytest.raises(ConfigError, match="use protocol=server"):
        blobs_simulation(aggregator=aggregator, protocol=Gossip(), topology=Ring()).prepare()
    with pytest.raises(ConfigError, match=r"client='FedSpeed'.*\['dual'\]"):
        blobs_simulation(aggregator=aggregator, client=FedSpeed(prox=1.0)).prepare()
    blobs_simulation(aggregator=aggregator, client=FedSpeed(prox=1.0, mean_dual="active")).prepare()
