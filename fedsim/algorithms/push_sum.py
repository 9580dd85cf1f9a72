"""Push-sum: averaging over directed graphs, where no node needs to know who hears it.

Source: Assran et al., "Stochastic Gradient Push for Distributed Deep Learning", ICML 2019 (arXiv
1811.10792), Algorithm 1; the averaging is that of Kempe, Dobra, Gehrke (FOCS 2003).

Symbols: x [P] what a node holds, w its weight [1], 1 at first; z = x / w the model. A node divides
x and w over those it sends to and itself (mixing=push: columns of A sum to 1), and sums what
arrives:

    z = x / w;   K local steps from z, along gradients at z
    x <- sum_j A_ij (x_j + z_j^K - z_j);   w <- sum_j A_ij w_j

The sums of x and of w over all nodes change by training alone, so that z goes to the true mean of
the nodes, whatever the graph; where all columns and rows sum to 1, as on a regular graph with
everybody there, w stays 1 and this is gossip. With K = 1 it is the paper's SGP.

What is evaluated and released is z. An absent node keeps x and w; what a message would have carried
to it stays with the sender (which must then know that it did not arrive). Departures: K > 1 local
steps. Weights are mixed as models are, whatever the aggregator.
"""

from __future__ import annotations

from typing import ClassVar

import torch

from fedsim.algorithms.base import COHORT, MIXING, ClientRule
from fedsim.component import component


@component
class PushSum(ClientRule):
    """Local SGD from x / w (Assran et al. 2019)."""

    scaled: ClassVar[bool] = True

    @property
    def channels(self):
        return {"update": COHORT, "weight": MIXING}

    @property
    def lengths(self):
        return {"weight": 1}

    def init_shared(self, x):
        return {"weight": torch.ones_like(x[..., :1])}

    def start(self, anchor, state, shared):
        return anchor / shared["weight"]

    def finish(self, x, anchor, state, shared, info):
        return {
            "update": x - anchor / shared["weight"],
            "weight": shared["weight"].expand_as(x[..., :1]),
        }, state

    def absorb(self, shared, mixed, info):
        return {"weight": mixed["weight"]}, None

    def output(self, model, shared):
        return model / shared["weight"]
