"""Local training of a chunk of clients: the one loop every rule and every execution runs in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from fedsim import rng
from fedsim.algorithms.base import ClientRule, LocalInfo, State
from fedsim.algorithms.directions import Affine, norm
from fedsim.training.batches import Batches
from fedsim.training.gradients import GradientKernel
from fedsim.training.optimizers import spatial_means
from fedsim.training.settings import LocalTraining

STAGED = 512  # examples made ready at once


@dataclass(frozen=True)
class Chunk:
    """C clients about to train, stacked.

    seed, round, clients [C]: keys of random draws; batches: which examples in which step; examples:
    shard sizes [C]; anchor: models received [C, P]; state: the rule's kept state, name -> [C,
    length]; local_state: what `LocalTraining.kept` kept, empty where all starts afresh; shared:
    vectors sent with the model, name -> [C, length] or [1, length].
    """

    seed: int
    round: int
    clients: np.ndarray
    batches: Batches
    examples: np.ndarray
    anchor: Tensor
    state: State
    local_state: State
    shared: State


# messages, the rule's state, that of local training, trained models
Trained = tuple[dict[str, Tensor], State, State, Tensor]


class Kernel:
    """What training needs of a model: `gradient`, a kernel of `fedsim.training.gradients`,
    `examples_of(index [...]) -> inputs [..., shape], targets`, which may reuse its memory at the
    next call, and `fisher(x, clients) -> [C, P]`."""

    def __init__(
        self,
        gradient: GradientKernel,
        examples_of: Callable,
        fisher: Callable[[Tensor, np.ndarray], Tensor],
    ) -> None:
        self.gradient, self.examples_of, self.fisher = gradient, examples_of, fisher


class _BatchGradient:
    """The gradient of one mini-batch of each client as a function of the point."""

    def __init__(self, kernel: GradientKernel, batch: list[Tensor]) -> None:
        self.kernel, self.batch = kernel, batch

    def __call__(self, point: Tensor) -> Tensor:
        return self.kernel(point, *self.batch)

    def hvp(self, point: Tensor, vector: Tensor) -> Tensor:
        return self.kernel.hvp(point, vector, *self.batch)


def train(
    chunk: Chunk, rule: ClientRule, settings: LocalTraining, kernel: Kernel, rate: float
) -> Trained:
    """Messages by channel [C, length], the rule's state and that of local training, to keep, and
    trained models [C, P].

    rate: learning rate of this round.
    """
    # Clients that stop early stand last: the active ones are a prefix
    order = np.argsort(-chunk.batches.steps, kind="stable")
    if (order == np.arange(len(order))).all():
        return _train(chunk, rule, settings, kernel, rate)
    *found, x = _train(_reordered(chunk, order), rule, settings, kernel, rate)
    back = torch.from_numpy(np.argsort(order)).to(x.device)
    messages, state, local_state = (
        {name: value[back] for name, value in part.items()} for part in found
    )
    return messages, state, local_state, x[back]


def _train(chunk: Chunk, rule: ClientRule, settings: LocalTraining, kernel: Kernel, rate: float):
    batches, state, optimizer = chunk.batches, dict(chunk.state), settings.make_optimizer()
    memory = optimizer.init(chunk.anchor) | chunk.local_state
    start = rule.start(chunk.anchor, state, chunk.shared)
    if settings.relaxation and chunk.local_state:
        start = torch.lerp(start, memory.pop("trained"), -settings.relaxation)
    x = kernel.gradient.copied(start)
    # One model for all: so is an offset made of it
    received = chunk.anchor if chunk.anchor.stride(0) else chunk.anchor[:1]
    form, bound = rule.form(received, state, chunk.shared), 0
    if form is not None and settings.plain:
        form = replace(form, pull=form.pull + settings.weight_decay)
    for step, active, *batch in _staged(batches, kernel.examples_of, x):
        now = x[:active]
        if form is not None and settings.plain:
            if active != bound:
                descend, bound = kernel.gradient.descent(now, _of_first(form, active), rate), active
            descend(*batch)
            continue
        grad = _BatchGradient(kernel.gradient, batch)
        if form is not None:
            found = _of_first(form, active).direction(grad, now)
        else:
            shared = {
                name: value if len(value) == 1 else value[:active]
                for name, value in chunk.shared.items()
            }
            found = rule.direction(grad, now, chunk.anchor[:active], _first(state, active), shared)
        if isinstance(found, tuple):
            direction, changed = found
            state |= {
                name: torch.cat([value, state[name][active:]]) for name, value in changed.items()
            }
        else:
            direction = found
        if settings.clip_norm is not None:
            direction = direction * (
                settings.clip_norm / norm(direction).clamp_min(settings.clip_norm)
            )
        if settings.weight_decay and settings.coupled:
            direction = direction + settings.weight_decay * now
        curvature = None
        if optimizer.curvature:
            signs = _signs(chunk, active, step, now)
            curvature = spatial_means((grad.hvp(now, signs) * signs).abs(), kernel.gradient.layout)
        optimizer.step(now, direction, _first(memory, active), rate, curvature)
    steps = torch.from_numpy(batches.steps).to(x).unsqueeze(-1)
    examples = torch.from_numpy(chunk.examples).to(x).unsqueeze(-1)
    info = LocalInfo(
        steps, steps * rate, examples, start, lambda point: kernel.fisher(point, chunk.clients)
    )
    messages, state = rule.finish(x, chunk.anchor, state, chunk.shared, info)
    return messages, state, settings.kept(memory, x), x


def _first(state: State, count: int) -> State:
    return {name: value[:count] for name, value in state.items()}


def _signs(chunk: Chunk, active: int, step: int, like: Tensor) -> Tensor:
    """Rademacher draws [active, P]."""
    words = rng.bits(
        chunk.seed, "rademacher", chunk.round, chunk.clients[:active], like.shape[-1], stream=step
    )
    return torch.from_numpy((words & np.uint64(1)).astype(np.float32) * 2 - 1).to(like)


def _of_first(form: Affine, count: int) -> Affine:
    return (
        form
        if form.offset is None or len(form.offset) == 1
        else replace(form, offset=form.offset[:count])
    )


def _staged(
    batches: Batches, examples_of: Callable, like: Tensor
) -> Iterator[tuple[int, int, Tensor, Tensor, Tensor]]:
    """Step by step: its number, the clients c that take it, inputs [c, B, ...], targets and weights
    [c, B] (1/count for the examples that count, 0 for padding). Inputs are fetched for several
    steps at once."""
    taking = (batches.steps[:, None] > np.arange(batches.index.shape[1])).sum(axis=0).tolist()
    _, steps, width = batches.index.shape
    first = 0
    while first < steps:
        part = slice(first, min(first + max(1, STAGED // (taking[first] * width)), steps))
        inputs, targets = examples_of(
            np.ascontiguousarray(batches.index[: taking[first], part].swapaxes(0, 1))
        )
        weights = _weights(
            np.ascontiguousarray(batches.count[: taking[first], part].T), width, like
        )
        for step in range(first, part.stop):
            active, at = taking[step], step - first
            yield step, active, inputs[at, :active], targets[at, :active], weights[at, :active]
        first = part.stop


def _weights(count: np.ndarray, width: int, like: Tensor) -> Tensor:
    """[*count.shape, width]: 1/count for the examples that count, 0 for padding."""
    if count.min() == width:
        return like.new_full((1, 1, 1), 1 / width).expand(*count.shape, width)
    exact = np.float64 if like.dtype == torch.float64 else np.float32
    counts = count[..., None].astype(exact)  # by NumPy, which is faster with so few numbers
    return torch.from_numpy((np.arange(width) < counts) / np.maximum(counts, 1)).to(like)


def _reordered(chunk: Chunk, order: np.ndarray) -> Chunk:
    take = torch.from_numpy(order).to(chunk.anchor.device)
    batches = Batches(
        chunk.batches.index[order], chunk.batches.count[order], chunk.batches.steps[order]
    )
    state, local_state = (
        {name: value[take] for name, value in part.items()}
        for part in (chunk.state, chunk.local_state)
    )
    shared = {
        name: value if len(value) == 1 else value[take] for name, value in chunk.shared.items()
    }
    moved = {
        "clients": chunk.clients[order],
        "examples": chunk.examples[order],
        "anchor": chunk.anchor[take],
    }
    return replace(
        chunk, batches=batches, state=state, local_state=local_state, shared=shared, **moved
    )
