"""Which examples a worker's jobs use: drawn for many small jobs together, which takes no longer
than for one of them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile

import numpy as np

from fedsim.rounds.jobs import Job, Task, TrainJob
from fedsim.training.batches import Batches, draw_batches, local_steps

TOGETHER = 1 << 16  # examples


class Drawing:
    """Draws are keyed by client and round, so nothing depends on what is drawn together."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.coming: list[TrainJob] = []
        self.drawn: dict[int, Batches] = {}  # by group

    def announce(self, jobs: Sequence[Job]) -> None:
        """These jobs will be run next, in this order."""
        self.coming, self.drawn = [job for job in jobs if isinstance(job, TrainJob)], {}

    def of(self, job: TrainJob, part: slice) -> Batches:
        """The batches of some of a job's clients."""
        if job.group not in self.drawn:
            self._draw_from(job)
        drawn = self.drawn.get(job.group)
        return (
            drawn.of(part) if drawn is not None else self._draw(job.round, *self._keyed(job, part))
        )

    def _draw_from(self, job: TrainJob) -> None:
        """Draw for this job and for those that come next."""
        place = next(
            (place for place, each in enumerate(self.coming) if each is job), len(self.coming)
        )
        jobs = self.coming[place:] or [job]
        totals = np.cumsum([self._examples(each) for each in jobs])
        together = [
            each
            for each, _ in takewhile(
                lambda pair: pair[1] <= TOGETHER, zip(jobs, totals.tolist(), strict=True)
            )
        ]
        self.drawn = {}
        if not together:
            return
        keyed = [self._keyed(each, slice(None)) for each in together]
        batches = self._draw(
            job.round, *(np.concatenate(part) for part in zip(*keyed, strict=True))
        )
        start = 0
        for each in together:
            self.drawn[each.group] = batches.of(slice(start, start := start + len(each.clients)))

    def _examples(self, job: TrainJob) -> int:
        sizes = self.task.shards.offsets[job.clients + 1] - self.task.shards.offsets[job.clients]
        return int(
            (
                local_steps(sizes, self.task.local) * np.minimum(sizes, self.task.local.batch_size)
            ).sum()
        )

    def _keyed(self, job: TrainJob, part: slice) -> tuple[np.ndarray, np.ndarray]:
        """Clients, and what their draws are keyed by: tokens that meet at a client draw batches of
        their own."""
        return job.clients[part], (job.anchors if self.task.place == "walk" else job.clients)[part]

    def _draw(self, round: int, clients: np.ndarray, keys: np.ndarray) -> Batches:
        return draw_batches(self.task.shards, clients, self.task.local, self.task.seed, round, keys)
