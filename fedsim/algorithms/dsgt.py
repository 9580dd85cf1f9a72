"""DSGT: decentralised SGD with gradient tracking.

Source: Pu & Nedic, "Distributed stochastic gradient tracking methods", Mathematical Programming
2021 (arXiv 1805.11454), in the form

    X <- W (X - eta Y);   Y <- W Y + G_new - G

Symbols: X models, Y trackers, G mini-batch gradients, all [N, P]; W mixing matrix [N, N]. Row i:
y_i the tracker of node i, t_i = (W Y)_i what it heard of its neighbours' (kept as the receiver's
vector, 0 at first), g_i its last mean gradient (kept at the client, 0 at first).

    d = grad(x) + t_i - g_i                              then x <- x - eta d, K times
    y_i = mean of d = mean gradient + t_i - g_i;   g_i <- mean gradient

With K = 1 this is DSGT; K > 1 is its form with local steps, the tracker following mean gradients.
Trackers are mixed as models are, whatever the aggregator. With W doubly stochastic
(mixing=metropolis, or regular graphs) the trackers sum to the last gradients' sum, also under
partial participation: an absent node keeps t_i and g_i, and the sum over all nodes of t_i - g_i
stays 0.

Departures: y_i is read off the distance gone, so that momentum, clipping and other optimizers are
refused; weight decay is part of the gradient. In the order combine_then_adapt X <- W X - eta Y. A
correction changes models, never trackers.
"""

from __future__ import annotations

from typing import ClassVar

import torch

from fedsim.algorithms.base import COHORT, MIXING, ClientRule
from fedsim.component import component


@component
class Dsgt(ClientRule):
    """Local steps along tracked gradients (Pu & Nedic 2021)."""

    plain_steps: ClassVar[bool] = True

    @property
    def channels(self):
        return {"update": COHORT, "tracker": MIXING}

    def init(self, x):
        return {"gradient": torch.zeros_like(x)}

    def init_shared(self, x):
        return {"tracker": torch.zeros_like(x)}

    def direction(self, grad, x, anchor, state, shared):
        return grad(x) + (shared["tracker"] - state["gradient"])

    def finish(self, x, anchor, state, shared, info):
        tracker = (info.start - x) / info.rates
        gradient = tracker - shared["tracker"] + state["gradient"]
        return {"update": x - anchor, "tracker": tracker}, {"gradient": gradient}

    def absorb(self, shared, mixed, info):
        return {"tracker": mixed["tracker"]}, None
