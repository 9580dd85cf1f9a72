"""Measures beyond loss and accuracy: one class a measure, chosen by `metrics=[...]`."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np

from fedsim.rounds.jobs import Task

ExampleValues = tuple[np.ndarray, np.ndarray]


class Look:
    """What a metric may look at in one evaluation.

    models: the receivers' models, float32 [R, P] (not to be changed), given as a function; task:
    data, shards, model layout and rules.
    """

    def __init__(
        self, task: Task, models: Callable[[], np.ndarray], evaluate: Callable[[str], ExampleValues]
    ) -> None:
        self.task, self._models, self._evaluate = task, models, evaluate
        self._known: dict[str, ExampleValues] = {}

    @functools.cached_property
    def models(self) -> np.ndarray:
        """Copied when they are first asked for, where they are stored in blocks."""
        return self._models()

    def examples(self, split: str = "train") -> ExampleValues:
        """Loss and hit (1 right, 0 wrong) of every example of a split, float64 [n] each, by the
        server's model or the mean model of a graph."""
        if split not in self._known:
            self._known[split] = self._evaluate(split)
        return self._known[split]

    def client_means(self, values: np.ndarray) -> np.ndarray:
        """Mean of values of the training examples [n] over each client's shard: float64 [clients
        with data that do not attack]."""
        shards, held = self.task.shards, self.task.honest
        return (
            np.bincount(shards.owners, values[shards.indices], len(shards))[held]
            / shards.sizes[held]
        )


class Metric:
    """One more thing to measure at every evaluation."""

    def check(self, task: Task) -> None:
        """Raise ConfigError if it cannot be measured in this run; asked before anything starts."""

    def measure(self, look: Look) -> dict[str, float]:
        """Values by metric name; recorded in the scope of the server's model, or of the mean model
        of a graph."""
        raise NotImplementedError("a metric measures")
