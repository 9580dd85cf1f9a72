"""A simulation: its parts, the checks before anything starts, and the loop plan -> train ->
exchange -> evaluate -> record."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from fedsim.algorithms import Aggregator, ClientRule, Correction, FedAvg, Sgd
from fedsim.attacks import Attack, NoAttack
from fedsim.data.dataset import DataSource
from fedsim.data.partition import Partition
from fedsim.engine.arena import remove_abandoned
from fedsim.engine.base import Engine
from fedsim.engine.inprocess import InProcess
from fedsim.errors import ConfigError, require
from fedsim.evaluation.evaluator import Evaluation, Evaluator
from fedsim.evaluation.metric import Metric
from fedsim.models import build_model
from fedsim.network.mixing import Mixing
from fedsim.network.topology import Topology
from fedsim.parameters import flat_parameters
from fedsim.participation import Full, Participation
from fedsim.protocols.base import Protocol
from fedsim.protocols.server import Server
from fedsim.recording.checkpoints import Checkpoint, Checkpoints, Part, Saved
from fedsim.recording.descriptions import describe
from fedsim.recording.files import shown
from fedsim.recording.identity import refuse_other_settings
from fedsim.recording.loggers import Logger
from fedsim.recording.progress import RoundProgress
from fedsim.recording.recorder import Recorder
from fedsim.recording.totals import Book
from fedsim.rounds.failures import Failures
from fedsim.rounds.jobs import Task
from fedsim.rounds.round import Rounds
from fedsim.rounds.screening import Diverged
from fedsim.rounds.worker import Worker
from fedsim.schedules import Constant, Schedule
from fedsim.simulation.interruption import Interrupted, Interruption
from fedsim.simulation.preparation import Prepared, prepare, vocabulary
from fedsim.simulation.result import Result, stored_result
from fedsim.training.settings import LocalTraining


@dataclass
class Simulation:
    """One simulation, from plain objects; `run()` gives the same result as the command line does
    for the same settings.

    data, partition, model: what is learned (model: a callable such as `functools.partial(MLP,
    hidden=[64])` that builds a module); client, aggregator, correction: the algorithm;
    participation: who takes part; protocol, topology, mixing: who hears whom; attack, failures:
    clients that attack or fail; local, schedule: local training and the learning rate over rounds;
    engine: where it runs; evaluation, metrics: what is measured; rounds; seed: of every draw;
    folder: where to record (None: in memory only); checkpoint: when to save what a run goes on
    from; loggers; progress; plots: also draw the clients' labels; config, overrides: what is
    recorded beside the results (config: by default `describe()`).
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
    attack: Attack = field(default_factory=NoAttack)
    failures: Failures = field(default_factory=Failures)
    local: LocalTraining = field(default_factory=LocalTraining)
    schedule: Schedule = field(default_factory=Constant)
    engine: Engine = field(default_factory=InProcess)
    evaluation: Evaluation = field(default_factory=Evaluation)
    metrics: Sequence[Metric] = ()
    rounds: int = 100
    seed: int = 0
    folder: Path | str | None = None
    checkpoint: Checkpoint = field(default_factory=Checkpoint)
    loggers: Sequence[Logger] = ()
    progress: bool | Literal["auto"] = "auto"
    plots: bool = False
    name: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    overrides: Sequence[str] = ()

    def __post_init__(self) -> None:
        require(
            isinstance(self.rounds, int) and self.rounds >= 1,
            "rounds",
            self.rounds,
            "accepted is an integer of at least 1",
        )
        require(
            isinstance(self.seed, int) and 0 <= self.seed < 2**63,
            "seed",
            self.seed,
            "accepted is an integer from 0 to 2**63 - 1",
        )
        require(
            not self.plots or self.folder is not None,
            "plots",
            self.plots,
            "needs a run folder to draw in",
        )

    def prepare(self) -> Prepared:
        """Load the data, cut it into shards, build the model and bind the patterns: everything that
        can be refused, before anything starts.

        Raises ConfigError.
        """
        return prepare(self)

    def describe(self) -> dict[str, Any]:
        """The settings of all parts as plain data, in the form of a configuration file."""
        recorded = [
            field.name
            for field in fields(self)
            if field.name not in ("folder", "loggers", "progress", "plots", "config", "overrides")
        ]
        return {name: describe(getattr(self, name)) for name in recorded}

    def run(self, resume: bool = False) -> Result:
        """Run all rounds.

        resume: go on from the newest checkpoint in the run folder; a finished run's result is read
        back, and where there is no checkpoint yet the run begins. Raises ConfigError before
        anything starts, and where the disk is full at the end. SIGINT and SIGTERM end a run with a
        folder after the round in progress, with a checkpoint and Interrupted (a KeyboardInterrupt).
        Any other error is recorded and raised.
        """
        recorder = Recorder(
            self.folder, self.config or self.describe(), self.overrides, self.loggers
        )
        if resume:
            require(
                recorder.folder is not None,
                "resume",
                True,
                "needs the run folder that it goes on in: Simulation(folder=...)",
            )
            refuse_other_settings(recorder.folder, recorder.config)
            if (stored := stored_result(recorder.folder)) is not None:
                return stored
        prepared = self.prepare()
        task = prepared.task
        sizes = {
            "clients": task.clients,
            "receivers": task.receivers,
            "parameters": task.layout.size,
        }
        checkpoints = Checkpoints(self.checkpoint, recorder.folder, recorder.config, sizes)
        saved = checkpoints.newest() if resume else None
        with Interruption() as interruption:
            recorder.start() if saved is None else recorder.resume(saved.rows, saved.round)
            try:
                # May run the simulation with another one first
                schedule = self.schedule.ready(self, resume)
                return self._run(prepared, schedule, recorder, checkpoints, saved, interruption)
            except Interrupted as stop:
                line = _last_words(stop.round, checkpoints)
                recorder.interrupted(line, checkpoints.last)
                raise Interrupted(stop.signal, stop.round, line) from None
            except BaseException as error:
                # An engine that refuses to start: nothing has run
                if isinstance(error, ConfigError) and recorder.untouched:
                    recorder.discard()
                else:
                    recorder.fail(error)
                raise

    def _run(
        self,
        prepared: Prepared,
        schedule: Schedule,
        recorder: Recorder,
        checkpoints: Checkpoints,
        saved: Saved | None,
        interruption: Interruption,
    ) -> Result:
        task, pattern, plan = prepared.task, prepared.pattern, prepared.plan
        remove_abandoned()  # shared memory of runs that were killed, whatever their engine was
        bar = RoundProgress(self.rounds, self.progress, self.name, done=checkpoints.last)
        with self.engine.open(task, Worker) as session, bar as progress:
            interruption.listen()
            rounds = Rounds(task, session, plan, pattern.probabilities, self.failures, self.attack)
            evaluator = Evaluator(
                self.evaluation, self.metrics, task, session, prepared.client_shards
            )
            book = Book(recorder, self.rounds, len(pattern.probabilities))
            lasting: dict[str, Part] = {"rounds": rounds, "pattern": pattern, "book": book}
            if saved is not None:
                saved.restore(lasting)
            else:
                rounds.receivers.start(self._first_models(task))
                book.evaluate(0, evaluator, rounds.receivers.released())
            interruption.patient = recorder.folder is not None
            status, reason = "done", None
            for round in range(book.round, self.rounds):
                tick = plan.tick(round, pattern.cohort(round))
                rate = self.local.rate * schedule.factor(round, self.rounds)
                try:
                    report = rounds.run(tick, rate)
                except Diverged as error:
                    status, reason = "diverged", str(error)
                    if not self.evaluation.due(round, self.rounds):
                        book.evaluate(round, evaluator, rounds.receivers.released())
                    break
                book.count(report, rate)
                if self.evaluation.due(round + 1, self.rounds):
                    book.evaluate(round + 1, evaluator, rounds.receivers.released())
                progress.update(round + 1, book.accuracy)
                if checkpoints.due(round + 1) or interruption.received:
                    checkpoints.write(round + 1, lasting, recorder)
                interruption.check(round + 1)
            released = rounds.receivers.released()
            models = session.arena.rows(released, np.arange(task.receivers))
            facts = {"workers_lost": len(session.events), **rounds.state_bytes}
        return self._finish(task, recorder, book, models, status, reason, facts)

    def _first_models(self, task: Task) -> list[torch.Tensor]:
        """One initial model, or one for each node where they start differently."""
        first = [flat_parameters(task.module)]
        for node in range(1, 1 if self.protocol.same_start else task.receivers):
            dataset = task.dataset
            module = build_model(
                self.model,
                dataset.input_shape,
                dataset.outputs,
                self.seed,
                node,
                vocabulary(dataset),
            )
            first.append(flat_parameters(module))
        return first

    def _finish(
        self,
        task: Task,
        recorder: Recorder,
        book: Book,
        models: np.ndarray,
        status: str,
        reason: str | None,
        facts: dict[str, Any],
    ) -> Result:
        from fedsim.analysis.curves import run_curves
        from fedsim.analysis.targets import rounds_to_target

        # Nodes without data keep their first model
        members = models[task.honest] if task.place == "graph" else models
        mean = torch.from_numpy(members.mean(axis=0, dtype=np.float64).astype(np.float32))
        model = {name: view.clone().contiguous() for name, view in task.layout.views(mean).items()}
        summary = {"status": status, "rounds": book.round, **book.totals()}
        summary |= {
            "parameters": task.layout.size,
            "clients": task.clients,
            "model_sha256": hashlib.sha256(models.tobytes()).hexdigest(),
        }
        summary |= {
            "metrics_sha256": recorder.sha256(),
            **facts,
            **task.dataset.notes,
            **task.aggregator.notes,
        }
        if self.evaluation.target is not None:
            summary["target"] = self.evaluation.target
            summary["rounds_to_target"] = (
                rounds_to_target(book.curve, self.evaluation.target) or "not reached"
            )
        if self.plots:
            from fedsim.analysis.heatmap import label_heatmap

            counts = task.shards.label_counts(task.dataset.train.y, task.dataset.classes)
            label_heatmap(counts, Path(self.folder) / "labels.png", task.dataset.label_names)
        # last: from now on the run is finished
        recorder.finish(summary, model, status, reason, run_curves)
        return Result(recorder.table(), summary, model, models, status, recorder.folder)


def _last_words(done: int | None, checkpoints: Checkpoints) -> str:
    """What the user is told of a run that a signal has ended. done: rounds, None: in the middle of
    one."""
    if checkpoints.folder is None:
        return "interrupted; a run without a folder keeps nothing"
    again = f"fedsim run resume={shown(checkpoints.folder)}"
    if not checkpoints.last:
        return f"interrupted before the first checkpoint; go on with: {again}"
    if done == checkpoints.last:
        return f"interrupted after round {done}; go on with: {again}"
    return f"interrupted; go on after round {checkpoints.last} with: {again}"
