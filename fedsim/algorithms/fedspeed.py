"""FedSpeed: prox-correction and a gradient taken uphill, for long local intervals.

Source: Sun et al., "FedSpeed: Larger Local Interval, Less Communication Round, and Higher
Generalization Accuracy", ICLR 2023 (arXiv 2302.10429), Algorithm 1, and the authors' suite for the
server's rule.

Symbols: x local model, a model received (anchor), h = -lambda g^ dual (prox-correction, kept at the
client), all [P]; lambda prox
parameter (penalty ||x - a||^2 / (2 lambda)), rho ascent radius, alpha share of the uphill gradient.

    g1 = grad(x);  g2 = grad(x + rho g1 / ||g1||), the same mini-batch
    d  = (1 - alpha) g1 + alpha g2 + (x - a + h) / lambda             then x <- x - eta d
    h <- h + (x_K - a)
    server:  x <- a + mean_S (x_K - a) + mean of h

The mean of h is over all N clients (mean_dual=everyone, the authors' suite and the default) or over
the round's (mean_dual=active, the paper's box, x_K + h sent as one vector, so that the aggregator
weighs the dual too; far less stable under partial participation). Over a graph there is no mean
over everyone: mean_dual=none is asked for.

Departures: alpha = 1 in the authors' suite; gradient clipping, where set, covers the prox term too
(the suite clips before part of it); lambda must exceed half the learning rate, below which the
local steps diverge on the prox term alone. With rho = 0 this is FedDyn (Acar et al., ICLR 2021)
with mu = 1 / lambda.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch

from fedsim.algorithms.base import COHORT, EVERYONE, ClientRule
from fedsim.algorithms.directions import TINY, Affine, norm
from fedsim.component import NonNegative, Positive, Probability, component
from fedsim.errors import require


@component
class FedSpeed(ClientRule):
    """Prox-corrected client with an uphill gradient (Sun et al. 2023).

    radius: rho; merge: alpha in [0, 1]; prox: lambda; mean_dual: whose duals the server adds.
    """

    broadcasts: ClassVar[bool | tuple[str, ...]] = False  # the mean dual stays at the server

    radius: NonNegative = 0.1
    merge: Probability = 1.0
    prox: Positive = 10.0
    mean_dual: Literal["everyone", "active", "none"] = "everyone"

    def check(self, rate, place):
        meant = place == "server" or self.mean_dual != "everyone"
        require(
            meant,
            "client.mean_dual",
            self.mean_dual,
            "a mean over all clients exists only at a server; over a graph accepted are none and"
            " active",
        )
        accepted = (
            f"more than half the learning rate (local.rate={rate}); up to it the prox term alone"
            " diverges"
        )
        require(self.prox > rate / 2, "client.prox", self.prox, accepted)

    @property
    def pull(self):
        return 1 / self.prox

    @property
    def channels(self):
        return (
            {"update": COHORT, "dual": EVERYONE}
            if self.mean_dual == "everyone"
            else {"update": COHORT}
        )

    @property
    def same_as(self):  # the duals of the cohort change by their updates, so nothing more is sent
        return {"dual": "update"} if self.mean_dual == "everyone" else {}

    def init(self, x):
        return {"dual": torch.zeros_like(x)}

    def init_shared(self, x):
        return {"mean_dual": torch.zeros_like(x)} if self.mean_dual == "everyone" else {}

    def affine(self, anchor, state, shared):
        if self.radius and 0 < self.merge < 1:  # two gradients in one direction
            return None
        return Affine(
            radius=self.radius if self.merge else 0.0,
            pull=1 / self.prox,
            offset=(state["dual"] - anchor) / self.prox,
        )

    def direction(self, grad, x, anchor, state, shared):
        if self.affine(anchor, state, shared) is not None:
            return super().direction(grad, x, anchor, state, shared)
        g = grad(x)
        peak = grad(torch.addcmul(x, g, self.radius / (norm(g) + TINY)))
        pull = (x - anchor).add_(state["dual"])
        # (1 - alpha) g1 + alpha g2 + pull / lambda
        return torch.lerp(g, peak, self.merge).add_(pull, alpha=1 / self.prox)

    def finish(self, x, anchor, state, shared, info):
        update = x - anchor
        dual = state["dual"] + update
        return {"update": update + dual if self.mean_dual == "active" else update}, {"dual": dual}

    def absorb(self, shared, mixed, info):
        if self.mean_dual != "everyone":
            return shared, None
        # The mean of h moves by what the cohort added to theirs
        mean_dual = shared["mean_dual"] + mixed["dual"]
        return {"mean_dual": mean_dual}, mean_dual
