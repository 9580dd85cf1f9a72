"""Krum and multi-Krum: the updates that lie closest to their neighbours.

Source: Blanchard et al., "Machine Learning with Adversaries: Byzantine Tolerant Gradient Descent",
NeurIPS 2017 (arXiv 1703.02757).

    score_i = sum of ||D_i - D_j||^2 over the n - f - 2 updates D_j closest to D_i, itself aside
    x <- x + eta * mean of the m updates with the least scores

Symbols: D_i updates of the n senders heard [P]; f attackers assumed among them; m updates selected
(Krum: 1). Of equal scores the client with the lower number is taken.

All senders count alike: coefficients are ignored (Flower weighs the m updates by their numbers of
examples). The paper's guarantee needs n > 2f + 2. With fewer senders the rule still gives
something: a score counts at least one neighbour, and at most n - f updates are selected, at least
one. An empty round adds nothing. Over a graph (our extension) D_i are the trained models of the
closed neighbourhood less the receiver's own model before training, and f is the number of attackers
in each neighbourhood. Other channels of a client rule are averaged as always.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fedsim.algorithms.robust import Robust
from fedsim.component import NonNegativeInt, PositiveInt, component

BLOCK = 1 << 16  # coordinates turned into float64 at a time


@component
class Krum(Robust):
    """Mean of the updates closest to their neighbours (Blanchard et al. 2017). attackers: f;
    selected: m (null: n - f - 2, as many as a score counts); rate: global learning rate eta."""

    attackers: NonNegativeInt = 1
    selected: PositiveInt | None = 1

    def merge(self, updates, weights, info):
        n = len(updates)
        counted = max(1, n - self.attackers - 2)
        best = torch.argsort(scores(updates, counted), stable=True)
        chosen = min(
            counted if self.selected is None else self.selected, max(1, n - self.attackers)
        )
        return updates[best[:chosen].sort().values].mean(dim=0)


def scores(updates: Tensor, counted: int) -> Tensor:
    """Sum of the squared distances of each row [n, P] to the `counted` others that are closest,
    float64 [n]."""
    distances = squared_distances(updates)
    # A row itself is the first in its order, whatever lies at distance zero
    distances.fill_diagonal_(-1)
    return distances.sort(dim=1).values[:, 1 : counted + 1].sum(dim=1)


def squared_distances(rows: Tensor) -> Tensor:
    """Squared Euclidean distances between rows [n, P], float64 [n, n], exactly symmetric."""
    products = torch.zeros(len(rows), len(rows), dtype=torch.float64)
    for block in rows.split(BLOCK, dim=1):
        block = block.double()
        products += block @ block.T
    squares = products.diagonal()
    return (squares[:, None] + squares[None, :] - (products + products.T)).clamp_min_(0)
