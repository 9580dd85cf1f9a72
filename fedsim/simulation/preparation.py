"""From settings to a run that can start: the data loaded and cut into shards, the model built, the
patterns bound, and all refused that can be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from fedsim.algorithms.base import EVERYONE, MIXING, Setting
from fedsim.data.dataset import Dataset
from fedsim.data.shards import Shards, holdout
from fedsim.errors import require, within_memory
from fedsim.models import build_model, check_model
from fedsim.network.mixing import Metropolis
from fedsim.parameters import Layout
from fedsim.participation import Pattern, Population
from fedsim.protocols.base import Plan
from fedsim.rounds.jobs import Task

if TYPE_CHECKING:
    from fedsim.simulation.simulation import Simulation


@dataclass(frozen=True)
class Prepared:
    """A simulation whose parts fit together, ready to start."""

    task: Task
    pattern: Pattern
    plan: Plan
    client_shards: Shards | None


@within_memory()
def prepare(simulation: Simulation) -> Prepared:
    """Load the data, cut it into shards, build the model and bind the patterns, before anything
    starts. Raises ConfigError."""
    s, place = simulation, simulation.protocol.place
    s.engine.check()
    s.client.check(s.local.rate, place)
    s.aggregator.check(place)
    s.attack.check(place)
    dataset = s.data.load(s.seed)
    shards = s.partition.split(dataset.train, dataset.classes, s.seed)
    _check_data(s, dataset)
    population = Population(len(shards), shards.sizes > 0, _label_shares(shards, dataset))
    client_shards = None
    if s.evaluation.clients:
        shards, client_shards = holdout(shards, s.evaluation.clients, s.seed)
    pattern = s.participation.bind(population, s.seed)
    mixing = s.mixing if s.mixing is not None or place != "graph" else Metropolis()
    members = int((shards.sizes > 0).sum())
    plan = s.protocol.bind(len(shards), s.topology, mixing, s.seed, members)
    _check_fit(s, plan)
    setting = Setting(
        place, s.client, s.correction is not None, pattern.sampling, pattern.probabilities, members
    )
    aggregator = s.aggregator.bind(setting)
    module = build_model(
        s.model, dataset.input_shape, dataset.outputs, s.seed, 0, vocabulary(dataset)
    )
    check_model(module, dataset.input_shape, dataset.outputs, dataset.tokens)
    task = Task(
        dataset=dataset,
        shards=shards,
        module=module,
        layout=Layout.of(module),
        rule=s.client,
        aggregator=aggregator,
        correction=s.correction,
        local=s.local,
        clients=len(shards),
        members=members,
        receivers=plan.receivers,
        place=place,
        rows=place != "server"
        or s.aggregator.rows
        or s.attack.forges
        or s.failures.policy != "refuse",
        combine_first=s.protocol.combine_first,
        seed=s.seed,
        device=s.engine.device,
        attackers=s.attack.attackers(s.seed, len(shards)),
        poisoned=_poisoned(s, dataset, shards),
    )
    for metric in s.metrics:
        metric.check(task)
    return Prepared(task, pattern, plan, client_shards)


def _check_data(s: Simulation, dataset: Dataset) -> None:
    validation = dataset.validation is not None
    require(
        s.evaluation.split == "test" or validation,
        "evaluation.split",
        "validation",
        "needs data.validation above 0",
    )
    judges = type(s.aggregator).__name__
    require(
        not s.aggregator.judges or validation,
        "aggregator",
        judges,
        "judges models on the validation split; set data.validation above 0",
    )
    for key, part in (("client", s.client), ("aggregator", s.aggregator), ("attack", s.attack)):
        fits = dataset.task == "classification" or not part.classifies
        require(
            fits,
            key,
            type(part).__name__,
            "needs labels that are classes, and this data set is a regression",
        )
    labels, target = dataset.task == "classification", s.evaluation.target
    require(
        target is None or labels,
        "evaluation.target",
        target,
        "is an accuracy, and regression has none; use null",
    )
    require(
        not s.plots or labels, "plots", True, "draws the clients' labels, and regression has none"
    )


def _check_fit(s: Simulation, plan: Plan) -> None:
    everyone = [name for name, averaging in s.client.channels.items() if averaging is EVERYONE]
    accepted = f"averages {everyone} over all clients, which only a server can; use protocol=server"
    require(
        s.protocol.place == "server" or not everyone, "client", type(s.client).__name__, accepted
    )
    _check_mixing(s)
    if s.protocol.place == "walk":
        _check_walk(s)
    mixes = not (s.aggregator.rows and s.protocol.combine_first)
    accepted = (
        f"mixes models by their weights before training, and {type(s.aggregator).__name__} has"
        " none; use adapt_then_combine"
    )
    require(mixes, "protocol.order", "combine_then_adapt", accepted)
    lasting = plan.links is not None or not s.aggregator.remembers_links
    what = type(s.aggregator).__name__
    require(
        lasting,
        "aggregator",
        what,
        "remembers links, and this topology draws them afresh each round; use one that stays",
    )


def _check_mixing(s: Simulation) -> None:
    """What rules ask of local steps, and of how models are mixed."""
    rule, name, local = s.client, type(s.client).__name__, s.local
    plain = local.optimizer == "sgd" and not (local.momentum or local.clip_norm)
    accepted = (
        "reads gradients off the distance gone; accepted are local.optimizer=sgd without momentum"
        " and clip_norm"
    )
    require(plain or not rule.plain_steps, "client", name, accepted)
    mixed = [channel for channel, averaging in rule.channels.items() if averaging is MIXING]
    accepted = (
        f"mixes {mixed} with the neighbours', and a server mixes nothing; use protocol=gossip"
    )
    require(s.protocol.place == "graph" or not mixed, "client", name, accepted)
    what = (
        "divides what it sends, so that models need weights of their own; use client=push_sum"
        " (algorithm=push_sum), or another mixing"
    )
    require(
        rule.scaled or s.mixing is None or not s.mixing.column_stochastic,
        "mixing",
        type(s.mixing).__name__,
        what,
    )
    accepted = "compares models, and those of client=push_sum are scaled by weights of their own"
    require(
        not rule.scaled or s.correction is None, "correction", type(s.correction).__name__, accepted
    )
    require(
        not rule.scaled or not s.aggregator.rows,
        "aggregator",
        type(s.aggregator).__name__,
        accepted,
    )


def _check_walk(s: Simulation) -> None:
    like = torch.zeros(1, 1)
    for key, part, kept in (
        ("client", s.client, s.client.init(like)),
        ("aggregator", s.aggregator, s.aggregator.init_memory(like)),
    ):
        accepted = (
            f"keeps {', '.join(kept)} at the client, and on a walk all that lasts goes with the"
            " token; use a server or a graph"
        )
        require(not kept, key, type(part).__name__, accepted)
    require(
        s.correction is None,
        "correction",
        type(s.correction).__name__,
        "belongs to mixed models, and a walk mixes none; use none",
    )
    require(
        s.failures.policy != "drop",
        "failures.policy",
        "drop",
        "a token is not heard by anybody who could drop it; use refuse or keep",
    )


def _poisoned(s: Simulation, dataset: Dataset, shards: Shards) -> np.ndarray | None:
    """Labels of the training split with the attackers' own ones in their shards; None where they
    are as they were."""
    if dataset.task != "classification":
        return None
    changed = s.attack.labels(dataset.train.y, dataset.classes)
    if changed is None:
        return None
    hostile = s.attack.attackers(s.seed, len(shards))
    labels = dataset.train.y.copy()
    theirs = shards.indices[hostile[shards.owners]]
    labels[theirs] = changed[theirs]
    return labels


def vocabulary(dataset: Dataset) -> int | None:
    """Number of different tokens, None where inputs are no tokens; the next token is what is
    learned, so there are as many as classes."""
    return dataset.classes if dataset.tokens else None


def _label_shares(shards: Shards, dataset: Dataset) -> np.ndarray | None:
    """Share of each class in each client's shard, float64 [N, classes]; None for regression."""
    if dataset.task != "classification":
        return None
    counts = shards.label_counts(dataset.train.y, dataset.classes)
    return counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
