"""What could be gained at most by doing things beside training that fedsim does apart from it. A
part of variants.py.

Neither is a way to run fedsim: evaluations that run beside training give their figures to nobody
here, and rounds that are planned before the first one cost nothing while the others are timed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from unittest.mock import patch

import numpy as np

from fedsim.engine.ray_session import RaySession
from fedsim.recording.loggers import Logger
from fedsim.rounds.jobs import EvaluateJob, TrainJob
from fedsim.simulation.simulation import Simulation

FIRST = 5  # rounds that are not counted


class Stamps(Logger):
    """When the rows of each round came, those of its evaluation aside."""

    def __init__(self) -> None:
        self.at: dict[int, float] = {}

    def rows(self, rows) -> None:
        self.at.setdefault(rows[0]["round"], time.perf_counter())

    def mean(self, every: int) -> float:
        """Seconds of a round, over as many as hold whole periods of so many rounds, evaluations
        included."""
        last = FIRST + (max(self.at) - FIRST) // every * every
        return (self.at[last] - self.at[FIRST]) / (last - FIRST)


@contextmanager
def evaluating_beside_training() -> Iterator[None]:
    """Evaluations wait for the next round's training and are dealt out with it, to whoever is free
    first."""
    run, waiting = RaySession.run, []

    def beside(self, jobs):
        if jobs and isinstance(jobs[0], EvaluateJob):
            waiting.extend(jobs)
            return [(np.zeros(len(job.rows)), np.zeros(len(job.rows))) for job in jobs]
        if jobs and isinstance(jobs[0], TrainJob):
            found = run(self, [*jobs, *waiting])[: len(jobs)]
            waiting.clear()
            return found
        return run(self, jobs)

    with patch.object(RaySession, "run", beside):
        yield


@contextmanager
def planned_before() -> Iterator[None]:
    """All cohorts are drawn and all rounds planned before the first one, as if planning took no
    time."""
    prepare = Simulation.prepare

    def prepared(self):
        found = prepare(self)
        cohorts = [found.pattern.cohort(round) for round in range(self.rounds)]
        ticks = [found.plan.tick(round, cohort) for round, cohort in enumerate(cohorts)]
        found.pattern.cohort, found.plan.tick = (
            cohorts.__getitem__,
            lambda round, cohort: ticks[round],
        )
        return found

    with patch.object(Simulation, "prepare", prepared):
        yield


OVERLAPS: dict[str, tuple[tuple[str, ...], Callable[[], AbstractContextManager]]] = {
    "evaluating beside the next round's training": (("W3", "W2"), evaluating_beside_training),
    "planning that takes no time": (("W2lr", "W2"), planned_before),
}
