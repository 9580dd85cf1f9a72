"""FedCM: every local step also follows the mean direction of the last round; with an uphill
gradient, MoFedSAM.

Source: Xu et al., "FedCM: Federated Learning with Client-level Momentum", 2021 (arXiv 2106.10874);
Qu et al., ICML 2022 (MoFedSAM); the form of the FL-Simulator suite.

Symbols: x local model, M momentum (kept at the receiver, sent with the model), D updates, all [P];
alpha share of the client's own gradient, rho ascent radius, K local steps, eta learning rate.

    g+ = grad(x + rho grad(x) / ||grad(x)||)  (FedCM: rho = 0)
    d  = alpha g+ + (1 - alpha) M                                     then x <- x - eta d
    receiver:  M <- -(mixed D) / (K eta), K and eta those of this round;  model as in FedAvg

The download is doubled. The learning rate of the server is the aggregator's, and is no part of M.

Departures: where clients take unequal numbers of steps, K is their mean over the cohort; a round in
which nobody was heard leaves M as it was; M has the scale of the aggregator's weights, so weights
that do not sum to one (average_all, FedAU) shrink or stretch it. Over a graph (our extension) each
node keeps an M of its own, from the updates it mixed; where neighbours' models and updates would
travel as one vector, they are then sent apart. With alpha = 1 these are FedAvg and FedSAM.
"""

from __future__ import annotations

from typing import ClassVar

import torch

from fedsim.algorithms.base import ClientRule
from fedsim.algorithms.directions import Affine
from fedsim.component import NonNegative, OpenProbability, component


@component
class FedCM(ClientRule):
    """Client-level momentum (Xu et al. 2021), or MoFedSAM (Qu et al. 2022).

    share: alpha in (0, 1], of the client's own gradient; radius: rho, 0 for FedCM.
    """

    absorbs_update: ClassVar[bool] = True

    share: OpenProbability = 0.1
    radius: NonNegative = 0.0

    def init_shared(self, x):
        return {"momentum": torch.zeros_like(x)}

    def affine(self, anchor, state, shared):
        return Affine(
            scale=self.share, radius=self.radius, offset=(1 - self.share) * shared["momentum"]
        )

    def absorb(self, shared, mixed, info):
        if not info.steps:
            return shared, None
        return {"momentum": mixed["update"] / (-info.steps * info.rate)}, None
