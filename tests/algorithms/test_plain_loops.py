"""Every algorithm, on clients of unequal size and work under partial participation, against loops
written independently in float64."""

import numpy as np
import pytest

from fedsim.algorithms import FedAU, FedAvg, FedCM, FedNova, FedProx, FedSam, FedSmoo, Sgd
from fedsim.network.topology import BarabasiAlbert
from fedsim.participation import Bernoulli
from fedsim.protocols import Gossip
from fedsim.schedules import Exponential
from fedsim.training.settings import LocalTraining
from tests.algorithms.plain_loops import at_a_server, over_a_graph
from tests.helpers import algorithms, blobs_simulation, mlp

ROUNDS = 8
# 1 to 3 steps, on 3 to 10 examples
LOCAL = {"steps": None, "epochs": 1, "batch_size": 4, "rate": 0.2}
GRAPH = {
    "protocol": Gossip(),
    "topology": BarabasiAlbert(edges=2),
    "aggregator": FedAvg(weighting="uniform"),
}
MORE = {
    "fednova_uniform": {"aggregator": FedNova(weighting="uniform", rate=0.5)},
    "fednova_fedprox": {"aggregator": FedNova(), "client": FedProx(strength=2.0)},
    "fedprox_fedau": {"aggregator": FedAU(), "client": FedProx(strength=1.0)},
    "fedprox_gossip": {**GRAPH, "client": FedProx(strength=1.0)},
    "fedsam_gossip": {**GRAPH, "client": FedSam(radius=0.5)},
    "fedcm_gossip": {**GRAPH, "client": FedCM(share=0.3)},
    "fedcm_dpsgd": {
        **GRAPH,
        "client": FedCM(share=0.3),
        "protocol": Gossip(order="combine_then_adapt"),
    },
    "fedsmoo_gossip": {
        **GRAPH,
        "client": FedSmoo(radius=0.5, prox=1.0, mean_dual="active", merge=0.7),
    },
    "fedsmoo_alone": {**GRAPH, "client": FedSmoo(radius=0.5, prox=1.0, mean_dual="none")},
}
CASES = {
    name: parts
    for name, parts in (algorithms() | MORE).items()
    if type(parts["aggregator"]) in (FedAvg, FedAU, FedNova)
}


def compared(parts, local=LOCAL):
    """The models of fedsim and of the plain loop, and how far they are from the first one."""
    parts = {
        "local": LocalTraining(**local),
        "participation": Bernoulli(probability=0.4),
        "schedule": Exponential(decay=0.9),
        **parts,
    }
    simulation = blobs_simulation(ROUNDS, model=mlp(5, activation="tanh"), seed=5, **parts)
    plain = (
        over_a_graph(simulation)
        if simulation.protocol.place == "graph"
        else at_a_server(simulation)[None]
    )
    models = simulation.run().models
    np.testing.assert_allclose(models, plain, atol=2e-5)
    return models, np.abs(
        models - simulation._first_models(simulation.prepare().task)[0].numpy()
    ).max()


@pytest.mark.parametrize("name", CASES)
def test_an_algorithm_is_its_plain_loop(name):
    models, moved = compared(CASES[name])
    assert moved > 0.05
    if type(CASES[name].get("client", Sgd())) is not Sgd:
        plain, _ = compared({**CASES[name], "client": Sgd()})
        assert np.abs(models - plain).max() > 1e-3  # the rule made a difference


@pytest.mark.parametrize(
    "name", ["fedavg_size", "scaffold", "fedcm", "fedsmoo", "gossip", "fedprox_gossip"]
)
def test_relaxed_starts(name):
    relaxed, straight = (
        compared(CASES[name], {**LOCAL, "relaxation": beta})[0] for beta in (0.3, 0.0)
    )
    assert np.abs(relaxed - straight).max() > 1e-3
