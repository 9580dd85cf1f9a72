"""An engine for several runs of this process, each in a thread of its own, whose clients are
trained in common calls.

Runs go on until each has handed in jobs; the last to do so does the work of all. Everything but
training is done run by run with the same code as in process. Clients are trained in one call only
where their gradients are written out (`fedsim.kernels.closed_form`), and in batches with which the
bytes of a client's model do not depend on who is trained beside it. So every run gives what it
gives alone; on a GPU, whose products may depend on how many of them there are, within rounding.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Generator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from fedsim.engine.arena import Arena
from fedsim.engine.base import Engine, MakeWorker, Session
from fedsim.engine.worker_errors import SMALLER, memory_advice
from fedsim.rounds.jobs import Job, Task, TrainJob
from fedsim.simulation.batched_training import moved, train_together
from fedsim.simulation.interruption import Interrupted
from fedsim.training.examples import Examples, joined
from fedsim.training.loop import Chunk, Kernel, Trained, train


@dataclass(frozen=True)
class Together(Engine):
    """The engine of one of several runs. meeting: where they meet; kind: the same number for runs
    with the same model."""

    meeting: Meeting
    kind: int = 0
    device: str = "cpu"

    def open(self, task: Task, make_worker: MakeWorker) -> Session:
        return TogetherSession(task, make_worker, self.meeting, self.kind)


class TogetherSession(Session):
    def __init__(self, task: Task, make_worker: MakeWorker, meeting: Meeting, kind: int) -> None:
        super().__init__()
        self.meeting, self.kind, self.threads = meeting, kind, torch.get_num_threads()
        self.arena = Arena(task.arrays())
        self.worker = make_worker(task, self.arena)

    def like(self, other: TogetherSession) -> bool:
        """Whether both have the same model on the same device, and examples of one kind."""
        mine, theirs = (dict(session.worker.module.named_buffers()) for session in (self, other))
        model = self.kind == other.kind and self.worker.task.layout == other.worker.task.layout
        same = (
            model
            and self.worker.device == other.worker.device
            and str(self.worker.module) == str(other.worker.module)
        )
        buffers = mine.keys() == theirs.keys() and all(
            torch.equal(mine[name], theirs[name]) for name in mine
        )
        return (
            same
            and buffers
            and self.worker.task.classification == other.worker.task.classification
            and self.worker.shards.like(other.worker.shards)
        )

    def run(self, jobs: Sequence[Job]) -> list:
        with memory_advice(SMALLER):
            return self.meeting.run(self, jobs)

    def close(self) -> None:
        self.meeting.tables.pop(self, None)
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

    def __init__(self, session: TogetherSession, jobs: Sequence[Job]) -> None:
        self.session, self.worker, self.jobs, self.results = session, session.worker, jobs, []
        self.error: BaseException | None = None
        self.over = threading.Event()
        self.training: Generator[Chunk, Trained, np.ndarray] | None = None
        self.chunk: Chunk | None = None  # waits to be trained

    @property
    def table(self) -> Table:
        return self.session.meeting.tables[self.session]

    def beside(self, other: _Turn) -> bool:
        """Whether the chunks of both can be trained in one call: with the same model and rule at
        the same rate, in batches of the same width, and without draws in the middle of training,
        which are keyed by one seed."""
        first, second = self.worker.task, other.worker.task
        same = (
            self.table.number == other.table.number
            and self.rate == other.rate
            and first.local == second.local
        )
        widths = {turn.chunk.batches.index.shape[2] for turn in (self, other)}
        alike = (
            same
            and equal(first.rule, second.rule)
            and len(widths) == 1
            and not first.local.make_optimizer().curvature
        )
        return alike and self.worker.kernel.gradient.independent_of_place(widths.pop())

    @property
    def rate(self) -> float:
        return self.jobs[len(self.results)].rate

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
    """Where runs meet. One thread goes on at a time, the others wait for their turn: they would
    only be in each other's way."""

    def __init__(self, runs: int) -> None:
        self.beginnings = [threading.Event() for _ in range(runs)]
        self.next = deque(self.beginnings)  # threads that may go on
        self.waiting: list[_Turn] = []  # those that have handed in jobs
        self.tables: dict[TogetherSession, Table] = {}
        self.seated = 0  # tables so far
        self.began = False  # whether all have been through their preparations
        self.stop: int | None = None  # a signal that ends the runs in the middle of a round

    def begin(self, run: int) -> None:
        """Called in a run's thread before anything else."""
        self.beginnings[run].wait()

    def run(self, session: TogetherSession, jobs: Sequence[Job]) -> list:
        """The results of a run's jobs, once all runs have handed in theirs. Raises what a job of
        this run raised, and Interrupted."""
        turn = _Turn(session, jobs)
        self.waiting.append(turn)
        self.pass_on()
        turn.over.wait()
        if self.stop is not None:
            raise Interrupted(self.stop)
        if turn.error is not None:
            raise turn.error
        return turn.results

    def pass_on(self) -> None:
        """Let the next thread go on, after the work of all if all have handed in theirs. Called to
        begin with, and when a run has ended."""
        if not self.next and self.waiting:
            turns, self.waiting = self.waiting, []
            self.next.extend(turn.over for turn in turns)
            try:
                if self.stop is None:
                    self._seat([turn.session for turn in turns])
                    _work(turns)
            except Exception as error:  # of no run in particular
                for turn in turns:
                    turn.error = turn.error or error
            self.began = True
        if self.next:
            self.next.popleft().set()

    def _seat(self, sessions: Sequence[TogetherSession]) -> None:
        """At first, put together the examples of runs with the same model that have some of a
        kind."""
        left = [session for session in sessions if session not in self.tables]
        while left:
            same = [session for session in left if session.like(left[0])]
            whole, places = joined([session.worker.shards for session in same])
            self.seated += 1
            self.tables |= {
                each: Table(self.seated, whole, place)
                for each, place in zip(same, places, strict=True)
            }
            left = [session for session in left if session not in self.tables]


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
    """Whose chunks are trained in one call: of the same kind, and not more clients than one call
    takes."""
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
    task, rate = first.worker.task, first.rate
    try:
        if len(turns) == 1:
            found = [train(first.chunk, task.rule, task.local, first.worker.kernel, rate)]
        else:
            chunks = [moved(turn.chunk, turn.table.begin) for turn in turns]
            kernel = Kernel(
                first.worker.kernel.gradient,
                first.table.examples.staged,
                first.worker.kernel.fisher,
            )
            found = train_together(
                chunks,
                task.rule,
                task.local,
                kernel,
                [turn.worker.kernel.fisher for turn in turns],
                rate,
            )
    except Exception as error:
        if len(turns) == 1:
            first.error = error
        else:  # whose it is shows when each is trained alone
            for turn in turns:
                _train([turn])
        return
    for turn, trained in zip(turns, found, strict=True):
        turn.go_on(trained)


def equal(one: object, other: object) -> bool:
    """Whether they say that they are equal; objects of a user's own may not know."""
    try:
        return bool(one == other)
    except Exception:
        return False
