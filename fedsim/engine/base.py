"""Where jobs run. An engine opens a session for a task; a session has an arena and runs jobs."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from fedsim.engine.arena import Arena
from fedsim.engine.faults import LostWorker
from fedsim.engine.task import Job, Task
from fedsim.errors import require


class Session:
    """Workers and the arrays they share, for one run.

    A new engine makes an arena of `task.arrays()`, a `fedsim.engine.worker.Worker(task, arena)` wherever jobs shall run, and hands jobs to
    them. A worker that cannot map the driver's arena has one of its own: before a job it is given the rows that `job.reads` names, and
    after it the rows that `job.writes` names are put back. No job reads what it or another one of the same call writes, so a job may be
    run again when its worker was lost.

    events: workers lost so far, in the order in which that was noticed.
    """

    arena: Arena

    def __init__(self) -> None:
        self.events: list[LostWorker] = []

    def run(self, jobs: Sequence[Job]) -> list:
        """Run all jobs, in any order and anywhere; their results, in the order of the jobs. What they write is in the arena afterwards.

        What a job raises is raised here, after which a session can only be closed. Raises MemoryError with advice where it was memory,
        WorkersLost where too many workers were lost.
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
        require(kind in ("cpu", "cuda"), "engine.device", self.device, "accepted are cpu, cuda, cuda:0, cuda:1, ...")
        require(kind == "cpu" or torch.cuda.is_available(), "engine.device", self.device, "no GPU is available here; use engine.device=cpu")
        index = torch.device(self.device).index or 0
        here = torch.cuda.device_count() if kind == "cuda" else 1
        require(index < here, "engine.device", self.device, f"there are {here} GPUs here, numbered from 0")

    def open(self, task: Task) -> Session:
        """Start the workers."""
        raise NotImplementedError("an engine opens sessions")
