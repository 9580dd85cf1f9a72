"""Where jobs run. An engine opens a session for a task; a session has an arena and runs jobs."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from fedsim.engine.arena import Arena
from fedsim.engine.task import Job, Task
from fedsim.errors import require


class Session:
    """Workers and the arrays they share, for one run."""

    arena: Arena

    def run(self, jobs: Sequence[Job]) -> list:
        """Run all jobs, in any order and anywhere; their results, in the order of the jobs. What they write is in the arena afterwards."""
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

    def open(self, task: Task) -> Session:
        """Start the workers."""
        raise NotImplementedError("an engine opens sessions")
