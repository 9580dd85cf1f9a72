"""SCAFFOLD: control variates that take the drift out of local steps; with an uphill gradient,
FedGamma.

Source: Karimireddy et al., "SCAFFOLD: Stochastic Controlled Averaging for Federated Learning", ICML
2020, option II; Dai et al., "FedGAMMA", 2023; the form of the FL-Simulator suite.

Symbols: x local model, a model received (anchor), x_0 where local steps start (a, unless
local.relaxation is set), c_i control variate (kept at the client), c the server's (sent with the
model), all [P]; rho ascent radius, K_i local steps, eta learning rate, N clients.

    g+ = grad(x + rho grad(x) / ||grad(x)||)  (SCAFFOLD: rho = 0)
    d  = g+ + c - c_i                                                 then x <- x - eta d
    c_i' = c_i - c + (x_0 - x_K) / (K_i eta);  sends x_K - a and c_i' - c_i;  c_i <- c_i'
    server:  model as in FedAvg;  c <- c + (1/N) sum_S (c_i' - c_i)

So c is the mean of all c_i, absent ones included, at any participation. Two vectors travel each
way.

Departures: K_i eta is each client's own (unequal steps, rates that change over rounds); c is the
plain mean over clients, whatever the aggregator's weights (FedDyn's repository weighs it by shard
sizes). (x_0 - x_K) / (K_i eta) is a mean of directions for plain SGD; momentum or Adam at the
client give it another scale. A mean over all clients exists only at a server: over a graph or on a
walk it is refused.
"""

from __future__ import annotations

import torch

from fedsim.algorithms.base import COHORT, EVERYONE, ClientRule
from fedsim.algorithms.directions import Affine
from fedsim.component import NonNegative, component


@component
class Scaffold(ClientRule):
    """Local steps with control variates (Karimireddy et al. 2020), or FedGamma (Dai et al. 2023).
    radius: rho, 0 for SCAFFOLD."""

    radius: NonNegative = 0.0

    @property
    def channels(self):
        return {"update": COHORT, "control": EVERYONE}

    def init(self, x):
        return {"control": torch.zeros_like(x)}

    def init_shared(self, x):
        return {"mean_control": torch.zeros_like(x)}

    def affine(self, anchor, state, shared):
        return Affine(radius=self.radius, offset=shared["mean_control"] - state["control"])

    def finish(self, x, anchor, state, shared, info):
        change = (info.start - x) / info.rates - shared["mean_control"]
        return {"update": x - anchor, "control": change}, {"control": state["control"] + change}

    def absorb(self, shared, mixed, info):
        return {"mean_control": shared["mean_control"] + mixed["control"]}, None
