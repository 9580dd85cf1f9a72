"""The running totals of a run, and the metric rows made of them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np

from fedsim.recording.recorder import Recorder

if TYPE_CHECKING:
    from fedsim.evaluation.evaluator import Evaluator
    from fedsim.rounds.round import RoundReport


COUNTS = ("round", "participants", "sent", "received", "dropouts", "discarded")


class Book:
    """The running totals of a run, and its metric rows."""

    def __init__(self, recorder: Recorder, rounds: int, clients: int) -> None:
        self.recorder, self.rounds = recorder, rounds
        self.started = time.perf_counter()
        self.evaluating = 0.0
        self.round = self.participants = self.sent = self.received = self.dropouts = (
            self.discarded
        ) = 0
        self.counts = np.zeros(clients, np.int64)
        self.curve: list[tuple[int, float]] = []
        self.latest: dict[str, float] = {}

    @property
    def accuracy(self) -> float | None:
        return self.latest.get("accuracy")

    def count(self, report: RoundReport, rate: float) -> None:
        """Add one round, with the learning rate `rate`; its rows are there for every round,
        evaluated or not."""
        self.round += 1
        self.participants = len(report.cohort)
        np.add.at(self.counts, report.cohort, 1)  # on a walk a client may hold several tokens
        self.sent += report.sent
        self.received += report.received
        self.dropouts += report.dropouts
        self.discarded += report.discarded
        norm = float(report.update_norms.mean()) if len(report.update_norms) else 0.0
        row = {"round": self.round, "clock": time.perf_counter() - self.started, "scope": "run"}
        self.recorder.rows(
            [
                {**row, "metric": name, "value": value}
                for name, value in (("update_norm", norm), ("rate", rate))
            ]
        )

    def evaluate(self, round: int, evaluator: Evaluator, models: str) -> None:
        """Measure the models and record the rows."""
        before = time.perf_counter()
        values = evaluator.measure(models, last=round == self.rounds)
        scope = "server" if evaluator.task.place == "server" else "mean_model"
        values |= {
            (scope, -1, name): value
            for name, value in evaluator.task.aggregator.report(round).items()
        }
        now = time.perf_counter()
        self.evaluating += now - before
        elapsed = now - self.started
        run = {
            "participants": self.participants,
            "participations": int(self.counts.sum()),
            "bytes_up": self.sent,
            "bytes_down": self.received,
            "dropouts": self.dropouts,
            "discarded": self.discarded,
            "seconds": elapsed,
            "seconds_evaluating": self.evaluating,
        }
        values |= {("run", -1, name): float(value) for name, value in run.items()}
        if round == self.rounds:
            values |= {
                ("client", client, "participations"): float(count)
                for client, count in enumerate(self.counts[:10_000].tolist())
            }
        self.recorder.rows(
            [
                {
                    "round": round,
                    "clock": elapsed,
                    "scope": scope,
                    "node": node,
                    "metric": metric,
                    "value": value,
                }
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
        judged = [
            (name, value)
            for (scope, _, name), value in values.items()
            if scope in ("server", "mean_model")
        ]
        self.latest |= {name: value for name, value in judged if name not in ("loss", "accuracy")}
        self.latest |= {
            name: value for (_, _, name), value in values.items() if name == "consensus_distance"
        }
        if "accuracy" in self.latest:
            self.curve.append((round, self.latest["accuracy"]))

    def state(self) -> dict[str, np.ndarray]:
        """What the totals of the next rounds are added to."""
        seconds = np.array([time.perf_counter() - self.started, self.evaluating])
        numbers = {name: np.array(getattr(self, name), np.int64) for name in COUNTS}
        latest = {f"latest/{name}": np.array(value) for name, value in self.latest.items()}
        curve = np.array(self.curve, np.float64).reshape(-1, 2)
        return {**numbers, **latest, "seconds": seconds, "counts": self.counts, "curve": curve}

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Go on from what `state` gave."""
        for name in COUNTS:
            setattr(self, name, int(state[name]))
        elapsed, self.evaluating = state["seconds"].tolist()
        self.started = time.perf_counter() - elapsed
        self.counts[:] = state["counts"]
        self.curve = [(int(round), value) for round, value in state["curve"].tolist()]
        self.latest = {
            name.removeprefix("latest/"): float(value)
            for name, value in state.items()
            if name.startswith("latest/")
        }

    def totals(self) -> dict[str, Any]:
        """For the summary."""
        counts = {
            "participations_min": int(self.counts.min()),
            "participations_max": int(self.counts.max()),
            "participations_mean": float(self.counts.mean()),
        }
        seconds = {
            "seconds": time.perf_counter() - self.started,
            "seconds_evaluating": self.evaluating,
        }
        failed = {"dropouts": self.dropouts, "discarded": self.discarded}
        return {
            **self.latest,
            "bytes_up": self.sent,
            "bytes_down": self.received,
            **failed,
            **counts,
            **seconds,
        }
