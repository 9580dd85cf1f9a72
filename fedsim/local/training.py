"""Local training of a chunk of clients: the one loop every rule and every execution runs in."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from fedsim.algorithms.base import ClientRule, LocalInfo, State, norm
from fedsim.local.batches import Batches
from fedsim.local.settings import LocalTraining

MOMENTUM = "local.momentum"  # name of the momentum buffers among a client's kept state


@dataclass(frozen=True)
class Chunk:
    """C clients about to train, stacked.

    batches: which examples in which step; examples: shard sizes [C]; anchor: models received [C, P]; state: kept state, name -> [C, P];
    shared: vectors sent with the model, name -> [C, P] or [1, P].
    """

    batches: Batches
    examples: np.ndarray
    anchor: Tensor
    state: State
    shared: State


def train(
    chunk: Chunk, rule: ClientRule, settings: LocalTraining, gradient, examples_of, rate: float
) -> tuple[dict[str, Tensor], State, Tensor]:
    """Messages by channel [C, ...], kept state by name [C, P], and trained models [C, P].

    gradient: a kernel of `fedsim.local.gradients`; examples_of(index) -> inputs, targets; rate: learning rate of this round.
    """
    order = np.argsort(-chunk.batches.steps, kind="stable")  # clients that stop early stand last: the active ones are a prefix
    if (order == np.arange(len(order))).all():
        return _train(chunk, rule, settings, gradient, examples_of, rate)
    messages, state, x = _train(_reordered(chunk, order), rule, settings, gradient, examples_of, rate)
    back = torch.from_numpy(np.argsort(order))
    pick = {name: value[back.to(value.device)] for name, value in messages.items()}
    return pick, {name: value[back.to(value.device)] for name, value in state.items()}, x[back.to(x.device)]


def _train(chunk: Chunk, rule: ClientRule, settings: LocalTraining, gradient, examples_of, rate: float):
    batches, state = chunk.batches, dict(chunk.state)
    buffer = state.pop(MOMENTUM, None)
    if buffer is None and settings.momentum:
        buffer = torch.zeros_like(chunk.anchor)
    x = rule.start(chunk.anchor, state, chunk.shared).clone()
    fused = rule.plain_sgd and settings.plain and hasattr(gradient, "descend")
    for step in range(int(batches.steps.max())):
        active = int((batches.steps > step).sum())
        inputs, targets = examples_of(batches.index[:active, step])
        weights = _weights(batches.count[:active, step], inputs.shape[1], x)
        if fused:
            gradient.descend(x[:active], inputs, targets, weights, rate)
            continue

        def grad(point: Tensor, batch=(inputs, targets, weights)) -> Tensor:
            return gradient(point, *batch)

        shared = {name: value if len(value) == 1 else value[:active] for name, value in chunk.shared.items()}
        now = x[:active]
        direction = rule.direction(grad, now, chunk.anchor[:active], {name: value[:active] for name, value in state.items()}, shared)
        if settings.clip_norm is not None:
            direction = direction * (settings.clip_norm / norm(direction).clamp_min(settings.clip_norm))
        if settings.weight_decay:
            direction = direction + settings.weight_decay * now
        if buffer is not None:
            direction = buffer[:active].mul_(settings.momentum).add_(direction)
        now.add_(direction, alpha=-rate)
    steps = torch.from_numpy(batches.steps).to(x).unsqueeze(-1)
    info = LocalInfo(steps, steps * rate, torch.from_numpy(chunk.examples).to(x).unsqueeze(-1))
    messages, state = rule.finish(x, chunk.anchor, state, chunk.shared, info)
    if buffer is not None and settings.keep_momentum:
        state = {**state, MOMENTUM: buffer}
    return messages, state, x


def _weights(count: np.ndarray, width: int, like: Tensor) -> Tensor:
    """[c, B]: 1/count for the examples that count, 0 for padding."""
    counts = torch.from_numpy(count).to(like).unsqueeze(-1)
    return (torch.arange(width, device=like.device) < counts).to(like) / counts


def _reordered(chunk: Chunk, order: np.ndarray) -> Chunk:
    take = torch.from_numpy(order).to(chunk.anchor.device)
    batches = Batches(chunk.batches.index[order], chunk.batches.count[order], chunk.batches.steps[order])
    state = {name: value[take] for name, value in chunk.state.items()}
    shared = {name: value if len(value) == 1 else value[take] for name, value in chunk.shared.items()}
    return replace(chunk, batches=batches, examples=chunk.examples[order], anchor=chunk.anchor[take], state=state, shared=shared)
