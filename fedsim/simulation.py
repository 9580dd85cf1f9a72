"""A simulation: its parts, the checks before anything starts, and the loop plan -> train -> exchange -> evaluate -> record."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import nn

from fedsim.algorithms import Aggregator, ClientRule, Correction, FedAvg, Sgd
from fedsim.algorithms.base import EVERYONE
from fedsim.data.dataset import Dataset, DataSource
from fedsim.data.partition import Partition
from fedsim.data.shards import Shards, holdout
from fedsim.engine.base import Engine
from fedsim.engine.inprocess import InProcess
from fedsim.engine.task import Task
from fedsim.errors import ConfigError, require
from fedsim.evaluation import Evaluation, Evaluator
from fedsim.local.settings import LocalTraining
from fedsim.metrics.base import Metric
from fedsim.mixing import Metropolis, Mixing
from fedsim.models import build_model, check_model
from fedsim.parameters import Layout, flat_parameters
from fedsim.participation import Full, Participation, Pattern, Population
from fedsim.protocols.base import Plan, Protocol
from fedsim.protocols.server import Server
from fedsim.recording.book import Book
from fedsim.recording.describe import describe
from fedsim.recording.loggers import Logger
from fedsim.recording.progress import RoundProgress
from fedsim.recording.recorder import Recorder
from fedsim.rounds import Diverged, Rounds
from fedsim.schedules import Constant, Schedule
from fedsim.topology import Topology

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Result:
    """What a run gives. metrics: tidy table (round, clock, scope, node, metric, value); summary: final values, see README; model: the
    server's model or the mean of the nodes' by parameter name; models: all receivers' models, float32 [R, P]; status: done or diverged;
    folder: the run folder, if any."""

    metrics: pd.DataFrame
    summary: dict[str, Any]
    model: dict[str, torch.Tensor]
    models: np.ndarray
    status: str
    folder: Path | None

    @property
    def accuracy(self) -> float:
        """Final accuracy: the server's model, or the mean over nodes; NaN for regression."""
        return self.summary.get("accuracy", float("nan"))


@dataclass
class Simulation:
    """One simulation, from plain objects; `run()` gives the same result as the command line does for the same settings.

    data, partition, model: what is learned (model: a callable such as `functools.partial(MLP, hidden=[64])` that builds a module);
    client, aggregator, correction: the algorithm; participation: who takes part; protocol, topology, mixing: who hears whom;
    local, schedule: local training and the learning rate over rounds; engine: where it runs; evaluation, metrics: what is measured;
    rounds; seed: of every draw; folder: where to record (None: in memory only); loggers; progress; plots: also draw the clients' labels;
    config, overrides: what is recorded beside the results (config: by default `describe()`).
    """

    data: DataSource
    partition: Partition
    model: Callable[..., nn.Module]
    client: ClientRule = field(default_factory=Sgd)
    aggregator: Aggregator = field(default_factory=FedAvg)
    correction: Correction | None = None
    participation: Participation = field(default_factory=Full)
    protocol: Protocol = field(default_factory=Server)
    topology: Topology | None = None
    mixing: Mixing | None = None
    local: LocalTraining = field(default_factory=LocalTraining)
    schedule: Schedule = field(default_factory=Constant)
    engine: Engine = field(default_factory=InProcess)
    evaluation: Evaluation = field(default_factory=Evaluation)
    metrics: Sequence[Metric] = ()
    rounds: int = 100
    seed: int = 0
    folder: Path | str | None = None
    loggers: Sequence[Logger] = ()
    progress: bool | Literal["auto"] = "auto"
    plots: bool = False
    name: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    overrides: Sequence[str] = ()

    def __post_init__(self) -> None:
        require(isinstance(self.rounds, int) and self.rounds >= 1, "rounds", self.rounds, "accepted is an integer of at least 1")
        require(isinstance(self.seed, int) and 0 <= self.seed < 2**63, "seed", self.seed, "accepted is an integer from 0 to 2**63 - 1")
        require(not self.plots or self.folder is not None, "plots", self.plots, "needs a run folder to draw in")

    def prepare(self) -> Prepared:
        """Load the data, cut it into shards, build the model and bind the patterns: everything that can be refused, before anything starts.

        Raises ConfigError.
        """
        self.engine.check()
        self.client.check(self.local.rate, self.protocol.graph)
        dataset = self.data.load(self.seed)
        shards = self.partition.split(dataset.train, dataset.classes, self.seed)
        require(
            self.evaluation.split == "test" or dataset.validation is not None,
            "evaluation.split",
            "validation",
            "needs data.validation above 0",
        )
        target = self.evaluation.target
        require(
            target is None or dataset.task == "classification",
            "evaluation.target",
            target,
            "is an accuracy, and regression has none; use null",
        )
        require(not self.plots or dataset.task == "classification", "plots", True, "draws the clients' labels, and regression has none")
        population = Population(len(shards), shards.sizes > 0, _label_shares(shards, dataset))
        client_shards = None
        if self.evaluation.clients:
            shards, client_shards = holdout(shards, self.evaluation.clients, self.seed)
        pattern = self.participation.bind(population, self.seed)
        mixing = self.mixing if self.mixing is not None or not self.protocol.graph else Metropolis()
        members = int((shards.sizes > 0).sum())
        plan = self.protocol.bind(len(shards), self.topology, mixing, self.seed, members)
        self._check_fit(plan)
        module = build_model(self.model, dataset.input_shape, dataset.outputs, self.seed, 0, vocabulary(dataset))
        check_model(module, dataset.input_shape, dataset.outputs, dataset.tokens)
        task = Task(
            dataset=dataset,
            shards=shards,
            module=module,
            layout=Layout.of(module),
            rule=self.client,
            aggregator=self.aggregator,
            correction=self.correction,
            local=self.local,
            clients=len(shards),
            members=members,
            receivers=plan.receivers,
            rows=self.protocol.graph,
            combine_first=self.protocol.combine_first,
            seed=self.seed,
            device=self.engine.device,
        )
        return Prepared(task, pattern, plan, client_shards)

    def _check_fit(self, plan: Plan) -> None:
        everyone = [name for name, averaging in self.client.channels.items() if averaging is EVERYONE]
        what = type(self.client).__name__
        require(
            not self.protocol.graph or not everyone,
            "client",
            what,
            f"averages {everyone} over all clients, which only a server can; use protocol=server",
        )
        lasting = plan.links is not None or not self.aggregator.remembers_links
        what = type(self.aggregator).__name__
        require(lasting, "aggregator", what, "remembers links, and this topology draws them afresh each round; use one that stays")

    def describe(self) -> dict[str, Any]:
        """The settings of all parts as plain data, in the form of a configuration file."""
        recorded = [
            field.name for field in fields(self) if field.name not in ("folder", "loggers", "progress", "plots", "config", "overrides")
        ]
        return {name: describe(getattr(self, name)) for name in recorded}

    def run(self) -> Result:
        """Run all rounds. Raises ConfigError before anything starts; any later error is recorded in status.json and raised."""
        prepared = self.prepare()
        recorder = Recorder(self.folder, self.config or self.describe(), self.overrides, self.loggers)
        recorder.start()
        try:
            return self._run(prepared, recorder)
        except BaseException as error:
            if isinstance(error, ConfigError) and recorder.empty:  # an engine that refuses to start: nothing has run
                recorder.discard()
            else:
                recorder.fail(error)
            raise

    def _run(self, prepared: Prepared, recorder: Recorder) -> Result:
        task, pattern, plan = prepared.task, prepared.pattern, prepared.plan
        with self.engine.open(task) as session, RoundProgress(self.rounds, self.progress, self.name) as progress:
            rounds = Rounds(task, session, plan, pattern.probabilities)
            rounds.start(self._first_models(task))
            evaluator = Evaluator(self.evaluation, self.metrics, task, session, prepared.client_shards)
            book = Book(recorder, self.rounds, len(pattern.probabilities))
            book.evaluate(0, evaluator, rounds.models)
            status, reason = "done", None
            for round in range(self.rounds):
                tick = plan.tick(round, pattern.cohort(round))
                try:
                    report = rounds.run(tick, self.local.rate * self.schedule.factor(round, self.rounds))
                except Diverged as error:
                    status, reason = "diverged", str(error)
                    if not self.evaluation.due(round, self.rounds):
                        book.evaluate(round, evaluator, rounds.models)
                    break
                book.count(report)
                if self.evaluation.due(round + 1, self.rounds):
                    book.evaluate(round + 1, evaluator, rounds.models)
                progress.update(round + 1, book.accuracy)
            models = session.arena[rounds.models].copy()
        return self._finish(task, recorder, book, models, status, reason)

    def _first_models(self, task: Task) -> list[torch.Tensor]:
        """One initial model, or one for each node where they start differently."""
        first = [flat_parameters(task.module)]
        for node in range(1, 1 if self.protocol.same_start else task.receivers):
            dataset = task.dataset
            module = build_model(self.model, dataset.input_shape, dataset.outputs, self.seed, node, vocabulary(dataset))
            first.append(flat_parameters(module))
        return first

    def _finish(self, task: Task, recorder: Recorder, book: Book, models: np.ndarray, status: str, reason: str | None) -> Result:
        from fedsim.analysis.targets import rounds_to_target

        members = models if len(models) == 1 else models[task.shards.sizes > 0]  # nodes without data keep their first model
        mean = torch.from_numpy(members.mean(axis=0, dtype=np.float64).astype(np.float32))
        model = {name: view.clone().contiguous() for name, view in task.layout.views(mean).items()}
        summary = {"status": status, "rounds": book.round, **book.totals()}
        summary |= {"parameters": task.layout.size, "clients": task.clients, "model_sha256": hashlib.sha256(models.tobytes()).hexdigest()}
        summary |= task.dataset.notes
        if self.evaluation.target is not None:
            summary["target"] = self.evaluation.target
            summary["rounds_to_target"] = rounds_to_target(book.curve, self.evaluation.target) or "not reached"
        recorder.finish(summary, model, status, reason)
        if self.plots:
            from fedsim.analysis.heatmap import label_heatmap

            counts = task.shards.label_counts(task.dataset.train.y, task.dataset.classes)
            label_heatmap(counts, Path(self.folder) / "labels.png", task.dataset.label_names)
        return Result(recorder.table(), summary, model, models, status, recorder.folder)


@dataclass(frozen=True)
class Prepared:
    """A simulation whose parts fit together, ready to start."""

    task: Task
    pattern: Pattern
    plan: Plan
    client_shards: Shards | None


def vocabulary(dataset: Dataset) -> int | None:
    """Number of different tokens, None where inputs are no tokens; the next token is what is learned, so there are as many as classes."""
    return dataset.classes if dataset.tokens else None


def _label_shares(shards: Shards, dataset: Dataset) -> np.ndarray | None:
    """Share of each class in each client's shard, float64 [N, classes]; None for regression."""
    if dataset.task != "classification":
        return None
    counts = shards.label_counts(dataset.train.y, dataset.classes)
    return counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
