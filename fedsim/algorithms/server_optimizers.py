"""Server optimisers: the mean update taken for a gradient step of momentum SGD, Adagrad, Adam or
Yogi.

Sources: FedAvgM: Hsu, Qi & Brown, 2019 (arXiv 1909.06335). The others: Reddi et al., "Adaptive
Federated Optimization", ICLR 2021 (arXiv 2003.00295), Algorithm 2. Flower 1.41 is named where it
differs.

Symbols: D mean of the round's updates, weighted as in FedAvg; u velocity, m first and v second
moment, all [P]; t steps taken, from 1.

    FedAvgM      u <- beta u + D                               x <- x + eta u
    the others   m <- beta1 m + (1 - beta1) D                  x <- x + eta c_t m / (sqrt(v) + tau)
      FedAdagrad   v <- v + D^2
      FedAdam      v <- beta2 v + (1 - beta2) D^2
      FedYogi      v <- v - (1 - beta2) D^2 sign(v - D^2)

m starts at 0, v at v0 (tau^2, or in Flower 0). c_t is 1 in the paper and in Flower's FedYogi and
FedAdagrad; FedAdam and FedYogi offer sqrt(1 - beta2^s) / (1 - beta1^s) with s = t
(bias_correction=adam, Kingma & Ba) or s = t + 1 (bias_correction=flower: Flower's FedAdam).

Departures: an empty round leaves model and moments as they are and is no step. Over a graph (our
extension) each node keeps moments of its own, and D is what it mixed.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from fedsim.algorithms.base import RoundInfo
from fedsim.algorithms.fedavg import FedAvg
from fedsim.component import Fraction, NonNegative, Positive, component


@component
class FedAvgM(FedAvg):
    """Momentum at the server (Hsu et al. 2019). momentum: beta; rate: eta; weighting: see
    FedAvg."""

    momentum: Fraction = 0.9

    @property
    def adds_updates(self):
        return self.rate == 1 and self.momentum == 0

    def init_receiver(self, x):
        return {"velocity": torch.zeros_like(x)}

    def step(self, base, mixed, state, info):
        if nobody(info):
            return base, state
        velocity = self.momentum * state["velocity"] + mixed
        return base + self.rate * velocity, {"velocity": velocity}


@component
class FedAdagrad(FedAvg):
    """Adagrad at the server (Reddi et al. 2021). rate: eta; beta1: of the first moment; tau:
    adaptivity; v0: where the second moment starts (null: tau^2); weighting: see FedAvg."""

    rate: Positive = 0.1
    beta1: Fraction = 0.0
    tau: Positive = 1e-3
    v0: NonNegative | None = None

    @property
    def adds_updates(self):
        return False

    def init_receiver(self, x):
        start = self.tau**2 if self.v0 is None else self.v0
        return {
            "first": torch.zeros_like(x),
            "second": torch.full_like(x, start),
            "steps": torch.zeros_like(x[..., :1]),
        }

    def step(self, base, mixed, state, info):
        if nobody(info):
            return base, state
        first = self.beta1 * state["first"] + (1 - self.beta1) * mixed
        second, steps = self.second_moment(state["second"], mixed.square()), state["steps"] + 1
        change = (
            self.rate
            * self.correction(steps.double()).to(base)
            * first
            / (second.sqrt() + self.tau)
        )
        return base + change, {"first": first, "second": second, "steps": steps}

    def second_moment(self, v: Tensor, square: Tensor) -> Tensor:
        """The next second moment, from the square of the mean update."""
        return v + square

    def correction(self, steps: Tensor) -> Tensor:
        """c_t, float64 like t [..., 1]."""
        return torch.ones_like(steps)


@component
class FedAdam(FedAdagrad):
    """Adam at the server (Reddi et al. 2021). beta2: of the second moment; bias_correction: see the
    head of this file; the rest as in FedAdagrad."""

    beta1: Fraction = 0.9
    beta2: Fraction = 0.99
    bias_correction: Literal["none", "adam", "flower"] = "none"

    def second_moment(self, v, square):
        return self.beta2 * v + (1 - self.beta2) * square

    def correction(self, steps):
        if self.bias_correction == "none":
            return torch.ones_like(steps)
        power = steps + 1 if self.bias_correction == "flower" else steps
        return (1 - self.beta2**power).sqrt() / (1 - self.beta1**power)


@component
class FedYogi(FedAdam):
    """Yogi at the server (Reddi et al. 2021): the second moment moves by at most (1 - beta2) D^2.
    Settings as in FedAdam."""

    rate: Positive = 0.01

    def second_moment(self, v, square):
        return v - (1 - self.beta2) * square * torch.sign(v - square)


def nobody(info: RoundInfo) -> bool:
    """Whether the round was empty. A node of a graph that acts has at least its own update."""
    return info.steps == 0
