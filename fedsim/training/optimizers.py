"""Local optimisers: how a client steps along a direction. Each works on a stack of clients [C, P],
in place."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.optim.adam import adam

from fedsim.algorithms.base import State
from fedsim.parameters import Layout


class Optimizer:
    """Steps along directions, here x <- x - rate * direction; what it remembers is state by name,
    [C, any length].

    curvature: whether `step` needs an estimate of the Hessian's diagonal.
    """

    curvature = False

    def init(self, x: Tensor) -> State:
        """State before the first local step; x [C, P] gives the shape."""
        return {}

    def step(
        self,
        x: Tensor,
        direction: Tensor,
        state: State,
        rate: float,
        curvature: Tensor | None = None,
    ) -> None:
        """One step from x [c, P], in place, state included. curvature: |diagonal of the Hessian|
        estimated from one draw [c, P]."""
        x.add_(direction, alpha=-rate)

    def accumulated(self, steps: np.ndarray, pull: float) -> np.ndarray:
        """The weight of a constant unit gradient in the update of clients with these steps [S], in
        units of the rate: the steps themselves, unless momentum adds to them, or a prox term of
        strength `pull` (mu times the rate) takes from them."""
        return _accumulated(steps, 0.0, False, pull)


class HeavyBall(Optimizer):
    """v <- momentum v + direction; x <- x - rate v (Polyak 1964), or with nesterov x <- x - rate
    (direction + momentum v), both as in torch.optim.SGD."""

    def __init__(self, momentum: float, nesterov: bool = False) -> None:
        self.momentum, self.nesterov = momentum, nesterov

    def init(self, x: Tensor) -> State:
        return {"momentum": torch.zeros_like(x)}

    def step(
        self,
        x: Tensor,
        direction: Tensor,
        state: State,
        rate: float,
        curvature: Tensor | None = None,
    ) -> None:
        velocity = state["momentum"].mul_(self.momentum).add_(direction)
        x.add_(
            torch.add(direction, velocity, alpha=self.momentum) if self.nesterov else velocity,
            alpha=-rate,
        )

    def accumulated(self, steps: np.ndarray, pull: float) -> np.ndarray:
        return _accumulated(steps, self.momentum, self.nesterov, pull)


class Adam(Optimizer):
    """Adam (Kingma & Ba 2015), with weight_decay above 0 AdamW (Loshchilov & Hutter 2019), by
    torch's own function. Every client counts its own steps, so that bias corrections are right
    where state outlives a round and clients differ in their work.

    betas: decay of the moments; epsilon: added to the root; weight_decay: decoupled, w in x <- (1 -
    rate w) x.
    """

    def __init__(
        self, betas: tuple[float, float], epsilon: float, weight_decay: float = 0.0
    ) -> None:
        self.betas, self.epsilon, self.weight_decay = betas, epsilon, weight_decay

    def init(self, x: Tensor) -> State:
        return {
            "first": torch.zeros_like(x),
            "second": torch.zeros_like(x),
            "steps": torch.zeros_like(x[:, :1]),
        }

    def step(
        self,
        x: Tensor,
        direction: Tensor,
        state: State,
        rate: float,
        curvature: Tensor | None = None,
    ) -> None:
        first, second, steps = state["first"], state["second"], state["steps"]
        rows = [x, direction, first, second]
        alike = bool((steps == steps[0]).all())  # then one call for the whole stack
        parameters, gradients, means, squares = (
            [part] if alike else list(part.unbind()) for part in rows
        )
        counts = [steps[:1].squeeze().clone()] if alike else list(steps.squeeze(-1).unbind())
        adam(
            parameters,
            gradients,
            means,
            squares,
            [],
            counts,
            decoupled_weight_decay=True,
            amsgrad=False,
            beta1=self.betas[0],
            beta2=self.betas[1],
            lr=rate,
            weight_decay=self.weight_decay,
            eps=self.epsilon,
            maximize=False,
        )
        if alike:
            steps.copy_(counts[0].expand_as(steps))


class AdaHessian(Optimizer):
    """AdaHessian (Yao et al. 2021): Adam with an estimate D of the Hessian's diagonal in the place
    of the gradient in the second moment.

        m <- b1 m + (1 - b1) g;  v <- b2 v + (1 - b2) D^2
        x <- x - rate (m^ / (sqrt(v^)^k + epsilon) + w x)

    m^, v^: with Adam's bias corrections; power: k; weight_decay: w. As in torch's Adam, each client
    counts its own steps.
    """

    curvature = True

    def __init__(
        self,
        betas: tuple[float, float],
        epsilon: float,
        weight_decay: float = 0.0,
        power: float = 1.0,
    ) -> None:
        self.betas, self.epsilon, self.weight_decay, self.power = (
            betas,
            epsilon,
            weight_decay,
            power,
        )

    def init(self, x: Tensor) -> State:
        return {
            "first": torch.zeros_like(x),
            "second": torch.zeros_like(x),
            "steps": torch.zeros_like(x[:, :1]),
        }

    def step(
        self,
        x: Tensor,
        direction: Tensor,
        state: State,
        rate: float,
        curvature: Tensor | None = None,
    ) -> None:
        assert curvature is not None
        first, second, steps = state["first"], state["second"], state["steps"].add_(1)
        first.lerp_(direction, 1 - self.betas[0])
        second.mul_(self.betas[1]).addcmul_(curvature, curvature, value=1 - self.betas[1])
        # In float32 1 - b2 would lose five digits
        corrections = [(1 - beta ** steps.double()) for beta in self.betas]
        mean, root = first / corrections[0].to(x), (second / corrections[1].to(x)).sqrt_()
        change = mean.div_(root.pow_(self.power).add_(self.epsilon))
        x.mul_(1 - rate * self.weight_decay).add_(change, alpha=-rate)


def spatial_means(values: Tensor, layout: Layout) -> Tensor:
    """Values [c, P] with those of a convolution kernel averaged over its height and width, for each
    pair of channels."""
    averaged = values.clone()
    for view in layout.views(averaged).values():
        if view.dim() == 5:
            view.copy_(view.mean(dim=(-2, -1), keepdim=True).expand_as(view))
    return averaged


def _accumulated(steps: np.ndarray, momentum: float, nesterov: bool, pull: float) -> np.ndarray:
    """What K steps v <- momentum v + d, s <- s + v with d = 1 - pull s from zero give for s; with
    nesterov s <- s + d + momentum v."""
    if not momentum and not pull:
        return steps.astype(np.float64)
    v, s = np.zeros(len(steps)), np.zeros(len(steps))
    for step in range(int(steps.max(initial=0))):
        d = 1 - pull * s
        v = momentum * v + d
        s = np.where(step < steps, s + (d + momentum * v if nesterov else v), s)
    return s
