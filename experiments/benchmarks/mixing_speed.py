"""What mixing costs on a large graph, beside copying as many bytes as it must read and write at
least."""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable

import torch

from fedsim import Simulation
from fedsim.data import Synthetic
from fedsim.data.partition import Iid
from fedsim.engine.base import Engine
from fedsim.engine.inprocess import InProcess
from fedsim.engine.ray import Ray
from fedsim.evaluation.evaluator import Evaluation
from fedsim.models import MLP
from fedsim.network.mixing import Uniform
from fedsim.network.topology import RandomRegular
from fedsim.protocols import Gossip
from fedsim.rounds.jobs import AverageJob
from fedsim.training import LocalTraining

PARAMETERS = 50_890
COPIED = 1 << 30  # bytes of each array that is copied


class Enough(Exception):
    """All mixings that were asked for have been timed."""


class TimedMixing(Engine):
    """An engine whose sessions take the time of mixing, and after each that of a copy, so that both
    meet the machine as fast as it is then. The first is not kept: it touches memory for the first
    time."""

    def __init__(self, engine: Engine, mixings: int, copy: Callable[[], float]) -> None:
        self.engine, self.device, self.left, self.copy = engine, engine.device, mixings + 1, copy
        self.seconds: list[float] = []
        self.copies: list[float] = []

    def check(self) -> None:
        self.engine.check()

    def open(self, task, make_worker):
        session = self.engine.open(task, make_worker)
        run = session.run

        def timed(jobs):
            started = time.perf_counter()
            results = run(jobs)
            if len(jobs) and isinstance(jobs[0], AverageJob):
                self.seconds.append(time.perf_counter() - started)
                self.copies.append(self.copy())
                self.left -= 1
                if not self.left:
                    raise Enough
            return results

        session.run = timed
        return session


def copying(moved: int, threads: int) -> Callable[[], float]:
    """A function that gives the median seconds of reading and writing `moved` bytes together, by so
    many threads; measured on 1 GiB."""
    size = min(COPIED, moved // 2)
    source, target = torch.ones(size // 4), torch.zeros(size // 4)

    def copy() -> float:
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        times = []
        for _ in range(3):
            started = time.perf_counter()
            target.copy_(source)
            times.append(time.perf_counter() - started)
        torch.set_num_threads(before)
        return statistics.median(times) * moved / (2 * size)

    return copy


def measure_mixing(
    nodes: int, degree: int, mixings: int, workers: int = 0, threads: int = 1
) -> dict:
    """times: by name the seconds of each mixing, on so many Ray workers or in this process by so
    many threads, and of moving 2 x nodes x parameters x 4 bytes by as many threads."""
    moved = 2 * nodes * PARAMETERS * 4
    torch.set_num_threads(threads)
    engine = TimedMixing(
        Ray(workers=workers) if workers else InProcess(),
        mixings,
        copying(moved, workers or threads),
    )
    gossip = Simulation(
        data=Synthetic(samples=nodes, shape=[784], validation=0.0, test=100),
        partition=Iid(clients=nodes),
        model=functools.partial(MLP, hidden=[64]),
        protocol=Gossip(),
        topology=RandomRegular(degree=degree),
        mixing=Uniform(),
        local=LocalTraining(steps=1, batch_size=1, rate=0.01),
        evaluation=Evaluation(every=1000, nodes=2),
        engine=engine,
        rounds=1000,
        progress=False,
    )
    try:
        gossip.run()
    except Enough:
        pass
    finally:
        torch.set_num_threads(1)
    return {"times": {"mixing": engine.seconds[1:], "copy": engine.copies[1:]}, "bytes": moved}
