"""Where jobs run. An engine opens a session for a task; a session has an arena and runs jobs.

Neither knows what a job computes: tasks, jobs and workers are what the protocols below say of them,
and `fedsim.rounds` has those of a simulation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Protocol

import torch

from fedsim.engine.arena import Arena, ArraySpec, Rows
from fedsim.engine.worker_errors import LostWorker
from fedsim.errors import require


class Job(Protocol):
    """A unit of work. cost: in units in which jobs of one call are compared; products:
    multiplications, where several threads may share the jobs of a call, else 0; where: what a job
    does, for messages, with {} for the round."""

    cost: float
    products: int
    where: ClassVar[str]

    def reads(self, task: Any, arena: Arena) -> dict[str, Rows]:
        """The rows of arrays that it reads."""

    def writes(self, task: Any, arena: Arena) -> dict[str, Rows]:
        """The rows of arrays that it writes; none of them is read by a job of the same call."""


class Task(Protocol):
    """What stays the same for a whole run, and is sent to every worker once."""

    @property
    def device(self) -> str:
        """ "cpu", "cuda", "cuda:1"."""

    def arrays(self) -> dict[str, ArraySpec]:
        """The arrays of the run, by name."""


class Worker(Protocol):
    """Runs jobs on the arrays of an arena."""

    arena: Arena

    def run(self, job: Any) -> Any:
        """The result of a job; what it writes is in the arena afterwards."""

    def announce(self, jobs: Sequence[Any]) -> None:
        """These jobs will be run next: saves time, and changes nothing else."""


MakeWorker = Callable[[Any, Arena], Worker]  # a class that can be imported in other processes


class Session:
    """Workers and the arrays they share, for one run.

    A new engine makes an arena of `task.arrays()`, a worker wherever jobs shall run, and hands jobs
    to them. A worker that cannot map the driver's arena has one of its own: before a job it is
    given the rows that `job.reads` names, and after it the rows that `job.writes` names are put
    back. No job reads what it or another one of the same call writes, so a job may be run again
    when its worker was lost.

    events: workers lost so far, in the order in which that was noticed.
    """

    arena: Arena

    def __init__(self) -> None:
        self.events: list[LostWorker] = []

    def run(self, jobs: Sequence[Any]) -> list:
        """Run all jobs, in any order and anywhere; their results, in the order of the jobs. What
        they write is in the arena afterwards.

        What a job raises is raised here, after which a session can only be closed. Raises
        MemoryError with advice where it was memory, WorkersLost where too many workers were lost.
        """
        raise NotImplementedError("a session runs jobs")

    def close(self) -> None:
        """End the workers and free the arrays."""

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *exception) -> None:
        self.close()


class Engine:
    """Settings of an engine."""

    device: str

    def check(self) -> None:
        """Raise ConfigError if the device is not there; called before anything starts."""
        try:
            kind = torch.device(self.device).type
        except RuntimeError:
            kind = ""
        key, accepted = "engine.device", "accepted are cpu, cuda, cuda:0, cuda:1, ..."
        require(kind in ("cpu", "cuda"), key, self.device, accepted)
        there = kind == "cpu" or torch.cuda.is_available()
        require(there, key, self.device, "no GPU is available here; use engine.device=cpu")
        index = torch.device(self.device).index or 0
        here = torch.cuda.device_count() if kind == "cuda" else 1
        require(index < here, key, self.device, f"there are {here} GPUs here, numbered from 0")

    def open(self, task: Task, make_worker: MakeWorker) -> Session:
        """Start the workers, each `make_worker(task, arena)`."""
        raise NotImplementedError("an engine opens sessions")
