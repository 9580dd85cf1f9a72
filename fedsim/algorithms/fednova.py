"""FedNova: updates are divided by the work that clients put into them, and the mean is multiplied
by a common amount of work.

Source: Wang et al., "Tackling the Objective Inconsistency Problem in Heterogeneous Federated
Optimization", NeurIPS 2020, and the official code.

Symbols: D_i updates [P]; p_i weights that sum to one (by shard size, or equal); K_i local steps;
A_i what a client's gradients weigh together in D_i / eta: K_i for plain SGD, sum_k (1 - rho^k) / (1
- rho) with momentum rho, s after s <- (1 - eta mu) s + 1 with a prox term.

    tau = sum_i p_i A_i
        (effective=steps: sum_i p_i K_i, which the official code takes with a prox term)
    x <- x + eta_s tau sum_i p_i D_i / A_i
        (with server momentum beta: v <- beta v + that sum; x <- x + eta_s v)

With equal K_i this is FedAvg. Over a graph (our extension) p are a receiver's mixing weights, as
FedAvg has them, and tau is its own.

Departures: A_i counts momentum from zero, so local.keep_optimizer=true is not accounted for, and
Adam's steps count as those of SGD.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch

from fedsim.algorithms.base import Reports
from fedsim.algorithms.fedavg import FedAvg
from fedsim.component import Fraction, Positive, component
from fedsim.network.links import Heard, Links


@component
class FedNova(FedAvg):
    """Mean of updates normalised by local work (Wang et al. 2020).

    weighting: by shard size or equal; effective: what the common amount of work tau is the mean of;
    momentum: beta; rate: eta_s.
    """

    weighting: Literal["size", "uniform"] = "size"
    rate: Positive = 1.0
    effective: Literal["accumulated", "steps"] = "accumulated"
    momentum: Fraction = 0.0

    def coefficients(self, links: Links, heard: Heard, reports: Reports, state):
        weight, state = super().coefficients(links, heard, reports, state)
        work = reports.accumulated[heard.column]
        common = np.bincount(
            heard.receiver, weight * getattr(reports, self.effective)[heard.column], links.receivers
        )
        return weight * common[heard.receiver] / work, state

    @property
    def adds_updates(self):
        return super().adds_updates and not self.momentum

    def init_receiver(self, x):
        return {"velocity": torch.zeros_like(x)} if self.momentum else {}

    def step(self, base, mixed, state, info):
        velocity = self.momentum * state["velocity"] + mixed if self.momentum else mixed
        return base + self.rate * velocity, {"velocity": velocity} if self.momentum else {}
