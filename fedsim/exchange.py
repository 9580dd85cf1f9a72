"""The receiver's half of a round, the same for a server and for every node of a graph: from mixed messages to the next model."""

from __future__ import annotations

import torch
from torch import Tensor

from fedsim.algorithms.base import State
from fedsim.engine.task import STATISTICS, Task


def next_models(
    task: Task, base: Tensor, mixed: dict[str, Tensor], shared: State, state: State, own: Tensor | None, heard_others: Tensor | None
) -> tuple[Tensor, State, State]:
    """The receivers' next models [r, P], shared vectors and aggregator vectors.

    base: their mixed models [r, P]; mixed: averages per channel [r, length]; own: their own statistics [r, Q] before mixing, and
    heard_others: bool [r, 1], whether there are others' statistics, both for a correction only.
    """

    def corrected(model: Tensor) -> Tensor:
        if task.correction is None:
            return model
        others = torch.where(heard_others, mixed[STATISTICS], own)
        return torch.where(heard_others, task.correction.apply(model, own, others, task.layout), model)

    if task.combine_first:
        base = corrected(base)
    shared, addition = task.rule.absorb(shared, mixed)
    following, state = task.aggregator.step(base, mixed["update"], state)
    if addition is not None:
        following = following + addition
    return following if task.combine_first else corrected(following), shared, state
