"""Directions of local steps, and the arithmetic that works on one vector [P] as on a stack [C,
P]."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

TINY = 1e-7  # added to the norm of a gradient that a step uphill is divided by


class Gradient(Protocol):
    """The mini-batch gradient at a point; may be called more than once per local step."""

    def __call__(self, point: Tensor) -> Tensor:
        """The gradient at a point."""

    def hvp(self, point: Tensor, vector: Tensor) -> Tensor:
        """The mini-batch Hessian at a point times a vector."""


def norm(x: Tensor) -> Tensor:
    """Euclidean norm over the parameters: [1] of [P], [C, 1] of [C, P]."""
    return torch.linalg.vector_norm(x, dim=-1, keepdim=True)


def dot(x: Tensor, y: Tensor) -> Tensor:
    """Inner product over the parameters: [1] of [P], [C, 1] of [C, P]."""
    return (x * y).sum(dim=-1, keepdim=True)


def uphill_gradient(grad: Gradient, x: Tensor, radius: float) -> Tensor:
    """The gradient at distance `radius` from x along the gradient there; at x itself for a radius
    of 0."""
    g = grad(x)
    return grad(torch.addcmul(x, g, radius / (norm(g) + TINY))) if radius else g


@dataclass(frozen=True)
class Affine:
    """The direction d = scale g+ + pull x + offset with g+ the gradient at distance `radius` uphill
    of x, on the same mini-batch.

    All but x is the same in every step of a round, so that kernels can put a step of plain SGD
    along it into their products. offset: [P], or None for zero.
    """

    scale: float = 1.0
    radius: float = 0.0
    pull: float = 0.0
    offset: Tensor | None = None

    def direction(self, grad: Gradient, x: Tensor) -> Tensor:
        d = uphill_gradient(grad, x, self.radius)
        if self.scale != 1:
            d = self.scale * d
        if self.pull:
            d = torch.add(d, x, alpha=self.pull)
        return d if self.offset is None else d + self.offset
