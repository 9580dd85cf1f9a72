"""The receiver's half of a round, the same for a server and for every node of a graph: from mixed messages to the next model."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from fedsim.engine.arena import Arena
from fedsim.engine.task import STATISTICS, Task


def advance(
    task: Task, arena: Arena, target: str, receivers: np.ndarray, base: Tensor, mixed: dict[str, Tensor], own: Tensor | None, heard: Tensor
) -> bool:
    """Write the next models of some receivers into the array `target`, and their shared and aggregator vectors in place; whether the models
    are finite. Where they are not, nothing is written.

    receivers: int64 [r]; base: their mixed models [r, P]; mixed: averages per channel [r, length]; own: their own statistics before mixing
    [r, Q], for a correction only; heard: bool [r, 1], whether they heard anybody else.
    """

    def corrected(model: Tensor) -> Tensor:
        if task.correction is None:
            return model
        others = torch.where(heard, mixed[STATISTICS], own)
        return torch.where(heard, task.correction.apply(model, own, others, task.layout), model)

    if task.combine_first:
        base = corrected(base)
    shared = {name: torch.from_numpy(array[receivers]) for name, array in arena.named("shared/").items()}
    state = {name: torch.from_numpy(array[receivers]) for name, array in arena.named("receiver/").items()}
    shared, addition = task.rule.absorb(shared, mixed)
    models, state = task.aggregator.step(base, mixed["update"], state)
    if addition is not None:
        models = models + addition
    if not task.combine_first:
        models = corrected(models)
    if not bool(torch.isfinite(models).all()):
        return False
    arena[target][receivers] = models.numpy()
    for prefix, vectors in (("shared/", shared), ("receiver/", state)):
        for name, vector in vectors.items():
            arena[prefix + name][receivers] = vector.numpy()
    return True
