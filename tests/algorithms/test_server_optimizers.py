"""Server optimisers: numbers by hand, torch's own optimisers, empty rounds, and moments of each
node. Flower's: tests/test_flower.py."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from fedsim.algorithms import FedAdagrad, FedAdam, FedAvg, FedAvgM, FedYogi
from fedsim.algorithms.base import RoundInfo
from fedsim.network.mixing import Uniform
from fedsim.network.topology import Complete
from fedsim.protocols import Gossip
from tests.helpers import Cohorts, blobs_simulation, quadratic_run

EVERY = [
    FedAvgM(momentum=0.5),
    FedAdagrad(),
    FedAdam(),
    FedAdam(bias_correction="adam"),
    FedYogi(rate=0.1),
]
NAMES = ["fedavgm", "fedadagrad", "fedadam", "fedadam_corrected", "fedyogi"]


def play(rule, updates, start=0.0):
    """The models after mean updates [T, P], one after the other, float64 [T, P]."""
    updates = torch.as_tensor(updates, dtype=torch.float64).reshape(len(updates), -1)
    x = torch.full_like(updates[:1], start)
    state, curve = rule.init_receiver(x), []
    for round, update in enumerate(updates):
        x, state = rule.step(
            x,
            update.unsqueeze(0),
            state,
            RoundInfo(round, 0, np.zeros(1, int), torch.ones(1, 1), 1, 0.1, 1.0),
        )
        curve.append(x[0])
    return torch.stack(curve).numpy()


@pytest.mark.parametrize(
    ("rule", "updates", "by_hand"),
    [
        (FedAvgM(momentum=0.5, rate=2.0), [4, 2, 0], [8, 16, 20]),  # velocities 4, 4, 2
        (FedAdagrad(rate=4.0, tau=1.0, v0=0.0), [3, 4], [3, 3 + 16 / 6]),  # roots of v: 3, 5
        # V from tau^2 = 1 to 4
        (FedAdagrad(rate=4.0, tau=1.0, beta1=0.5), [math.sqrt(3)], [2 * math.sqrt(3) / 3]),
        # V = 4, 4, 4; m = 2, 2, 0
        (FedAdam(rate=3.0, beta1=0.5, beta2=0.75, tau=1.0, v0=0.0), [4, 2, -2], [2, 4, 4]),
        (
            FedAdam(rate=3.0, beta1=0.5, beta2=0.75, tau=1.0, v0=0.0, bias_correction="adam"),
            [4],
            [2 * 0.5 / 0.5],
        ),
        (
            FedAdam(rate=3.0, beta1=0.5, beta2=0.75, tau=1.0, v0=0.0, bias_correction="flower"),
            [4],
            [2 * math.sqrt(7) / 4 / 0.75],
        ),
        # V = 4, 4, 4; m = 2, 2, 1
        (FedYogi(rate=3.0, beta1=0.5, beta2=0.75, tau=1.0, v0=0.0), [4, 2, 0], [2, 4, 5]),
        # V falls by D^2 / 4
        (
            FedYogi(rate=3.0, beta1=0.0, beta2=0.75, tau=1.0, v0=4.0),
            [1],
            [3 / (math.sqrt(3.75) + 1)],
        ),
        (
            FedAdam(rate=3.0, beta1=0.0, beta2=0.75, tau=1.0, v0=4.0),
            [1],
            [3 / (math.sqrt(3.25) + 1)],
        ),
    ],
)
def test_by_hand(rule, updates, by_hand):
    np.testing.assert_allclose(play(rule, updates)[:, 0], by_hand, rtol=1e-12)


@pytest.mark.parametrize(
    ("rule", "theirs"),
    [
        (FedAvgM(momentum=0.9, rate=0.3), lambda x: torch.optim.SGD([x], lr=0.3, momentum=0.9)),
        (
            FedAdagrad(rate=0.3, tau=0.01, v0=0.5),
            lambda x: torch.optim.Adagrad([x], lr=0.3, eps=0.01, initial_accumulator_value=0.5),
        ),
        # torch adds epsilon to the corrected root, the rule tau to the root itself: the same where
        # both are nothing
        (
            FedAdam(rate=0.3, tau=1e-14, v0=0.0, bias_correction="adam"),
            lambda x: torch.optim.Adam([x], lr=0.3, betas=(0.9, 0.99), eps=1e-14),
        ),
    ],
    ids=["momentum", "adagrad", "adam"],
)
def test_the_update_as_a_negative_gradient_of_torchs_optimizers(rule, theirs):
    updates = np.random.default_rng(3).normal(size=(8, 5))
    x = torch.ones(5, dtype=torch.float64, requires_grad=True)
    optimizer, curve = theirs(x), []
    for update in updates:
        x.grad = -torch.from_numpy(update)
        optimizer.step()
        curve.append(x.detach().clone().numpy())
    np.testing.assert_allclose(play(rule, updates, start=1.0), curve, rtol=1e-9)


@pytest.mark.parametrize("rule", EVERY, ids=NAMES)
def test_an_empty_round_is_no_step(rule):
    centres = [[4.0, -2.0], [1.0, 3.0]]
    with_gap, without = (
        quadratic_run(centres, len(rounds), participation=Cohorts(*rounds), aggregator=rule).models
        for rounds in ([[0, 1], [], [1], []], [[0, 1], [1]])
    )
    np.testing.assert_array_equal(with_gap, without)


@pytest.mark.parametrize("rule", EVERY, ids=NAMES)
def test_every_node_of_a_complete_graph_keeps_the_moments_of_a_server(rule):
    """With equal weights, and everybody there."""
    rule = dataclasses.replace(rule, weighting="uniform")
    graph = {"protocol": Gossip(), "topology": Complete(), "mixing": Uniform()}
    at_server, over_graph = (
        blobs_simulation(4, aggregator=rule, **parts).run() for parts in ({}, graph)
    )
    assert len(over_graph.models) == 8 and np.abs(np.diff(at_server.models[0])).max() > 0.01
    np.testing.assert_allclose(
        over_graph.models, np.repeat(at_server.models, 8, axis=0), rtol=2e-3, atol=2e-4
    )


def test_the_weighting_is_fedavgs():
    for weighting, by_hand in (("size", 3 / 4 * 2 + 1 / 4 * 4), ("uniform", (2 + 4) / 2)):
        models = quadratic_run(
            [[4.0], [8.0]], 1, copies=[3, 1], aggregator=FedAvgM(weighting=weighting)
        ).models
        np.testing.assert_allclose(models, [[by_hand]])


def test_without_momentum_it_is_fedavg_and_over_a_graph_momentum_sends_the_update_too():
    over = {"protocol": Gossip(), "topology": Complete()}
    rules = (
        FedAvg(weighting="uniform"),
        FedAvgM(weighting="uniform", momentum=0.0),
        FedAvgM(weighting="uniform"),
    )
    plain, none, some = (blobs_simulation(3, aggregator=rule, **over).run() for rule in rules)
    np.testing.assert_allclose(none.models, plain.models, rtol=0, atol=1e-6)
    assert np.abs(some.models - plain.models).max() > 1e-3
    assert (
        none.summary["bytes_up"] == plain.summary["bytes_up"]
        and some.summary["bytes_up"] == 2 * plain.summary["bytes_up"]
    )
