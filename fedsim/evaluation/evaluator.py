"""What is measured, and when."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np

from fedsim import rng
from fedsim.component import Fraction, PositiveInt, Probability, component
from fedsim.data.shards import Shards
from fedsim.engine.base import Session
from fedsim.evaluation.metric import ExampleValues, Look, Metric
from fedsim.rounds.jobs import MEAN_MODEL, EvaluateJob, Task

ROWS = 64  # models read at once
BLOCK = 500  # examples a job; fixed, so that sums do not depend on the number of workers
Values = dict[tuple[str, int, str], float]  # (scope, node or -1, metric) -> value


@component
class Evaluation:
    """What is measured, and when.

    every: rounds between evaluations (the first models and the last round are always evaluated);
    split: examples that models are judged on; clients: share of each client's examples kept from
    training, on which the client's accuracy is measured, as quantiles and at the end per client (0:
    none); nodes: nodes of a graph that are evaluated, a fixed keyed choice (null: all); per_node:
    record each of them at every evaluation, not at the end alone; target: accuracy for rounds to
    target (null: none).
    """

    every: PositiveInt = 10
    split: Literal["test", "validation"] = "test"
    clients: Fraction = 0.0
    nodes: PositiveInt | None = None
    per_node: bool = False
    target: Probability | None = None

    def due(self, round: int, rounds: int) -> bool:
        """Whether the models after `round` rounds are evaluated."""
        return round % self.every == 0 or round == rounds


class Evaluator:
    """Measures models on a session. metrics: measured beside loss and accuracy; client_shards: each
    client's own held-out examples of the training split, or None. Nodes of a graph without data
    take no part, and like attackers none in what is measured over nodes. The tokens of a walk are
    measured as nodes are."""

    def __init__(
        self,
        settings: Evaluation,
        metrics: Sequence[Metric],
        task: Task,
        session: Session,
        client_shards: Shards | None,
    ) -> None:
        self.settings, self.metrics, self.task, self.session, self.client_shards = (
            settings,
            metrics,
            task,
            session,
            client_shards,
        )
        self.members = {
            "server": np.zeros(0, np.int64),
            "graph": np.flatnonzero(task.honest),
            "walk": np.arange(task.receivers),
        }[task.place]
        self.nodes = self.members
        if settings.nodes is not None and settings.nodes < len(self.members):
            self.nodes = np.sort(
                rng.generator(task.seed, "evaluated nodes").choice(
                    self.members, settings.nodes, replace=False
                )
            )

    def measure(self, models: str, last: bool) -> Values:
        """Values by (scope, node, metric). models: name of the array with the receivers' models;
        last: also values per node and client."""
        judged, scope, found = models, "server", {}
        if self.task.place != "server":
            judged, scope, found = MEAN_MODEL, "mean_model", self._nodes(models, last)
        found |= self._model(scope, judged)
        if self.metrics:
            look = Look(
                self.task,
                lambda: self.session.arena.whole(models),
                lambda split: self._example_values(judged, split),
            )
            found |= {
                (scope, -1, name): value
                for metric in self.metrics
                for name, value in metric.measure(look).items()
            }
        own = models if self.task.place == "graph" else judged
        return found | (self._clients(own, last) if self.client_shards is not None else {})

    def _metrics(
        self, losses: np.ndarray, hits: np.ndarray, examples: int
    ) -> dict[str, np.ndarray]:
        values = {"loss": losses / examples}
        return values | {"accuracy": hits / examples} if self.task.classification else values

    def _model(self, scope: str, models: str) -> Values:
        """Loss and accuracy of the first model of an array, examples in blocks."""
        split, rows = self.settings.split, np.array([0])
        total = len(getattr(self.task.dataset, split))
        jobs = [
            EvaluateJob(models, rows, split, slice(start, min(start + BLOCK, total)))
            for start in range(0, total, BLOCK)
        ]
        parts = self.session.run(jobs)
        losses, hits = (sum(part[which] for part in parts) for which in (0, 1))
        found = {
            (scope, -1, name): float(value[0])
            for name, value in self._metrics(losses, hits, total).items()
        }
        return found

    def _example_values(self, models: str, split: str) -> ExampleValues:
        """Loss and hit of every example of a split by the first model of an array."""
        total = len(getattr(self.task.dataset, split))
        blocks = [slice(start, min(start + BLOCK, total)) for start in range(0, total, BLOCK)]
        parts = self.session.run(
            [
                EvaluateJob(models, np.array([0]), split, block, example_values=True)
                for block in blocks
            ]
        )
        return tuple(np.concatenate([part[which][0] for part in parts]) for which in (0, 1))

    def _nodes(self, models: str, last: bool) -> Values:
        """The nodes' distance from their mean model, and every evaluated node's model on the whole
        split: mean, worst and spread."""
        arena, split = self.session.arena, self.settings.split
        mean = sum(row.astype(np.float64) for row in self._rows(models)) / len(self.members)
        arena[MEAN_MODEL][0] = mean
        distance = np.sqrt(np.mean([np.square(row - mean).sum() for row in self._rows(models)]))
        total = len(getattr(self.task.dataset, split))
        blocks = np.array_split(self.nodes, min(self.task.local.groups, len(self.nodes)))
        parts = self.session.run(
            [EvaluateJob(models, rows, split, slice(0, total)) for rows in blocks]
        )
        losses, hits = (np.concatenate([part[which] for part in parts]) for which in (0, 1))
        found: Values = {("nodes", -1, "consensus_distance"): float(distance)}
        for name, values in self._metrics(losses, hits, total).items():
            found |= _spread("nodes", name, values)
            if last or self.settings.per_node:
                found |= {
                    ("node", int(node), name): float(value)
                    for node, value in zip(self.nodes, values, strict=True)
                }
        return found

    def _rows(self, models: str) -> Iterator[np.ndarray]:
        """The members' models, one after the other."""
        for start in range(0, len(self.members), ROWS):
            yield from self.session.arena.rows(models, self.members[start : start + ROWS])

    def _clients(self, models: str, last: bool) -> Values:
        """Each client's held-out examples, judged by the server's model or by the client's own
        node."""
        shards = self.client_shards
        tested = np.flatnonzero(self.task.honest & (shards.sizes > 0))
        if self.task.place == "graph":
            jobs = [
                EvaluateJob(models, np.array([node]), "train", shards.shard(node))
                for node in tested.tolist()
            ]
            hits = np.array([part[1][0] for part in self.session.run(jobs)])
        else:
            _, example_hits = self._example_values(models, "train")
            hits = np.bincount(shards.owners, example_hits[shards.indices], len(shards))[tested]
        accuracy = hits / shards.sizes[tested]
        found = {
            ("clients", -1, "accuracy_mean"): float(accuracy.mean()),
            ("clients", -1, "accuracy_min"): float(accuracy.min()),
        }
        for quantile in (10, 25, 50, 75, 90):
            found["clients", -1, f"accuracy_q{quantile}"] = float(
                np.quantile(accuracy, quantile / 100)
            )
        if last:
            found |= {
                ("client", int(client), "accuracy"): float(value)
                for client, value in zip(tested, accuracy, strict=True)
            }
        return found


def _spread(scope: str, name: str, values: np.ndarray) -> Values:
    statistics = {
        "mean": values.mean(),
        "std": values.std(),
        "min": values.min(),
        "max": values.max(),
    }
    return {
        (scope, -1, f"{name}_{statistic}"): float(value) for statistic, value in statistics.items()
    }
