"""An engine for several runs of this process, each in a thread of its own, whose clients are trained in common calls.

Runs go on until each has handed in jobs; the last to do so does the work of all. Everything but training is done run by run with the
same code as in process, and so every run gives what it gives alone, bit for bit where the kernel's rows do not depend on how many are
stacked (dense models; see `fedsim.local.written`).
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Generator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from fedsim.engine.arena import Arena
from fedsim.engine.base import Engine, Session
from fedsim.engine.faults import SMALLER, memory_advice
from fedsim.engine.task import Job, Task, TrainJob
from fedsim.engine.worker import Worker
from fedsim.local.examples import Examples, joined
from fedsim.local.together import moved, train_together
from fedsim.local.training import Chunk, Kernel, Trained, train


@dataclass(frozen=True)
class Together(Engine):
    """The engine of one of several runs. meeting: where they meet."""

    meeting: Meeting
    device: str = "cpu"

    def open(self, task: Task) -> Session:
        return TogetherSession(task, self.meeting)


class TogetherSession(Session):
    def __init__(self, task: Task, meeting: Meeting) -> None:
        super().__init__()
        self.meeting, self.threads = meeting, torch.get_num_threads()
        self.arena = Arena(task.arrays())
        self.worker = Worker(task, self.arena)

    def run(self, jobs: Sequence[Job]) -> list:
        with memory_advice(SMALLER):
            return self.meeting.run(self.worker, jobs)

    def close(self) -> None:
        self.arena.close()
        torch.set_num_threads(self.threads)


@dataclass(frozen=True)
class Table:
    """Examples of several runs, and where those of one begin."""

    number: int
    examples: Examples
    begin: int


class _Turn:
    """What a run has handed in, and what comes of it."""

    def __init__(self, meeting: Meeting, worker: Worker, jobs: Sequence[Job]) -> None:
        self.meeting, self.worker, self.jobs, self.results = meeting, worker, jobs, []
        self.error: BaseException | None = None
        self.over = threading.Event()
        self.training: Generator[Chunk, Trained, np.ndarray] | None = None
        self.chunk: Chunk | None = None  # waits to be trained

    def beside(self, other: _Turn) -> bool:
        """Whether the chunks of both can be trained in one call, and give what they give alone: with the same rule at the same rate, in
        batches of the same width, and without draws in the middle of training, which are keyed by one seed."""
        kinds = []
        for turn in (self, other):
            task, job = turn.worker.task, turn.jobs[len(turn.results)]
            parts = task.rule, task.local, task.layout, task.classification, job.rate
            kinds.append((*parts, turn.chunk.batches.index.shape[2], turn.meeting.tables[turn.worker].number))
        return kinds[0] == kinds[1] and not self.worker.task.local.make_optimizer().curvature

    def go_on(self, trained: Trained | None = None) -> None:
        """Up to the next chunk, or the end."""
        try:
            self.chunk = None
            while self.chunk is None and len(self.results) < len(self.jobs):
                job = self.jobs[len(self.results)]
                if not isinstance(job, TrainJob):
                    self.results.append(self.worker.run(job))
                    continue
                try:
                    if self.training is None:
                        self.training = self.worker.training(job)
                        self.chunk = next(self.training)
                    else:
                        self.chunk = self.training.send(trained)
                except StopIteration as end:
                    self.training, trained = None, None
                    self.results.append(end.value)
        except BaseException as error:  # raised in the run's own thread
            self.error = error


class Meeting:
    """Where runs meet. One thread goes on at a time, the others wait for their turn: they would only be in each other's way."""

    def __init__(self, runs: int) -> None:
        self.beginnings = [threading.Event() for _ in range(runs)]
        self.next = deque(self.beginnings)  # threads that may go on
        self.waiting: list[_Turn] = []  # those that have handed in jobs
        self.tables: dict[Worker, Table] = {}

    def begin(self, run: int) -> None:
        """Called in a run's thread before anything else."""
        self.beginnings[run].wait()

    def run(self, worker: Worker, jobs: Sequence[Job]) -> list:
        """The results of a run's jobs, once all runs have handed in theirs. Raises what a job of this run raised."""
        turn = _Turn(self, worker, jobs)
        self.waiting.append(turn)
        self.pass_on()
        turn.over.wait()
        if turn.error is not None:
            raise turn.error
        return turn.results

    def pass_on(self) -> None:
        """Let the next thread go on, after the work of all if all have handed in theirs. Called to begin with, and when a run has ended."""
        if not self.next and self.waiting:
            turns, self.waiting = self.waiting, []
            self.next.extend(turn.over for turn in turns)
            self._seat([turn.worker for turn in turns])
            _work(turns)
        if self.next:
            self.next.popleft().set()

    def _seat(self, workers: Sequence[Worker]) -> None:
        """At first, put together the examples of the runs that have some of a kind."""
        left = [worker for worker in workers if worker not in self.tables]
        while left:
            same = [worker for worker in left if worker.shards.like(left[0].shards)]
            whole, places = joined([worker.shards for worker in same])
            number = len(self.tables)
            self.tables |= {worker: Table(number, whole, place) for worker, place in zip(same, places, strict=True)}
            left = [worker for worker in left if worker not in self.tables]


def _work(turns: Sequence[_Turn]) -> None:
    """Do what all have handed in."""
    with torch.no_grad():
        for turn in turns:
            turn.worker.announce(turn.jobs)
            turn.go_on()
        while going := [turn for turn in turns if turn.chunk is not None and turn.error is None]:
            for call in _calls(going):
                _train(call)


def _calls(turns: Sequence[_Turn]) -> list[list[_Turn]]:
    """Whose chunks are trained in one call: of the same kind, and not more clients than one call takes."""
    calls: list[list[_Turn]] = []
    for turn in turns:
        for call in calls:
            together = sum(len(each.chunk.clients) for each in (*call, turn))
            if together <= turn.worker.chunk and call[0].beside(turn):
                call.append(turn)
                break
        else:
            calls.append([turn])
    return calls


def _train(turns: Sequence[_Turn]) -> None:
    first = turns[0]
    task, rate = first.worker.task, first.jobs[len(first.results)].rate
    try:
        if len(turns) == 1:
            found = [train(first.chunk, task.rule, task.local, first.worker.kernel, rate)]
        else:
            tables = [turn.meeting.tables[turn.worker] for turn in turns]
            chunks = [moved(turn.chunk, table.begin) for turn, table in zip(turns, tables, strict=True)]
            kernel = Kernel(first.worker.kernel.gradient, tables[0].examples.staged, first.worker.kernel.fisher)
            found = train_together(chunks, task.rule, task.local, kernel, [turn.worker.kernel.fisher for turn in turns], rate)
    except Exception as error:
        for turn in turns:
            turn.error = error
        return
    for turn, trained in zip(turns, found, strict=True):
        turn.go_on(trained)
