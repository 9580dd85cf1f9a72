"""The in-process engine: jobs run one after the other in the driver, with ordinary breakpoints."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from fedsim.component import component
from fedsim.engine.arena import Arena
from fedsim.engine.base import Engine, Session
from fedsim.engine.faults import SMALLER, memory_advice
from fedsim.engine.task import Job, Task
from fedsim.engine.worker import Worker


@component
class InProcess(Engine):
    """Everything in this process: starts in a second, good for small models, sweeps and debugging.

    device: "cpu", "cuda" or "cuda:1".
    """

    device: str = "cpu"

    def open(self, task: Task) -> Session:
        return InProcessSession(task)


class InProcessSession(Session):
    def __init__(self, task: Task) -> None:
        super().__init__()
        self.threads = torch.get_num_threads()
        self.arena = Arena(task.arrays())
        self.worker = Worker(task, self.arena)

    def run(self, jobs: Sequence[Job]) -> list:
        with memory_advice(SMALLER):
            self.worker.announce(jobs)
            return [self.worker.run(job) for job in jobs]

    def close(self) -> None:
        self.arena.close()
        torch.set_num_threads(self.threads)
