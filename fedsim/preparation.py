"""From settings to a run that can start: the data loaded and cut into shards, the model built, the patterns bound, and all refused that can
be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fedsim.algorithms.base import EVERYONE, Setting
from fedsim.data.dataset import Dataset
from fedsim.data.shards import Shards, holdout
from fedsim.engine.task import Task
from fedsim.errors import require
from fedsim.mixing import Metropolis
from fedsim.models import build_model, check_model
from fedsim.parameters import Layout
from fedsim.participation import Pattern, Population
from fedsim.protocols.base import Plan

if TYPE_CHECKING:
    from fedsim.simulation import Simulation


@dataclass(frozen=True)
class Prepared:
    """A simulation whose parts fit together, ready to start."""

    task: Task
    pattern: Pattern
    plan: Plan
    client_shards: Shards | None


def prepare(simulation: Simulation) -> Prepared:
    """Load the data, cut it into shards, build the model and bind the patterns, before anything starts. Raises ConfigError."""
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
    setting = Setting(place, s.client, s.correction is not None, pattern.sampling, pattern.probabilities, members)
    aggregator = s.aggregator.bind(setting)
    module = build_model(s.model, dataset.input_shape, dataset.outputs, s.seed, 0, vocabulary(dataset))
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
        rows=place != "server" or s.aggregator.rows or s.attack.forges or s.failures.policy != "refuse",
        combine_first=s.protocol.combine_first,
        seed=s.seed,
        device=s.engine.device,
        attackers=s.attack.attackers(s.seed, len(shards)),
        poisoned=_poisoned(s, dataset, shards),
    )
    return Prepared(task, pattern, plan, client_shards)


def _check_data(s: Simulation, dataset: Dataset) -> None:
    validation = dataset.validation is not None
    require(s.evaluation.split == "test" or validation, "evaluation.split", "validation", "needs data.validation above 0")
    judges = type(s.aggregator).__name__
    require(
        not s.aggregator.judges or validation, "aggregator", judges, "judges models on the validation split; set data.validation above 0"
    )
    for key, part in (("client", s.client), ("aggregator", s.aggregator), ("attack", s.attack)):
        fits = dataset.task == "classification" or not part.classifies
        require(fits, key, type(part).__name__, "needs labels that are classes, and this data set is a regression")
    labels, target = dataset.task == "classification", s.evaluation.target
    require(target is None or labels, "evaluation.target", target, "is an accuracy, and regression has none; use null")
    require(not s.plots or labels, "plots", True, "draws the clients' labels, and regression has none")


def _check_fit(s: Simulation, plan: Plan) -> None:
    everyone = [name for name, averaging in s.client.channels.items() if averaging is EVERYONE]
    accepted = f"averages {everyone} over all clients, which only a server can; use protocol=server"
    require(s.protocol.place == "server" or not everyone, "client", type(s.client).__name__, accepted)
    mixes = not (s.aggregator.rows and s.protocol.combine_first)
    accepted = f"mixes models by their weights before training, and {type(s.aggregator).__name__} has none; use adapt_then_combine"
    require(mixes, "protocol.order", "combine_then_adapt", accepted)
    lasting = plan.links is not None or not s.aggregator.remembers_links
    what = type(s.aggregator).__name__
    require(lasting, "aggregator", what, "remembers links, and this topology draws them afresh each round; use one that stays")


def _poisoned(s: Simulation, dataset: Dataset, shards: Shards) -> np.ndarray | None:
    """Labels of the training split with the attackers' own ones in their shards; None where they are as they were."""
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
    """Number of different tokens, None where inputs are no tokens; the next token is what is learned, so there are as many as classes."""
    return dataset.classes if dataset.tokens else None


def _label_shares(shards: Shards, dataset: Dataset) -> np.ndarray | None:
    """Share of each class in each client's shard, float64 [N, classes]; None for regression."""
    if dataset.task != "classification":
        return None
    counts = shards.label_counts(dataset.train.y, dataset.classes)
    return counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
