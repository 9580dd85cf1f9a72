"""The same bytes from the in-process engine and from Ray with one and two workers, for every
algorithm."""

import numpy as np
import pytest

from fedsim.algorithms import ClientRule, FedAvg, FedSpeed
from fedsim.engine.ray import Ray
from fedsim.network.topology import BarabasiAlbert
from fedsim.protocols import Gossip
from fedsim.training.settings import LocalTraining
from tests.helpers import Cohorts, Heavy, algorithms, blobs_simulation, mlp, mostly_long

pytestmark = [pytest.mark.xdist_group("ray"), pytest.mark.usefixtures("ray_session")]
# One of each way through a round; `make test-all` has all
REPRESENTATIVE = ("fedau", "fedspeed", "scaffold", "gossip_corrected", "dpsgd", "fedau_gossip")
# Groups of two clients and of one
COHORTS = Cohorts([0, 1, 2, 4, 5, 7], [], [1, 2, 3, 6, 7], [0, 4, 5, 6])


def run(parts, **engine):
    settings = {"participation": COHORTS, **parts, **({"engine": Ray(**engine)} if engine else {})}
    return blobs_simulation(len(COHORTS.cohorts), **settings).run()


def assert_same(parts, engines):
    here = run(parts)
    assert len(np.unique(here.models)) > 1 and here.status == "done"
    for engine in engines:
        there = run(parts, **engine)
        assert there.models.tobytes() == here.models.tobytes(), engine
        measured = [
            result.metrics[~result.metrics.metric.str.startswith("seconds")].drop(columns="clock")
            for result in (here, there)
        ]
        assert measured[0].equals(measured[1]), engine


@pytest.mark.parametrize("name", mostly_long(algorithms(), *REPRESENTATIVE))
def test_every_algorithm(name):
    """One worker, too, for one variant of each kind: they differ in numbers the driver makes
    alone."""
    alone = (
        [{"workers": 1}]
        if name
        in (
            "fedavg_size",
            "fedau",
            "fedspeed",
            "gossip_corrected_uneven",
            "dpsgd",
            "fedau_gossip",
        )
        else []
    )
    assert_same(algorithms()[name], [{"workers": 2}, *alone])


@pytest.mark.parametrize("name", ["fedspeed", "gossip_corrected_uneven"])
def test_vectors_sent_in_calls_instead_of_shared_memory(name):
    assert_same(algorithms()[name], [{"workers": 2, "shared_memory": False}])


KEPT = {
    "local": LocalTraining(
        steps=None,
        epochs=1.5,
        batch_size=4,
        rate=0.1,
        momentum=0.9,
        keep_optimizer=True,
        clip_norm=1.0,
        weight_decay=0.01,
    )
}


SERVER = {**KEPT, "client": FedSpeed(prox=1.0)}
GRAPH = {
    **KEPT,
    "client": FedSpeed(prox=1.0, mean_dual="active"),
    "protocol": Gossip(),
    "topology": BarabasiAlbert(edges=2),
}


@pytest.mark.parametrize(
    ("parts", "shared"), [(SERVER, False), (GRAPH, True)], ids=["server", "graph"]
)
def test_momentum_that_outlives_a_round_and_unequal_step_counts(parts, shared):
    assert_same(
        {**parts, "aggregator": FedAvg(weighting="uniform"), "model": mlp(6, 4)},
        [{"workers": 2, "shared_memory": shared}],
    )


@pytest.mark.parametrize("graph", [False, True], ids=["server", "graph"])
def test_vectors_that_follow_the_model_to_clients(graph):
    over = {"protocol": Gossip(), "topology": BarabasiAlbert(edges=2)} if graph else {}
    parts = {"client": Heavy(), "aggregator": FedAvg(weighting="uniform"), **over}
    assert_same(parts, [{"workers": 2, "shared_memory": False}])
    without = run({**parts, "client": ClientRule()})
    assert np.abs(run(parts).models - without.models).max() > 1e-3
