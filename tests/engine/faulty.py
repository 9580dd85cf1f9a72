"""Parts of a simulation that kill, stop or break the worker they run in, for real (also for
`experiments/faults/kill_workers.py`).

All parts are in every simulation, so that it computes the same with a fault and without.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from fedsim.algorithms import Aggregator, ClientRule
from fedsim.data.bundled import Digits
from fedsim.data.partition import Dirichlet
from fedsim.engine.base import Engine
from fedsim.engine.inprocess import InProcess
from fedsim.evaluation.evaluator import Evaluation
from fedsim.models import MLP
from fedsim.network.topology import Ring
from fedsim.participation import Participation, Uniform
from fedsim.protocols import Gossip
from fedsim.recording.checkpoints import Checkpoint
from fedsim.simulation.simulation import Simulation
from fedsim.training import LocalTraining

START, TRAINING, EXCHANGE, EVALUATION, CHECKPOINT = PHASES = (
    "start",
    "training",
    "exchange",
    "evaluation",
    "checkpoint",
)
# Calls after which a worker has done some of its jobs of a round, and not all
SOME = {TRAINING: 5, EXCHANGE: 5}


@dataclass
class Fault:
    """What happens to a worker. phases: where, in each by itself; how: kill, hang, stop (the whole
    process), slow, exit, raise, memory, or wait (until `release`); after: by phase, calls in a
    worker before it happens; marks: folder of one file for each time it happened, and of one
    "worker-PID" for each worker; times: at most so often in each phase of the whole run."""

    marks: Path
    phases: Sequence[str]
    how: str = "kill"
    after: Mapping[str, int] = field(default_factory=dict)
    times: int = 1
    calls: Counter[str] = field(default_factory=Counter)
    driver: int = field(default_factory=os.getpid)

    def at(self, phase: str) -> None:
        if os.getpid() == self.driver:
            return
        if phase == START:
            (self.marks / f"worker-{os.getpid()}").touch()
        if phase not in self.phases:
            return
        self.calls[phase] += 1
        if self.calls[phase] > self.after.get(phase, 0) and self.first(phase):
            self._happen()

    @property
    def happened(self) -> int:
        """How often it has happened."""
        return sum(len(list(self.marks.glob(f"{phase}-*"))) for phase in self.phases)

    def workers(self) -> list[int]:
        """The processes that are or were workers, in the order of their start."""
        found = sorted(self.marks.glob("worker-*"), key=lambda path: path.stat().st_mtime_ns)
        return [int(path.name.removeprefix("worker-")) for path in found]

    def release(self) -> None:
        (self.marks / "go").touch()

    def first(self, phase: str) -> bool:
        """Whether this is one of the first `times` times in a phase, of all processes."""
        for number in range(self.times):
            try:
                os.close(os.open(self.marks / f"{phase}-{number}", os.O_CREAT | os.O_EXCL))
                return True
            except FileExistsError:
                pass
        return False

    def _happen(self) -> None:
        if self.how == "raise":
            raise ArithmeticError("no gradient today")
        if self.how == "memory":
            torch.empty(1 << 60)
        if self.how == "exit":
            sys.exit(3)
        if self.how in ("hang", "slow"):
            time.sleep(3600 if self.how == "hang" else 1.0)
        while self.how == "wait" and not (self.marks / "go").exists():
            time.sleep(0.05)
        if self.how in ("kill", "stop"):
            os.kill(os.getpid(), signal.SIGKILL if self.how == "kill" else signal.SIGSTOP)


class FaultyRule(ClientRule):
    """SGD; the fault is in a local step."""

    def __init__(self, fault: Fault | None) -> None:
        self.fault = fault

    def direction(self, grad, x, anchor, state, shared):
        if self.fault is not None:
            self.fault.at(TRAINING)
        return grad(x)


class FaultyAggregator(Aggregator):
    """The plain sum; over a graph, the fault is in the workers' half of the exchange."""

    def __init__(self, fault: Fault | None) -> None:
        self.fault = fault

    def step(self, base, mixed, state, info):
        if self.fault is not None:
            self.fault.at(EXCHANGE)
        return base + mixed, state


class KillsWhenSaved(Participation):
    """Uniform participation; when its state is asked for, in the middle of a checkpoint, a worker
    is killed."""

    def __init__(self, fault: Fault) -> None:
        self.fault = fault

    def bind(self, population, seed):
        pattern = Uniform(cohort=6).bind(population, seed)
        state = pattern.state

        def kill_and_tell():
            if self.fault.first(CHECKPOINT):
                os.kill(
                    next(pid for pid in reversed(self.fault.workers()) if state_of(pid) in "RSD"),
                    signal.SIGKILL,
                )
            return state()

        pattern.state = kill_and_tell
        return pattern


def state_of(pid: int) -> str:
    """Running (R), sleeping (S, D), stopped (T), a zombie (Z), or gone (?)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return "?"


class FaultyNet(MLP):
    """An MLP; the fault is where a worker receives it, or where it is evaluated."""

    def __init__(self, input_shape: Sequence[int], outputs: int, fault: Fault | None) -> None:
        super().__init__(input_shape, outputs, hidden=[8])
        self.fault = fault

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if self.fault is not None:
            self.fault.at(START)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.fault is not None and not torch.is_grad_enabled():
            self.fault.at(EVALUATION)
        return super().forward(x)


def faulty_simulation(
    fault: Fault | None = None, engine: Engine | None = None, graph: bool = True, **parts: Any
) -> Simulation:
    """Six rounds on digits, over a ring or at a server, in process unless there is an engine; with
    checkpoints if a fault is in them."""
    over: dict[str, Any] = {"protocol": Gossip(), "topology": Ring()} if graph else {}
    if fault is not None and CHECKPOINT in fault.phases:
        over |= {
            "participation": KillsWhenSaved(fault),
            "folder": fault.marks / "run",
            "checkpoint": Checkpoint(every=2),
        }
    settings: dict[str, Any] = {
        "data": Digits(),
        "partition": Dirichlet(clients=8, alpha=1.0),
        "model": partial(FaultyNet, fault=fault),
        "client": FaultyRule(fault),
        "aggregator": FaultyAggregator(fault),
        "participation": Uniform(cohort=6),
        "local": LocalTraining(steps=2, batch_size=8, rate=0.1, clients_per_batch=1),
        "evaluation": Evaluation(every=2),
        "engine": InProcess() if engine is None else engine,
        "rounds": 6,
        "progress": False,
        **over,
        **parts,
    }
    return Simulation(**settings)
