"""What each means of being fast brings: the same workload with it and without, in turn. A part of
variants.py."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from unittest.mock import patch

import numpy as np
import torch
from torch import nn

from fedsim.engine import scheduling
from fedsim.engine.inprocess import InProcess
from fedsim.engine.ray import Ray
from fedsim.kernels import closed_form, convolutions
from fedsim.parameters import Layout
from fedsim.rounds import batch_ahead
from fedsim.rounds.grouping import Grouping
from fedsim.rounds.jobs import Task
from fedsim.training import execution, loop, vectorised
from fedsim.training.gradients import GradientKernel
from fedsim.training.settings import LocalTraining

Without = Callable[[], AbstractContextManager]


def _in_order(self, cohort: np.ndarray) -> list[np.ndarray]:
    return np.array_split(
        np.arange(len(cohort)), min(self.task.local.groups, -(-len(cohort) // self.chunk))
    )


def _contiguous(self, flat):
    spans = zip(self.names, self.shapes, self.offsets, self.offsets[1:], strict=False)
    return {
        name: flat[..., start:stop].view(*flat.shape[:-1], *shape)
        for name, shape, start, stop in spans
    }


def _not_compiled() -> AbstractContextManager:
    return patch.object(convolutions, "PROCESSORS", ())


class Residual(nn.Module):
    """A model that is no plain sequence, as a user may bring one."""

    def __init__(
        self, input_shape: Sequence[int], outputs: int, width: int = 64, blocks: int = 3
    ) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(math.prod(input_shape), width), nn.Linear(width, outputs)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU())
            for _ in range(blocks)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x.flatten(1))
        for block in self.blocks:
            x = x + block(x)
        return self.last(x)


# means -> (workloads, engine, how to do without); "ragged" is W2 with shards of log-normal sizes,
# "residual" W2 with a model of the user's
MEANS: dict[str, tuple[tuple[str, ...], Callable[[], object], Without]] = {
    "convolutions compiled": (("W1b", "W1"), InProcess, _not_compiled),
    "convolution weights channels-last": (
        ("W1b", "W1"),
        InProcess,
        lambda: patch.object(Layout, "views", _contiguous),
    ),
    "gradients in closed form, not by autograd": (
        ("W2lr", "W2", "W1b", "W1"),
        InProcess,
        lambda: patch.object(execution, "FASTER", []),
    ),
    "products with columns": (
        ("W1b",),
        InProcess,
        lambda: patch.object(convolutions, "MOST_CHANNELS", 0),
    ),
    "up to 4 clients of LeNet in one call, not 1": (
        ("W1b",),
        InProcess,
        lambda: patch.object(closed_form, "CONVOLUTION_CLIENTS", 1),
    ),
    "step fused with the gradient": (
        ("W2lr", "W2", "W1b", "W1"),
        InProcess,
        lambda: patch.object(LocalTraining, "plain", False),
    ),
    "up to 32 clients in one call, not 8": (
        ("W2lr", "W2"),
        InProcess,
        lambda: patch.dict(execution.STACKED_CLIENTS, cpu=(8, 8, 0)),
    ),
    "softmax written out": (
        ("W2lr", "W2"),
        InProcess,
        lambda: patch.object(closed_form, "_softmax_", lambda z: z.softmax(dim=-1)),
    ),
    "inputs of several steps at once": (
        ("W2lr", "W2"),
        InProcess,
        lambda: patch.object(loop, "STAGED", 1),
    ),
    "batches drawn for many jobs": (
        ("W2lr", "W2"),
        InProcess,
        lambda: patch.object(batch_ahead, "TOGETHER", 0),
    ),
    "any small dense model stacked, not looped": (
        ("residual",),
        InProcess,
        lambda: patch.object(execution, "SMALL", 0),
    ),
    "its gradients traced": (
        ("residual",),
        InProcess,
        lambda: patch.object(vectorised, "TRACED_AFTER", sys.maxsize),
    ),
    "like clients in one chunk": (
        ("ragged",),
        InProcess,
        lambda: patch.object(Grouping, "groups", _in_order),
    ),
    "mixing by columns, in one product": (
        ("W3",),
        InProcess,
        lambda: patch.object(Task, "averages", False),
    ),
    "jobs on a line to each worker, not in calls of Ray": (
        ("W2lr", "W2", "W3"),
        lambda: Ray(workers=2),
        lambda: patch("fedsim.engine.ray_session.dial", side_effect=ConnectionRefusedError),
    ),
    "short phases dealt out whole": (
        ("W2lr", "W2"),
        lambda: Ray(workers=2),
        lambda: patch.object(scheduling, "SHORT", 0.0),
    ),
}
# On both sides: what is compiled has its own way
ALWAYS = {"products with columns": _not_compiled, "pooling before ReLU": _not_compiled}
# of evaluations, one after every round
EVALUATION_MEANS: dict[str, tuple[tuple[str, ...], Without]] = {
    "convolutions compiled": (("W1b", "W1"), _not_compiled),
    "pooling before ReLU": (
        ("W1b", "W1"),
        lambda: patch("fedsim.rounds.worker.pooled_first", lambda module: module),
    ),
    "several dense models in one call": (
        ("W3",),
        lambda: patch.object(closed_form.ClosedFormGradient, "outputs", GradientKernel.outputs),
    ),
}
