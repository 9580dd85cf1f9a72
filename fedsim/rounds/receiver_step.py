"""The receiver's half of a round, the same for a server, every node of a graph and every token of a
walk: from mixed messages to the next model."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from fedsim.algorithms.base import Aggregator, RoundInfo
from fedsim.engine.arena import Arena
from fedsim.rounds.jobs import STATISTICS, Task, models


def advance(
    task: Task,
    arena: Arena,
    sides: tuple[int, int],
    base: Tensor,
    mixed: dict[str, Tensor],
    own: Tensor | None,
    heard: Tensor,
    info: RoundInfo,
) -> bool:
    """Write the next models of some receivers with their shared and aggregator vectors; whether the
    models are finite. Where they are not, nothing is written.

    sides: that the vectors are read from, and written to; base: mixed models [r, P]; mixed:
    averages per channel [r, length]; own: their own statistics before mixing [r, Q], for a
    correction only; heard: bool [r, 1], whether they heard anybody else.
    """

    def corrected(model: Tensor) -> Tensor:
        if task.correction is None:
            return model
        others = torch.where(heard, mixed[STATISTICS], own)
        return torch.where(heard, task.correction.apply(model, own, others, task.layout), model)

    if task.combine_first:
        base = corrected(base)
    read, write = sides
    shared, state = (
        {
            name: torch.from_numpy(array[info.receivers])
            for name, array in arena.named(f"{kind}/{read}/").items()
        }
        for kind in ("shared", "receiver")
    )
    shared, addition = task.rule.absorb(shared, mixed, info)
    following, state = task.aggregator.step(base, mixed["update"], state, info)
    if addition is not None:
        following = following + addition
    if not task.combine_first:
        following = corrected(following)
    if not bool(torch.isfinite(following).all()):
        return False
    arena[models(write)][info.receivers] = following.numpy()
    for kind, vectors in (("shared", shared), ("receiver", state)):
        for name, vector in vectors.items():
            arena[f"{kind}/{write}/{name}"][info.receivers] = vector.numpy()
    return True


def merged_rows(
    aggregator: Aggregator,
    updates: Tensor,
    weights: np.ndarray,
    info: RoundInfo,
    row: int,
    senders: np.ndarray,
) -> Tensor:
    """What an aggregator that sees single updates [H, P] of senders [H] makes of them for one
    receiver, number `row` of the round's."""
    if not len(updates):
        return torch.zeros(updates.shape[-1])
    one = replace(
        info,
        receivers=info.receivers[row : row + 1],
        heard=info.heard[row : row + 1],
        senders=senders,
    )
    return aggregator.merge(updates, torch.from_numpy(np.asarray(weights, np.float32)), one)
