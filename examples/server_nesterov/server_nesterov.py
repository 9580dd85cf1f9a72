"""Nesterov momentum at the server.

    v <- beta v + mean of D;  x <- x + eta (mean of D + beta v)

Symbols: D updates, v velocity, both [P]. An empty round counts as an update of zero. Over a graph
each node keeps a velocity of its own.
"""

import torch

from fedsim.algorithms import Aggregator
from fedsim.component import Fraction, Positive, component


@component
class ServerNesterov(Aggregator):
    """Nesterov's momentum on the mean update. momentum: beta in [0, 1); rate: eta."""

    momentum: Fraction = 0.9
    rate: Positive = 1.0

    def init_receiver(self, x):
        return {"velocity": torch.zeros_like(x)}

    def step(self, base, mixed, state, info):
        velocity = self.momentum * state["velocity"] + mixed
        return base + self.rate * (mixed + self.momentum * velocity), {"velocity": velocity}
