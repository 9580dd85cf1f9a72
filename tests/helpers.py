"""Tiny data, models, cohorts and simulations with numbers that can be worked out by hand."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import KW_ONLY
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fedsim import rng
from fedsim.algorithms import (
    ClientRule,
    FedAU,
    FedAvg,
    FedCM,
    FedNova,
    FedProx,
    FedSam,
    FedSmoo,
    FedSpeed,
    Scaffold,
    VarianceCorrection,
)
from fedsim.component import Fraction, PositiveInt, component
from fedsim.data.dataset import Dataset, DataSource, Split
from fedsim.data.partition import Natural
from fedsim.engine.inprocess import InProcess
from fedsim.evaluation.evaluator import Evaluation
from fedsim.models import MLP
from fedsim.network.links import Heard, Links
from fedsim.network.mixing import OwnShare
from fedsim.network.topology import BarabasiAlbert
from fedsim.participation import Full, Participation, Pattern
from fedsim.protocols import Gossip
from fedsim.protocols.base import Plan, Tick
from fedsim.rounds.jobs import Task
from fedsim.rounds.round import Rounds
from fedsim.rounds.worker import Worker
from fedsim.simulation.simulation import Result, Simulation
from fedsim.training.settings import LocalTraining


@component
class Quadratics(DataSource):
    """Client i holds one example and has the gradient curvature_i * (x - centre_i) at a `Point` x
    in d dimensions.

    centres: [N][d]; curvatures: [N], null: all 1; copies: examples of each client, all the same,
    [N], null: one each.
    """

    _: KW_ONLY
    centres: list[list[float]]
    curvatures: list[float] | None = None
    copies: list[int] | None = None
    validation: Fraction = 0.0

    def load(self, seed: int) -> Dataset:
        clients, outputs = len(self.centres), len(self.centres[0])
        of = np.repeat(np.arange(clients), self.copies or 1)
        # the mean over d outputs of (a x - a c)^2 has the gradient 2 a^2 (x - c) / d
        inputs = np.sqrt(np.array(self.curvatures or [1.0] * clients) * outputs / 2)[of, None]
        split = Split(
            inputs.astype(np.float32), (inputs * np.array(self.centres)[of]).astype(np.float32), of
        )
        return regression("quadratics", split, outputs)


def regression(name: str, split: Split, outputs: int) -> Dataset:
    """A regression data set whose test part is its training part."""
    zeros, ones = np.zeros(split.x.shape[1:], np.float32), np.ones(split.x.shape[1:], np.float32)
    return Dataset(name, "regression", 0, outputs, split, None, split, zeros, ones)


class Point(nn.Module):
    """The model of `Quadratics`: one tensor [d, 1], a point in d dimensions. start: its coordinates
    (one number: all the same), or "normal" for standard normal ones."""

    def __init__(self, outputs: int, start: float | Sequence[float] | str = 0.0) -> None:
        super().__init__()
        values = (
            torch.randn(outputs)
            if start == "normal"
            else torch.as_tensor(start, dtype=torch.float32).expand(outputs)
        )
        self.point = nn.Parameter(values.clone().unsqueeze(1))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return inputs @ self.point.T


@component
class Blobs(DataSource):
    """Classes around random centres, in shards of unequal size and mix of labels: client i holds 3
    + i examples.

    clients: N; classes; features: inputs' dimensions.
    """

    clients: PositiveInt = 8
    classes: PositiveInt = 3
    features: PositiveInt = 4
    validation: Fraction = 0.0

    def load(self, seed: int) -> Dataset:
        random = rng.generator(seed, "synthetic")
        centres = random.normal(size=(self.classes, self.features))
        of = np.repeat(np.arange(self.clients), 3 + np.arange(self.clients))
        label = np.where(
            random.random(len(of)) < 0.6,
            of % self.classes,
            random.integers(self.classes, size=len(of)),
        )
        x = (centres[label] + random.normal(size=(len(of), self.features))).astype(np.float32)
        split = Split(x, label.astype(np.int64), of)
        zeros, ones = np.zeros(self.features, np.float32), np.ones(self.features, np.float32)
        return Dataset(
            "blobs", "classification", self.classes, self.classes, split, None, split, zeros, ones
        )


class Cohorts(Participation):
    """Given cohorts, round by round (nobody after the last), with given true probabilities."""

    def __init__(
        self, *cohorts: Sequence[int], probabilities: Sequence[float] | float = 0.5
    ) -> None:
        self.cohorts, self.probabilities = cohorts, probabilities

    def bind(self, population, seed):
        return GivenPattern(population, seed, self.cohorts, np.asarray(self.probabilities))


class GivenPattern(Pattern):
    def __init__(self, population, seed, cohorts, probabilities) -> None:
        super().__init__(population, seed, probabilities)
        self.cohorts = cohorts

    def draw(self, round):
        return np.array(self.cohorts[round] if round < len(self.cohorts) else [], dtype=np.int64)


class Heavy(ClientRule):
    """A rule with a vector that follows the model to the clients: local steps along the gradient
    less half the receiver's last mean update."""

    def init_shared(self, x):
        return {"last": torch.zeros_like(x)}

    def direction(self, grad, x, anchor, state, shared):
        return grad(x) - 0.5 * shared["last"]

    def absorb(self, shared, mixed, info):
        return {"last": mixed["update"]}, None


def mlp(*hidden: int, activation: str = "relu") -> functools.partial:
    """A model factory: an MLP with hidden layers of these sizes."""
    return functools.partial(MLP, hidden=list(hidden), activation=activation)


def quadratic_run(
    centres,
    rounds: int,
    *,
    curvatures=None,
    copies=None,
    start: Any = 0.0,
    rate: float = 0.5,
    steps: int = 1,
    **parts: Any,
) -> Result:
    """Run a simulation on `Quadratics`: one local step of rate 0.5 by default."""
    data = Quadratics(
        centres=np.asarray(centres, float).tolist(), curvatures=curvatures, copies=copies
    )
    local = parts.pop("local", None) or LocalTraining(steps=steps, rate=rate)
    model = functools.partial(Point, start=start)
    return Simulation(
        data,
        Natural(),
        model,
        rounds=rounds,
        local=local,
        evaluation=seldom(),
        progress=False,
        **parts,
    ).run()


def blobs_simulation(rounds: int = 6, **parts: Any) -> Simulation:
    """A simulation on `Blobs` with a small MLP: two local steps on batches of 4, so that shards and
    batches are unequal."""
    settings = {
        "data": Blobs(),
        "partition": Natural(),
        "model": mlp(5),
        "participation": Full(),
        "local": LocalTraining(steps=2, batch_size=4, rate=0.2, clients_per_batch=2),
        "evaluation": seldom(),
        "progress": False,
    }
    return Simulation(**{**settings, "rounds": rounds, **parts})


def algorithms() -> dict[str, dict[str, Any]]:
    """Parts of a simulation by name: every algorithm with its variants, at a server and over a
    graph."""
    graph = {"protocol": Gossip(), "topology": BarabasiAlbert(edges=2)}
    uneven = {"protocol": Gossip(same_start=False), "topology": BarabasiAlbert(edges=2)}
    return {
        "fedavg_size": {"aggregator": FedAvg(weighting="size")},
        "fedavg_uniform": {"aggregator": FedAvg(weighting="uniform")},
        "fedavg_all": {"aggregator": FedAvg(weighting="all", rate=2.0)},
        "fedavg_known_prob": {"aggregator": FedAvg(weighting="known_prob")},
        "fedau": {"aggregator": FedAU()},
        "fedau_cutoff": {"aggregator": FedAU(cutoff=2)},
        "fedspeed": {"client": FedSpeed(prox=1.0), "aggregator": FedAvg(weighting="uniform")},
        "fedspeed_active": {
            "client": FedSpeed(prox=1.0, mean_dual="active"),
            "aggregator": FedAvg(weighting="uniform"),
        },
        "feddyn": {
            "client": FedSpeed(prox=1.0, radius=0.0),
            "aggregator": FedAvg(weighting="uniform"),
        },
        "fedspeed_fedau": {"client": FedSpeed(prox=1.0), "aggregator": FedAU()},
        "fedprox": {"client": FedProx(strength=1.0), "aggregator": FedAvg(weighting="size")},
        "scaffold": {"client": Scaffold(), "aggregator": FedAvg(weighting="uniform")},
        "fedgamma": {"client": Scaffold(radius=0.5), "aggregator": FedAvg(weighting="uniform")},
        "fedcm": {"client": FedCM(share=0.3), "aggregator": FedAvg(weighting="uniform")},
        "fedsam": {"client": FedSam(radius=0.5), "aggregator": FedAvg(weighting="uniform")},
        "fedsmoo": {
            "client": FedSmoo(radius=0.5, prox=1.0),
            "aggregator": FedAvg(weighting="uniform"),
        },
        "fednova": {"aggregator": FedNova(weighting="size")},
        "gossip": {"aggregator": FedAvg(weighting="uniform"), **graph},
        "gossip_corrected": {
            "aggregator": FedAvg(weighting="uniform"),
            "correction": VarianceCorrection(),
            **graph,
        },
        "gossip_corrected_uneven": {
            "aggregator": FedAvg(weighting="uniform"),
            "correction": VarianceCorrection(),
            "mixing": OwnShare(share=0.5),
            **uneven,
        },
        "dpsgd": {
            "aggregator": FedAvg(weighting="uniform"),
            **graph,
            "protocol": Gossip(order="combine_then_adapt"),
        },
        "fedau_gossip": {"aggregator": FedAU(), **graph},
        "mofedsam_gossip": {
            "client": FedCM(share=0.3, radius=0.5),
            "aggregator": FedAvg(weighting="uniform"),
            **graph,
        },
        "fedspeed_gossip": {
            "client": FedSpeed(prox=1.0, mean_dual="none"),
            "aggregator": FedAvg(weighting="uniform"),
            **graph,
        },
        "fedspeed_gossip_active": {
            "client": FedSpeed(prox=1.0, mean_dual="active"),
            "aggregator": FedAvg(weighting="uniform"),
            **graph,
        },
    }


def seldom() -> Evaluation:
    """Evaluation of the first and the last models only."""
    return Evaluation(every=1_000_000)


class Ticks:
    """A simulation's rounds one at a time, with its models and arrays in sight. Use as a context
    manager."""

    def __init__(self, simulation: Simulation) -> None:
        self.simulation, self.prepared = simulation, simulation.prepare()
        self.task: Task = self.prepared.task
        self.round = 0

    def __enter__(self) -> Ticks:
        self.session = InProcess().open(self.task, Worker)
        self.rounds = Rounds(
            self.task,
            self.session,
            self.prepared.plan,
            self.prepared.pattern.probabilities,
            self.simulation.failures,
            self.simulation.attack,
        )
        self.rounds.receivers.start(self.simulation._first_models(self.task))
        return self

    def __exit__(self, *exception) -> None:
        self.session.close()

    def run(self, rounds: int = 1) -> np.ndarray:
        """Run rounds; the models [R, P] after them."""
        for _ in range(rounds):
            rate = self.simulation.local.rate * self.simulation.schedule.factor(
                self.round, self.simulation.rounds
            )
            self.rounds.run(
                self.prepared.plan.tick(self.round, self.prepared.pattern.cohort(self.round)), rate
            )
            self.round += 1
        return self.models

    @property
    def models(self) -> np.ndarray:
        """The receivers' models, float32 [R, P]."""
        return self.session.arena.rows(self.rounds.receivers.models, np.arange(self.task.receivers))

    def array(self, name: str) -> np.ndarray:
        """A copy of an array of the arena: "shared/0/mean_dual", ..."""
        return self.session.arena[name].copy()

    def kept(self, name: str) -> np.ndarray:
        """What clients keep under a name ("rule.dual"), [N, length]; zeros for those who have not
        taken part."""
        rows, stored = self.rounds.clients.rows.row, self.session.arena[f"client/{name}"]
        return np.where(rows[:, None] >= 0, stored[rows], 0)


def mostly_long(values: Iterable, *kept: object) -> list:
    """Parameters of a test; those not kept are tested by `make test-all` alone."""
    return [each if each in kept else pytest.param(each, marks=pytest.mark.long) for each in values]


def dense_mixing(links: Links, heard: Heard | None = None) -> np.ndarray:
    """The mixing matrix [R, R] of links with their nominal weights, or of those heard with
    theirs."""
    matrix = np.zeros((links.receivers, links.senders))
    if heard is None:
        matrix[links.receiver, links.sender] = links.weight
    else:
        matrix[heard.receiver, heard.sender] = heard.weight
    return matrix


def metropolis_matrix(adjacency: np.ndarray) -> np.ndarray:
    """Metropolis-Hastings weights of a dense adjacency matrix [N, N], entry by entry."""
    degree = adjacency.sum(axis=1)
    weights = np.zeros(adjacency.shape)
    for i, j in zip(*np.nonzero(adjacency), strict=True):
        weights[i, j] = 1 / (1 + max(degree[i], degree[j]))
    return weights + np.diag(1 - weights.sum(axis=1))


def tick_of(plan: Plan, round: int, cohort: Sequence[int]) -> Tick:
    """A tick of a plan for a cohort given as a list."""
    return plan.tick(round, np.array(cohort, dtype=np.int64))
