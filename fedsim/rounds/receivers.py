"""What receivers hold: their models, the vectors of rule and aggregator, and which side of the
arrays is the present one."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from fedsim.engine.arena import Arena
from fedsim.rounds.jobs import OUTPUT, Task, models

VECTORS = ("shared", "receiver")


class Receivers:
    """side: the present one of the arrays' sides; a server has one, the receivers of a graph or
    walk write the next beside it."""

    def __init__(self, task: Task, arena: Arena) -> None:
        self.task, self.arena, self.side = task, arena, 0

    @property
    def models(self) -> str:
        """Name of the array with the present models [R, P]."""
        return models(self.side)

    def start(self, first: list[Tensor]) -> None:
        """Write the first models, one [P] each or one for all, and the initial vectors."""
        x = torch.stack(first) if len(first) > 1 else first[0].expand(self.task.receivers, -1)
        self.arena.write(self.models, np.arange(self.task.receivers), x.numpy())
        for kind, vectors in zip(
            VECTORS,
            (self.task.rule.init_shared(x), self.task.aggregator.init_receiver(x)),
            strict=True,
        ):
            for name, value in vectors.items():
                self.arena[f"{kind}/{self.side}/{name}"][:] = value.numpy()

    def settle(self, stepped: np.ndarray) -> None:
        """Take over what `stepped` receivers have written beside the present side."""
        if len(stepped) == self.task.receivers:
            self.side = 1 - self.side
            return
        here = (self.models, *(f"{kind}/{self.side}/" for kind in VECTORS))
        # The cost follows the receivers that stepped
        for name in [name for name in self.arena.specs if name.startswith(here)]:
            there = name.replace(f"/{self.side}", f"/{1 - self.side}", 1)
            at = self.arena.at(name, stepped)
            self.arena[name][at] = self.arena[there][at]

    def released(self) -> str:
        """Name of the array with the models that are evaluated and released."""
        if not self.task.releases:
            return self.models
        shared, kept = (
            {
                name: torch.from_numpy(array)
                for name, array in self.arena.named(f"{kind}/{self.side}/").items()
            }
            for kind in VECTORS
        )
        model = self.task.rule.output(torch.from_numpy(self.arena.whole(self.models)), shared)
        self.arena[OUTPUT][:] = self.task.aggregator.output(model, kept).numpy()
        return OUTPUT

    def state(self) -> dict[str, np.ndarray]:
        """Models and vectors by name, as views where that can be."""
        return {"models": self.arena.whole(self.models), **self.vectors()}

    def vectors(self) -> dict[str, np.ndarray]:
        """What receivers hold beside their models."""
        return {
            f"{kind}/{name}": value
            for kind in VECTORS
            for name, value in self.arena.named(f"{kind}/{self.side}/").items()
        }

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Take over what `state` gave."""
        self.side = 0
        self.arena.write(self.models, np.arange(self.task.receivers), state["models"])
        for name, value in self.vectors().items():
            value[:] = state[name]
