"""Local optimisers: how a client steps along a direction. Each works on a stack of clients [C, P], in place."""

from __future__ import annotations

import torch
from torch import Tensor

from fedsim.algorithms.base import State


class Optimizer:
    """Steps along directions; what it remembers is state by name, [C, any length].

    curvature: whether `step` needs an estimate of the Hessian's diagonal.
    """

    curvature = False

    def init(self, x: Tensor) -> State:
        """State before the first local step; x [C, P] gives the shape."""
        return {}

    def step(self, x: Tensor, direction: Tensor, state: State, rate: float, curvature: Tensor | None = None) -> None:
        """One step from x [c, P], in place, state included. curvature: Hessian diagonal estimated from one draw [c, P]."""
        x.add_(direction, alpha=-rate)


class HeavyBall(Optimizer):
    """v <- momentum v + direction; x <- x - rate v (Polyak 1964, as in torch.optim.SGD)."""

    def __init__(self, momentum: float) -> None:
        self.momentum = momentum

    def init(self, x: Tensor) -> State:
        return {"momentum": torch.zeros_like(x)}

    def step(self, x: Tensor, direction: Tensor, state: State, rate: float, curvature: Tensor | None = None) -> None:
        x.add_(state["momentum"].mul_(self.momentum).add_(direction), alpha=-rate)
