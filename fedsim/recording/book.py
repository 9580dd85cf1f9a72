"""The running totals of a run, and the metric rows made of them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np

from fedsim.recording.recorder import Recorder

if TYPE_CHECKING:
    from fedsim.evaluation import Evaluator
    from fedsim.rounds import RoundReport


class Book:
    """The running totals of a run, and its metric rows."""

    def __init__(self, recorder: Recorder, rounds: int, clients: int) -> None:
        self.recorder, self.rounds = recorder, rounds
        self.started = time.perf_counter()
        self.evaluating = 0.0
        self.round = self.participants = self.sent = self.received = 0
        self.update_norm = 0.0
        self.counts = np.zeros(clients, np.int64)
        self.curve: list[tuple[int, float]] = []
        self.latest: dict[str, float] = {}

    @property
    def accuracy(self) -> float | None:
        return self.latest.get("accuracy")

    def count(self, report: RoundReport) -> None:
        """Add one round."""
        self.round += 1
        self.participants = len(report.cohort)
        self.counts[report.cohort] += 1
        self.sent += report.sent
        self.received += report.received
        self.update_norm = float(report.update_norms.mean()) if len(report.update_norms) else 0.0

    def evaluate(self, round: int, evaluator: Evaluator, models: str) -> None:
        """Measure the models and record the rows."""
        before = time.perf_counter()
        values = evaluator.measure(models, last=round == self.rounds)
        now = time.perf_counter()
        self.evaluating += now - before
        elapsed = now - self.started
        run = {
            "participants": self.participants,
            "participations": int(self.counts.sum()),
            "update_norm": self.update_norm,
            "bytes_up": self.sent,
            "bytes_down": self.received,
            "seconds": elapsed,
            "seconds_evaluating": self.evaluating,
        }
        values |= {("run", -1, name): float(value) for name, value in run.items()}
        if round == self.rounds:
            values |= {("client", client, "participations"): float(count) for client, count in enumerate(self.counts[:10_000].tolist())}
        self.recorder.rows(
            [
                {"round": round, "clock": elapsed, "scope": scope, "node": node, "metric": metric, "value": value}
                for (scope, node, metric), value in values.items()
            ]
        )
        mains = {"server": "", "nodes": "_mean"}
        self.latest = {
            name: values[scope, -1, name + end]
            for scope, end in mains.items()
            for name in ("loss", "accuracy")
            if (scope, -1, name + end) in values
        }
        judged = [(name, value) for (scope, _, name), value in values.items() if scope in ("server", "mean_model")]
        self.latest |= {name: value for name, value in judged if name not in ("loss", "accuracy")}
        self.latest |= {name: value for (_, _, name), value in values.items() if name == "consensus_distance"}
        if "accuracy" in self.latest:
            self.curve.append((round, self.latest["accuracy"]))

    def totals(self) -> dict[str, Any]:
        """For the summary."""
        counts = {
            "participations_min": int(self.counts.min()),
            "participations_max": int(self.counts.max()),
            "participations_mean": float(self.counts.mean()),
        }
        seconds = {"seconds": time.perf_counter() - self.started, "seconds_evaluating": self.evaluating}
        return {**self.latest, "bytes_up": self.sent, "bytes_down": self.received, **counts, **seconds}
