"""Judging candidates: models that an aggregator may release, measured on the validation split."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from fedsim.engine.base import Session
from fedsim.rounds.jobs import CANDIDATES, EvaluateJob, Task
from fedsim.rounds.receivers import Receivers


class Judge:
    """Called with updates [m, P] of a server's model: mean losses [m] and accuracies [m] of the
    model plus each of them."""

    def __init__(self, task: Task, session: Session, receivers: Receivers) -> None:
        self.task, self.session, self.receivers = task, session, receivers

    def __call__(self, updates: Tensor) -> tuple[np.ndarray, np.ndarray]:
        arena, count = self.session.arena, len(updates)
        arena.reserve([CANDIDATES], np.arange(count))
        arena[CANDIDATES][:count] = arena[self.receivers.models] + updates.numpy()
        whole = slice(0, len(self.task.dataset.validation))
        blocks = np.array_split(np.arange(count), min(self.task.local.groups, count))
        jobs = [EvaluateJob(CANDIDATES, rows, "validation", whole) for rows in blocks]
        parts = self.session.run(jobs)
        losses, hits = (np.concatenate([part[which] for part in parts]) for which in (0, 1))
        return losses / whole.stop, hits / whole.stop
