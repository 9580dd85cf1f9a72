"""A session on Ray actors: who runs which job, and what happens when a worker is lost.

Jobs never write what they read, and the arena belongs to the driver. So a job whose worker was lost
is simply run again by another one, and the caller of `run` never notices. Ray itself comes from
`fedsim.engine.ray`.
"""

from __future__ import annotations

import contextlib
import math
import pickle
import socket
import sys
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from multiprocessing import connection
from typing import TYPE_CHECKING, Any

import numpy as np

from fedsim.engine.arena import Arena, ArraySpec, SharedArena
from fedsim.engine.base import Job, MakeWorker, Session, Task
from fedsim.engine.connection import LONGEST, dial
from fedsim.engine.processes import Hosted, killed_for_memory
from fedsim.engine.scheduling import at_once, deal
from fedsim.engine.worker_errors import SMALLER, Failure, LostWorker, WorkersLost, memory_advice

if TYPE_CHECKING:
    from fedsim.engine.ray import Ray

START_SECONDS = 120  # until a worker is there
ANSWER_SECONDS = 2  # until a node answers
LOSS_SECONDS = 5  # until Ray has noticed that a worker is gone
LOOK_SECONDS = 0.001  # between looks at lines and at calls, since nothing waits for both,
START_LOOK_SECONDS = 0.02  # or only at workers that start
LINE = "line-{}"  # the socket of a worker, beside what it counts
# An array: what each worker has counted, which tells one that is slow from one that hangs
DONE = "jobs_done"
ADVICE = f"engine.workers, {SMALLER}"


class BrokenLine(Exception):
    """A line whose other end is gone, or stopped in the middle of an answer."""


@dataclass
class Call:
    """Jobs on their way to a worker. deadline: when it is looked at whether it hangs; done: its
    count of jobs at the last look."""

    worker: Hosted
    mine: list[int]
    deadline: float
    done: int


class RaySession(Session):
    """ray: the module; settings: of the engine; share: CPUs and GPUs that a worker reserves; host:
    the class of the actors; make_worker: what a host makes its worker with."""

    def __init__(
        self,
        ray: Any,
        settings: Ray,
        task: Task,
        share: dict[str, float],
        host: type,
        make_worker: MakeWorker,
    ) -> None:
        super().__init__()
        self.ray, self.settings, self.task, self.share, self.make_worker = (
            ray,
            settings,
            task,
            share,
            make_worker,
        )
        errors = ray.exceptions
        self.losses = (
            errors.RayActorError,
            errors.WorkerCrashedError,
            errors.NodeDiedError,
            errors.OutOfMemoryError,
            errors.ObjectLostError,
            BrokenLine,
        )
        self.restarts, self.kernel_kills = 0, killed_for_memory()
        self.round: int | None = None  # the last one that was trained
        self.pace: dict[type, float] = {}  # seconds that the last phase of a kind of jobs took
        self.dead_nodes: set[str] = set()
        self.failed = False
        self.ready: list[Hosted] = []
        self.starting: dict[Any, Hosted] = {}  # by the reference to their greeting
        arena = SharedArena if settings.shared_memory else Arena
        self.arena, self.counts = arena(task.arrays()), None
        try:
            self.counts = arena({DONE: ArraySpec((settings.workers,), "int64")})
            self.folders = tuple(
                getattr(part, "folder", None) for part in (self.arena, self.counts)
            )
            self.actor, self.shared_task = ray.remote(**share)(host), ray.put(task)
            for number in range(settings.workers):
                self._start(number)
            while self.starting:
                self._welcome(self._first([]))
        except BaseException:
            self.close()
            raise

    def run(self, jobs: Sequence[Job]) -> list:
        if not jobs:
            return []
        if self.failed:  # answers may still come that nobody waits for
            raise RuntimeError("a job of this session has failed; it can only be closed")
        self.failed = True  # unless this comes to its end
        results = self._run(jobs)
        self.failed = False
        return results

    def _run(self, jobs: Sequence[Job]) -> list:
        self.round = getattr(jobs[0], "round", self.round)
        while self.starting and (greeting := self._first([], wait=not self.ready)):
            self._welcome(greeting)
        began, kind = time.monotonic(), type(jobs[0])
        phase = Phase(self, jobs)
        phase.deal(at_once(self.pace.get(kind)))
        while phase.pending or phase.rest:
            first = self._first(phase.pending, phase.patience())
            if first is None:
                phase.look()
            elif first in self.starting:
                self._welcome(first)
            else:
                phase.receive(first)
            phase.feed()
        self.pace[kind] = time.monotonic() - began
        return phase.results

    def _first(self, pending: Collection, timeout: float | None = None, wait: bool = True):
        """The first that is ready, of lines and references pending and of workers that start; None
        after `timeout` seconds."""
        if not pending:
            timeout = START_SECONDS if wait else 0
        timeout = None if timeout is None else min(timeout, LONGEST)
        lines = [key for key in pending if isinstance(key, connection.Connection)]
        calls = [key for key in pending if not isinstance(key, connection.Connection)]
        references = [*calls, *self.starting]
        if lines and references:  # nothing waits for both
            end, look = (
                math.inf if timeout is None else time.monotonic() + timeout,
                LOOK_SECONDS if calls else START_LOOK_SECONDS,
            )
            while True:
                done = self.ray.wait(references, timeout=0)[0] or connection.wait(lines, look)
                if done or time.monotonic() >= end:
                    break
        else:
            done = (
                connection.wait(lines, timeout)
                if lines
                else self.ray.wait(references, timeout=timeout)[0]
            )
        if not done and not pending and wait:
            missing = f"no {len(self.starting)} workers within {START_SECONDS} s"
            raise TimeoutError(
                f"{missing}: the Ray session has no free CPUs or GPUs, or the machine is busy with"
                " other work"
            )
        return done[0] if done else None

    def _start(self, number: int) -> None:
        actor = self.actor.remote(number, *self.folders, sys.path)
        self.starting[actor.start.remote(self.shared_task, self.make_worker)] = Hosted(
            number, actor
        )

    def _welcome(self, reference) -> None:
        worker = self.starting.pop(reference)
        try:
            greeting = self.ray.get(reference)
        except self.losses as error:
            self.lose(worker, "at its start", self.reason(worker, error))
            return
        self.raise_failure(greeting)
        worker.greet(greeting)
        if worker.shares_memory:
            # It has none, or it ended since, as its first call will tell
            with contextlib.suppress(OSError):
                worker.line = dial(
                    self.folders[1] / LINE.format(worker.number), self.settings.hang_seconds
                )
            worker.serving = worker.actor.serve.remote() if worker.line is not None else None
        self.ready = sorted([*self.ready, worker], key=lambda worker: worker.number)

    def answer(self, key) -> Any:
        """What came on a line, or under a reference. Raises an error of `losses` if the worker is
        gone."""
        if not isinstance(key, connection.Connection):
            return self.ray.get(key)
        try:
            answer = key.recv_bytes()
        except (EOFError, OSError) as error:
            raise BrokenLine from error
        return pickle.loads(answer)

    def raise_failure(self, answer) -> None:
        if isinstance(answer, Failure):
            with memory_advice(ADVICE):
                answer.throw()

    def lose(self, worker: Hosted, where: str, reason: str) -> None:
        """Replace a worker, or go on without it where no CPU is left. Raises WorkersLost after
        `restarts` replacements, or without any worker left."""
        self._kill(worker)
        self.ready = [other for other in self.ready if other is not worker]
        others, limit = len(self.ready) + len(self.starting), self.settings.restarts
        fits = self._room(others + 1)
        if self.restarts < limit and fits:
            self.restarts += 1
            self._start(worker.number)
            outcome = f"replaced, {limit - self.restarts} of {limit} restarts left"
        elif self.restarts < limit and others:
            outcome = (
                f"no CPU or GPU is left for another, {others} of {self.settings.workers} workers"
                " go on"
            )
        else:
            outcome = "the run stops"
        self.events.append(LostWorker(worker.number, where, reason, outcome))
        if outcome == "the run stops":
            why = (
                f"engine.restarts={limit} is used up"
                if fits
                else "no CPU or GPU is left for another"
            )
            raise WorkersLost(
                f"{len(self.events)} workers died, and {why}; the last: worker {worker.number}"
                f" {where} ({reason})"
            )
        print(f"fedsim: {self.events[-1]}", file=sys.stderr, flush=True)

    def reason(self, worker: Hosted, error: Exception) -> str:
        """Why a worker was lost, as far as can be known."""
        if isinstance(error.__cause__, BlockingIOError):
            return f"it hung in the middle of an answer for {self.settings.hang_seconds:g} s"
        if isinstance(error, BrokenLine):
            try:
                self.ray.get(worker.serving, timeout=LOSS_SECONDS)
            except Exception as known:  # what Ray has found out
                error = known
        if isinstance(error, self.ray.exceptions.OutOfMemoryError) or "low on memory" in str(error):
            return f"out of memory; lower {ADVICE}"
        if worker.node and not any(
            node["NodeID"] == worker.node and self._lives(node) for node in self.ray.nodes()
        ):
            self.dead_nodes.add(worker.node)
            return "its node died"
        before, self.kernel_kills = self.kernel_kills, killed_for_memory()
        if self.kernel_kills > before and worker.shares_memory:
            return f"killed by the kernel for want of memory; lower {ADVICE}"
        return "its process was killed or crashed"

    def where(self, job: Job) -> str:
        return job.where.format(self.round) if self.round is not None else "before the first round"

    def _lives(self, node: dict) -> bool:
        """Whether a node of the cluster answers; Ray itself needs some seconds to notice that one
        is dead."""
        if not node["Alive"] or node["NodeID"] in self.dead_nodes:
            return False
        try:
            socket.create_connection(
                (node["NodeManagerAddress"], node["NodeManagerPort"]), timeout=ANSWER_SECONDS
            ).close()
        except OSError:
            return False
        return True

    def _room(self, workers: int) -> bool:
        """Whether the nodes that are left can hold that many workers."""
        left = [node["Resources"] for node in self.ray.nodes() if self._lives(node)]
        needs = {"CPU": self.share.get("num_cpus", 0), "GPU": self.share.get("num_gpus", 0)}
        return all(
            sum(node.get(kind, 0) for node in left) >= workers * need - 1e-6
            for kind, need in needs.items()
        )

    def _kill(self, worker: Hosted) -> None:
        with contextlib.suppress(Exception):
            self.ray.kill(worker.actor)
        worker.end()

    def close(self) -> None:
        for worker in [*self.ready, *self.starting.values()]:
            with contextlib.suppress(Exception):
                self.ray.kill(worker.actor)
            worker.release()
        self.ready, self.starting = [], {}
        self.arena.close()
        if self.counts is not None:
            self.counts.close()


class Phase:
    """One call of `run`. results: in the order of the jobs; pending: calls by the line on which, or
    the reference under which, their answers come; rest: jobs not given yet."""

    def __init__(self, session: RaySession, jobs: Sequence[Job]) -> None:
        self.session, self.jobs = session, jobs
        self.results: list = [None] * len(jobs)
        self.pending: dict[Any, Call] = {}
        self.rest: list[int] = []
        self.sent: dict[tuple, Any] = {}  # what was put in the object store, by array and rows

    def deal(self, share: float) -> None:
        dealt, self.rest = deal([job.cost for job in self.jobs], len(self.session.ready), share)
        for worker, mine in zip(self.session.ready, dealt, strict=True):
            if mine:
                self._send(worker, mine)

    def feed(self) -> None:
        """Give one job of the rest to each worker that has none."""
        if self.rest:
            busy = {call.worker.number for call in self.pending.values()}
            for worker in self.session.ready:
                if self.rest and worker.number not in busy:
                    self._send(worker, [self.rest.pop(0)])

    def patience(self) -> float | None:
        """Seconds until a worker is looked at."""
        if self.session.settings.hang_seconds is None or not self.pending:
            return None
        return max(0.0, min(call.deadline for call in self.pending.values()) - time.monotonic())

    def receive(self, key) -> None:
        call = self.pending.pop(key)
        try:
            answer = self.session.answer(key)
        except self.session.losses as error:
            self._lose(call, self.session.reason(call.worker, error))
            return
        self.session.raise_failure(answer)
        for j, result, written in zip(call.mine, *answer, strict=True):
            self.results[j] = result
            if written:
                self.session.arena.put(
                    self.jobs[j].writes(self.session.task, self.session.arena), written
                )

    def look(self) -> None:
        """Replace workers of whose jobs none came back in time. One that counts on is slow, and has
        time again."""
        limit, now = self.session.settings.hang_seconds, time.monotonic()
        for key, call in list(self.pending.items()):
            if call.deadline > now:
                continue
            done = self._done(call.worker)
            if done == call.done:
                del self.pending[key]
                self._lose(call, f"it hung: no job came back for {limit:g} s")
            else:
                call.done, call.deadline = done, now + limit

    def _done(self, worker: Hosted) -> int:
        return int(self.session.counts[DONE][worker.number])

    def _lose(self, call: Call, reason: str) -> None:
        self.rest[:0] = call.mine
        self.session.lose(call.worker, self.session.where(self.jobs[call.mine[0]]), reason)

    def _send(self, worker: Hosted, mine: list[int]) -> None:
        session, names, values = self.session, [], []
        for j in mine if not worker.shares_memory else ():
            references = self._references(self.jobs[j])
            names.append(list(references))
            values += references.values()
        # One that shares no memory does not count: all its jobs together have that time each
        patience = (session.settings.hang_seconds or 0) * (1 if worker.shares_memory else len(mine))
        work = pickle.dumps(([self.jobs[j] for j in mine], names), pickle.HIGHEST_PROTOCOL)
        deadline = time.monotonic() + patience
        if worker.line is None:
            key = worker.actor.run.remote(work, *values)
        else:
            key = worker.line
            # A broken line is told from one that is silent when its answer is waited for
            with contextlib.suppress(OSError):
                key.send_bytes(work)
        self.pending[key] = Call(worker, mine, deadline, self._done(worker))

    def _references(self, job: Job) -> dict[str, Any]:
        session, references = self.session, {}
        for name, rows in job.reads(session.task, session.arena).items():
            key = (name, rows.tobytes() if isinstance(rows, np.ndarray) else str(rows))
            if key not in self.sent:
                self.sent[key] = session.ray.put(session.arena.take({name: rows})[name])
            references[name] = self.sent[key]
        return references
