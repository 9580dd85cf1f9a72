"""Training a cohort: cut into groups, one job each, on whatever workers there are."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from fedsim.engine.base import Session
from fedsim.protocols.base import Tick
from fedsim.rounds.client_state import ClientState
from fedsim.rounds.grouping import Grouping
from fedsim.rounds.jobs import Task, TrainJob
from fedsim.rounds.receivers import Receivers
from fedsim.rounds.weighing import Weighed


@dataclass(frozen=True)
class Trained:
    """What training left. groups: how many sums were formed, if any; norms: Euclidean norms of the
    updates, float32 [S]; state_rows: where the clients' next state lies, int64 [S]."""

    groups: int
    norms: np.ndarray
    state_rows: np.ndarray

    def only(self, usable: np.ndarray) -> Trained:
        """Of those clients alone, bool [S]."""
        return replace(self, norms=self.norms[usable], state_rows=self.state_rows[usable])


class CohortTraining:
    """Makes the jobs and runs them."""

    def __init__(
        self,
        task: Task,
        session: Session,
        receivers: Receivers,
        clients: ClientState,
        grouping: Grouping,
    ) -> None:
        self.task, self.session, self.receivers = task, session, receivers
        self.clients, self.grouping = clients, grouping
        self.reserved = 0  # rows for messages

    def train(self, tick: Tick, rate: float, weighed: Weighed | None) -> Trained:
        """Train all clients of a tick. weighed: workers sum the messages up, with these weights;
        None: messages are kept as rows."""
        size = len(tick.cohort)
        kept, keep = self.clients.rows.row[tick.keepers], self.clients.claim(size)
        norms = np.zeros(size, np.float32)
        if not size:
            return Trained(0, norms, keep)
        if self.task.rows:
            self._reserve(size)
        weights = None if weighed is None else weighed.at_server()
        work, jobs = self.grouping.examples(tick.cohort), []
        for group, columns in enumerate(self.grouping.groups(tick.cohort)):
            part = weights and {channel: values[columns] for channel, values in weights.items()}
            clients, anchors = tick.cohort[columns], tick.anchors[columns]
            rows, cost = (kept[columns], keep[columns]), float(work[columns].sum())
            given = self.receivers.side, clients, anchors, columns, *rows, part, group, cost
            jobs.append(TrainJob(tick.round, rate, *given))
        for job, found in zip(jobs, self.session.run(jobs), strict=True):
            norms[job.columns] = found
        return Trained(len(jobs), norms, keep)

    def _reserve(self, size: int) -> None:
        """Make room for the messages of so many clients."""
        arena = self.session.arena
        if size > self.reserved:
            names = [name for name in arena.specs if name.startswith("message/")]
            arena.reserve(names, np.arange(self.reserved, size))
            self.reserved = size
