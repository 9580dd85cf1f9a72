"""What every measured system shares: the workload's files, the models in plain PyTorch, and the
clock that talks to the bench.

Nothing here imports fedsim: the others run in environments without it.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

RATE = 0.05
FOLDER = Path(os.environ.get("BENCH_FOLDER", "."))  # of this launch
PREPARED = Path(os.environ.get("BENCH_PREPARED", "."))  # of the workload, see prepare.py
# batch, model, rounds, processes, ...
SETTINGS = json.loads(os.environ.get("BENCH_SETTINGS", "{}"))
PATIENCE = 60.0  # seconds until a launch goes on without an answer of the bench


class Clock:
    """Takes the time at the end of each round. The bench reads memory while the clock stands still:
    after the first and the last round."""

    def __init__(self, rounds: int) -> None:
        self.rounds, self.seconds, self.first, self.done = rounds, [], 0.0, 0
        self.since = time.perf_counter()

    def round_done(self) -> None:
        now = time.perf_counter()
        self.done += 1
        if self.done == 1:
            self.first = time.time()
        else:
            self.seconds.append(now - self.since)
        if self.done in (1, self.rounds):
            wait_for_reading("first" if self.done == 1 else "last")
            now = time.perf_counter()
        self.since = now

    def write(self, models: dict[int, Tensor], **facts: object) -> None:
        """Leave the result. models: flat, by the round after which they were; facts: for the
        result."""
        np.savez(
            FOLDER / "models.npz",
            **{str(round): np.asarray(model, np.float32) for round, model in models.items()},
        )
        result = {
            "first": self.first,
            "seconds": self.seconds,
            "threads": torch.get_num_threads(),
            **facts,
        }
        (FOLDER / "result.json").write_text(json.dumps(result))


def wait_for_reading(name: str) -> None:
    """Stand still until the bench has read the memory of all processes."""
    (FOLDER / name).touch()
    until = time.monotonic() + PATIENCE
    while not (FOLDER / f"{name}.read").exists() and time.monotonic() < until:
        time.sleep(0.005)


@dataclass(frozen=True)
class Plan:
    """What `prepare.py` wrote. x: [N, n, ...] uint8, mapped; y: int64 [N, n]; the rest as it
    says."""

    x: np.ndarray
    y: np.ndarray
    initial: Tensor
    cohorts: np.ndarray
    orders: np.ndarray
    mean: np.ndarray
    std: np.ndarray
    links: tuple[np.ndarray, ...] = ()

    @classmethod
    def read(cls) -> Plan:
        x, y = (np.load(PREPARED / f"{name}.npy", mmap_mode="r") for name in "xy")
        with np.load(PREPARED / "plan.npz") as plan:
            links = (
                tuple(plan[name] for name in ("receiver", "sender", "weight"))
                if "receiver" in plan
                else ()
            )
            return cls(
                x,
                y,
                torch.from_numpy(plan["initial"]),
                *(plan[name] for name in ("cohorts", "orders", "mean", "std")),
                links,
            )

    def inputs(self, x: np.ndarray) -> Tensor:
        """Examples as the model sees them."""
        return torch.from_numpy((x.astype(np.float32) / np.float32(255) - self.mean) / self.std)

    def tensors(self) -> tuple[Tensor, Tensor]:
        """All examples [N, n, ...] and labels."""
        x = torch.empty(self.x.shape)
        for client in range(len(x)):
            x[client] = self.inputs(self.x[client])
        return x, torch.from_numpy(self.y[:].astype(np.int64))

    def order(self, round: int, column: int) -> Tensor:
        """Positions in the shard of the client in that column of the round's cohort, in the order
        of use."""
        return torch.from_numpy(self.orders[round, column].astype(np.int64))


def make_net(name: str) -> nn.Sequential:
    """The networks of `fedsim.models`, layer by layer, in plain PyTorch."""
    if name == "logistic_regression":
        return nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    if name == "mlp":
        return nn.Sequential(nn.Flatten(), nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 10))
    if name == "lenet":
        features = [
            nn.Conv2d(1, 6, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(6, 16, 5),
            nn.ReLU(),
            nn.MaxPool2d(2),
        ]
        dense = [nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10)]
    else:
        features = [
            nn.Conv2d(1, 32, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
        ]
        dense = [nn.Linear(3136, 512), nn.ReLU(), nn.Linear(512, 10)]
    return nn.Sequential(*features, nn.Flatten(), *dense)


def load_flat(net: nn.Module, flat: Tensor) -> nn.Module:
    """The net with these parameters."""
    nn.utils.vector_to_parameters(flat.clone(), net.parameters())
    return net


def flat_of(state: dict[str, Tensor]) -> Tensor:
    """A state as a flat vector, parameter after parameter."""
    return torch.cat([tensor.detach().reshape(-1) for tensor in state.values()])
