"""The in-process engine: jobs run one after the other in the driver, with ordinary breakpoints."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import torch

from fedsim.component import component
from fedsim.engine.arena import Arena
from fedsim.engine.base import Engine, Job, MakeWorker, Session, Task
from fedsim.engine.worker_errors import SMALLER, memory_advice

WORTH_A_THREAD = 1 << 24  # products of a job, some 5 ms


@component
class InProcess(Engine):
    """Everything in this process: starts in a second, good for small models, sweeps and debugging.
    One thread, but for the mixing of models over a graph, which is shared by as many as torch has
    (`torch.set_num_threads`, OMP_NUM_THREADS) and does not depend on their number.

    device: "cpu", "cuda" or "cuda:1".
    """

    device: str = "cpu"

    def open(self, task: Task, make_worker: MakeWorker) -> Session:
        return InProcessSession(task, make_worker)


class InProcessSession(Session):
    def __init__(self, task: Task, make_worker: MakeWorker) -> None:
        super().__init__()
        self.threads = torch.get_num_threads()
        self.pool = ThreadPoolExecutor(self.threads)
        self.arena = Arena(task.arrays())
        self.worker = make_worker(task, self.arena)

    def run(self, jobs: Sequence[Job]) -> list:
        with memory_advice(SMALLER):
            self.worker.announce(jobs)
            apart = self.threads > 1 and any(job.products >= WORTH_A_THREAD for job in jobs)
            return list((self.pool.map if apart else map)(self.worker.run, jobs))

    def close(self) -> None:
        self.pool.shutdown(cancel_futures=True)
        self.arena.close()
        torch.set_num_threads(self.threads)
