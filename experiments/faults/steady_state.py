"""Does a long run grow? And what does a round cost when a million clients are registered?

    python experiments/faults/steady_state.py
        both parts, in process and on 2 Ray workers (some minutes)
    python experiments/faults/steady_state.py --rounds 600 --clients 20000 --engines inprocess
        a short one

Part 1: many small rounds of FedSpeed (state at every client) with metrics, recording and
checkpoints on. Resident memory of the driver and of each worker, shared memory, open files and
threads are read at every evaluation; after a warm-up of a third of the rounds a line is fitted.
Part 2: the seconds per round and the greatest memory of all processes with 10,000 registered
clients and with many, cohort 100. Exit code 1 if memory grows by more than 2 MB in 1,000 rounds,
files or threads at all, or the many take more than 4 GB.
"""

from __future__ import annotations

import argparse
import functools
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import psutil

from fedsim.algorithms import FedAvg, FedSpeed
from fedsim.data import Digits, Synthetic
from fedsim.data.partition import Dirichlet, Iid
from fedsim.engine.base import Engine
from fedsim.engine.inprocess import InProcess
from fedsim.engine.ray import Ray
from fedsim.evaluation.evaluator import Evaluation
from fedsim.models import MLP, LogisticRegression
from fedsim.participation import Bernoulli, Uniform
from fedsim.recording.checkpoints import Checkpoint
from fedsim.recording.loggers import Logger
from fedsim.simulation.simulation import Simulation

GROWTH = 2.0  # MB in 1,000 rounds
LIMIT = 4096.0  # MB of all processes with many clients
ENGINES = {"inprocess": InProcess, "ray": functools.partial(Ray, workers=2)}


def workers() -> list[psutil.Process]:
    """This process's Ray workers that host clients: they map an arena. (Ray does not always put a
    worker's class into its title.)"""
    return [
        child
        for child in psutil.Process().children(recursive=True)
        if "/dev/shm/fedsim-" in maps(child)
    ]


def maps(process: psutil.Process) -> str:
    try:
        return Path(f"/proc/{process.pid}/maps").read_text()
    except OSError:
        return ""


def shared_megabytes() -> float:
    """Shared memory in use: arenas and Ray's object store."""
    return psutil.disk_usage("/dev/shm").used / 1e6 if Path("/dev/shm").is_dir() else 0.0


class Watch(Logger):
    """Reads memory, files and threads at every evaluation."""

    def __init__(self) -> None:
        self.seen: list[dict[str, float]] = []
        self.last = -1

    def rows(self, rows: Sequence) -> None:
        if not rows or rows[-1]["round"] == self.last:
            return
        self.last = rows[-1]["round"]
        driver = psutil.Process()
        reading = {
            "round": self.last,
            "driver MB": driver.memory_info().rss / 1e6,
            "shared MB": shared_megabytes(),
        }
        reading |= {"driver files": driver.num_fds(), "driver threads": driver.num_threads()}
        for number, worker in enumerate(sorted(workers(), key=lambda process: process.pid)):
            private = worker.memory_info().rss - worker.memory_info().shared
            reading |= {
                f"worker {number} MB": private / 1e6,
                f"worker {number} files": worker.num_fds(),
            }
            reading |= {f"worker {number} threads": worker.num_threads()}
        self.seen.append(reading)


def long_run(name: str, engine: Engine, rounds: int) -> bool:
    """Part 1 on one engine; whether nothing grows."""
    watch = Watch()
    with tempfile.TemporaryDirectory() as folder:
        Simulation(
            data=Digits(),
            partition=Dirichlet(clients=100),
            model=functools.partial(MLP, hidden=[32]),
            client=FedSpeed(),
            aggregator=FedAvg(weighting="uniform"),
            participation=Bernoulli(probability=0.1),
            evaluation=Evaluation(every=20),
            checkpoint=Checkpoint(every=100),
            engine=engine,
            rounds=rounds,
            folder=folder,
            loggers=[watch],
            progress=False,
        ).run()
    settled = [reading for reading in watch.seen if reading["round"] >= rounds / 3]
    seen = sum(key.endswith(" MB") and key.startswith("worker") for key in settled[0])
    good = len(settled) > 5 and seen == getattr(engine, "workers", 0)
    print(
        f"{name}, {rounds} rounds; after round {settled[0]['round']}, a line fitted to"
        f" {len(settled)} readings:"
    )
    for key in [key for key in settled[0] if key != "round"]:
        values = np.array([reading.get(key, np.nan) for reading in settled])
        slope = float(np.polyfit([reading["round"] for reading in settled], values, 1)[0]) * 1000
        flat = (
            slope <= GROWTH
            if key.endswith("MB")
            else values.max() <= values[: len(values) // 2].max()
        )
        good &= bool(flat)
        print(
            f"  {key:18} {values[0]:9.1f} -> {values[-1]:9.1f}   {slope:+8.3f} per 1,000 rounds  "
            f" {'flat' if flat else 'GROWS'}"
        )
    return good


def many_clients(name: str, engine: Engine, clients: int, few: int = 10_000) -> bool:
    """Part 2 on one engine; whether the memory stays below the limit."""
    good, medians = True, {}
    for registered in (few, clients):
        seconds: list[float] = []
        peak = Peak()

        class Clock(Logger):
            def rows(self, rows: Sequence, seconds=seconds, peak=peak) -> None:
                seconds.append(time.perf_counter())
                peak.read()

        Simulation(
            data=Synthetic(samples=2 * registered, shape=[10], classes=2, validation=0.0, test=200),
            partition=Iid(clients=registered),
            model=LogisticRegression,
            client=FedSpeed(),
            aggregator=FedAvg(weighting="uniform"),
            participation=Uniform(cohort=100),
            evaluation=Evaluation(every=1),
            engine=engine,
            rounds=200,
            loggers=[Clock()],
            progress=False,
        ).run()
        medians[registered] = statistics.median(np.diff(seconds[20:]))
        print(
            f"{name}, {registered:,} clients, cohort 100: {1000 * medians[registered]:.2f} ms per"
            f" round, at most {peak.megabytes:.0f} MB"
        )
        good &= peak.megabytes <= LIMIT
    print(
        f"  a round among {clients:,} takes {medians[clients] / medians[few]:.2f} times what it"
        f" takes among {few:,}"
    )
    return good


class Peak:
    """Greatest memory of this process and its children, shared pages counted once (PSS)."""

    megabytes = 0.0

    def __init__(self) -> None:
        self.reads = 0

    def read(self) -> None:
        self.reads += 1
        if self.reads % 50 == 1:
            whole = [psutil.Process(), *psutil.Process().children(recursive=True)]
            self.megabytes = max(self.megabytes, sum(pss(process) for process in whole) / 1e6)


def pss(process: psutil.Process) -> float:
    try:
        return process.memory_full_info().pss
    except (psutil.Error, AttributeError):
        return 0.0


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3000)
    parser.add_argument("--clients", type=int, default=1_000_000)
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES))
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    good = True
    for name in options.engines:
        good &= long_run(name, ENGINES[name](), options.rounds)
        good &= many_clients(name, ENGINES[name](), options.clients)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
