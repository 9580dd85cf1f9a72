"""Flower as an oracle: its own strategies, in its own loop, beside fedsim's rules on the same
quadratics; and fedsim's aggregators as Flower strategies."""

import functools
import random

import numpy as np
import pytest

pytest.importorskip("flwr")
from flwr.app import Array, ArrayRecord, MetricRecord, RecordDict  # noqa: E402
from flwr.serverapp import strategy as flower  # noqa: E402

from fedsim.algorithms import (  # noqa: E402
    FedAdagrad,
    FedAdam,
    FedAU,
    FedAvg,
    FedAvgM,
    FedVarp,
    FedYogi,
    Krum,
    Median,
    Mifa,
    TrimmedMean,
)
from fedsim.errors import ConfigError  # noqa: E402
from fedsim.flower.strategy import InProcessGrid, as_strategy  # noqa: E402
from tests.helpers import Cohorts, quadratic_run  # noqa: E402

CLIENTS, DIMENSIONS, ROUNDS, RATE = 7, 5, 6, 0.5
CENTRES = np.random.default_rng(1).normal(size=(CLIENTS, DIMENSIONS)).astype(np.float32)
CURVATURES = np.linspace(0.5, 1.5, CLIENTS).tolist()
COPIES = [3, 1, 4, 1, 5, 9, 2]
START = np.linspace(-1, 1, DIMENSIONS).tolist()
QUIET = {"fraction_evaluate": 0.0, "min_train_nodes": 1, "min_available_nodes": 1}


class Nodes:
    """Flower clients that take one gradient step on their quadratics. cohorts: who was asked and
    answered, round by round, from 0."""

    def __init__(self, copies, silent=None):
        self.copies, self.silent, self.cohorts = copies, silent or {}, {}

    def __call__(self, message):
        client, round = (
            message.metadata.dst_node_id - 1,
            message.content["config"]["server-round"] - 1,
        )
        answers = self.cohorts.setdefault(round, [])
        if client in self.silent.get(round, ()):
            return None
        answers.append(client)
        arrays = {name: array.numpy() for name, array in message.content["arrays"].items()}
        x = np.concatenate(list(arrays.values()))
        x = x + np.float32(RATE * CURVATURES[client]) * (CENTRES[client] - x)
        trained = ArrayRecord({"first": Array(x[:2]), "rest": Array(x[2:])})
        metrics = MetricRecord({"num-examples": self.copies[client]})
        return RecordDict({"arrays": trained, "metrics": metrics})


def flower_curve(strategy, nodes, rounds=ROUNDS):
    """The model after every round of Flower's own loop, [T, P]."""
    x, curve = np.array(START, np.float32), []
    random.seed(5)  # Flower draws nodes from Python's global generator

    def note(round, arrays):
        curve.append(np.concatenate([array.numpy() for array in arrays.values()]))

    first = ArrayRecord({"first": Array(x[:2]), "rest": Array(x[2:])})
    strategy.start(InProcessGrid(CLIENTS, nodes), first, num_rounds=rounds, evaluate_fn=note)
    return np.array(curve[1:])


def fedsim_model(aggregator, rounds, copies=COPIES, **parts):
    run = functools.partial(
        quadratic_run, CENTRES, curvatures=CURVATURES, copies=copies, start=START, rate=RATE
    )
    return run(rounds, aggregator=aggregator, **parts).models[0]


PAIRS = {
    "FedAvg": (flower.FedAvg, {}, FedAvg(), COPIES),
    "FedAvgM": (
        flower.FedAvgM,
        {"server_learning_rate": 0.5, "server_momentum": 0.9},
        FedAvgM(momentum=0.9, rate=0.5),
        COPIES,
    ),
    "FedAdam": (flower.FedAdam, {}, FedAdam(v0=0, bias_correction="flower"), COPIES),
    "FedAdam of other constants": (
        flower.FedAdam,
        {"eta": 0.03, "beta_1": 0.8, "beta_2": 0.9, "tau": 0.1},
        FedAdam(rate=0.03, beta1=0.8, beta2=0.9, tau=0.1, v0=0, bias_correction="flower"),
        COPIES,
    ),
    "FedYogi": (flower.FedYogi, {}, FedYogi(v0=0), COPIES),
    "FedAdagrad": (flower.FedAdagrad, {}, FedAdagrad(v0=0), COPIES),
    "median": (flower.FedMedian, {}, Median(), COPIES),
    "trimmed mean": (flower.FedTrimmedAvg, {"beta": 0.2}, TrimmedMean(share=0.2), COPIES),
    "Krum": (flower.Krum, {"num_malicious_nodes": 2}, Krum(attackers=2), COPIES),
    "multi-Krum": (
        flower.MultiKrum,
        {"num_malicious_nodes": 1, "num_nodes_to_select": 3},
        Krum(attackers=1, selected=3),
        [2] * CLIENTS,
    ),
}


@pytest.mark.parametrize("name", PAIRS)
def test_rules_agree_with_flowers(name):
    """After every round, from a start that they leave, with unequal numbers of examples."""
    theirs, settings, ours, copies = PAIRS[name]
    curve = flower_curve(theirs(**QUIET, **settings), Nodes(copies))
    assert np.abs(np.diff(curve, axis=0)).max() > 1e-3
    for round in range(ROUNDS):
        np.testing.assert_allclose(
            fedsim_model(ours, round + 1, copies), curve[round], rtol=2e-5, atol=2e-6
        )


def test_where_flower_differs_from_the_paper():
    """Its FedAdam starts v at 0 and corrects for the bias: other options of the same rule, which
    give another curve."""
    curve = flower_curve(flower.FedAdam(**QUIET), Nodes(COPIES))
    for other in (
        FedAdam(),
        FedAdam(v0=0),
        FedAdam(v0=0, bias_correction="adam"),
        FedAdam(bias_correction="flower"),
    ):
        assert np.abs(fedsim_model(other, ROUNDS) - curve[-1]).max() > 1e-4


EXPORTED = [FedAvg(), FedAU(), Mifa(rate=0.5), FedVarp(rate=0.5), FedAdam(), Median(), Krum()]


@pytest.mark.parametrize("aggregator", EXPORTED, ids=lambda part: type(part).__name__)
def test_an_aggregator_as_a_flower_strategy_gives_the_models_of_a_simulation(aggregator):
    """Flower draws three of seven nodes a round; in one round one of them does not answer, in
    another nobody does."""
    nodes = Nodes(COPIES, silent={1: range(0, CLIENTS, 2), 3: range(CLIENTS)})
    curve = flower_curve(as_strategy(aggregator, fraction_train=0.45, **QUIET), nodes)
    cohorts = [sorted(nodes.cohorts[round]) for round in range(ROUNDS)]
    assert (
        cohorts[3] == []
        and all(len(cohorts[round]) == 3 for round in (0, 2, 4, 5))
        and len(cohorts[1]) < 4
    )
    assert len({tuple(cohort) for cohort in cohorts}) > 2
    for round in (0, 3, ROUNDS - 1):
        mine = fedsim_model(aggregator, round + 1, participation=Cohorts(*cohorts))
        np.testing.assert_allclose(curve[round], mine, rtol=2e-5, atol=2e-6)


def test_what_flowers_replies_do_not_hold_is_refused():
    with pytest.raises(ConfigError, match="needs probabilities"):
        flower_curve(as_strategy(FedAvg(weighting="known_prob"), **QUIET), Nodes(COPIES), rounds=1)
    counter = ArrayRecord({"weight": Array(np.zeros(3, np.float32)), "count": Array(np.array(3))})
    with pytest.raises(ConfigError, match="arrays of floats"):
        as_strategy(FedAvg(), **QUIET).start(
            InProcessGrid(CLIENTS, Nodes(COPIES)), counter, num_rounds=1
        )
