"""FedSMOO: FedSpeed whose steps uphill are brought into agreement over clients by a second dual
variable.

Source: Sun et al., "Dynamic Regularized Sharpness Aware Minimization in Federated Learning", ICML
2023, in the form of the FL-Simulator suite.

Symbols, beyond those of `fedspeed.py`, all [P]: e step uphill, m_i its dual (kept at the client), s
the common step uphill (sent with the model); rho radius.

    g  = grad(x);  e = rho (g - m_i - s) / ||g - m_i - s||;  m_i <- m_i + e - s, in every local step
    g+ = grad(x + e), the same mini-batch
    d  = g+ + (x - a + h) / lambda                                    then x <- x - eta d
    h <- h + (x_K - a);  sends x_K - a and m_i
    server:  model as in FedDyn;  s <- rho m / ||m||, m the mean of m_i over the cohort

Departures: m is mixed with the aggregator's weights, of which only the proportions count; a round
in which nobody was heard leaves s as it was; alpha (merge) as in FedSpeed; 1e-7 is added to the
norm of the step's direction. Over a graph (our extension, mean_dual=active or none) each node keeps
an s of its own, from the m_i it mixed. With rho = 0 this is FedDyn.
"""

from __future__ import annotations

from typing import ClassVar

import torch

from fedsim.algorithms.base import COHORT
from fedsim.algorithms.directions import TINY, norm
from fedsim.algorithms.fedspeed import FedSpeed
from fedsim.component import component


@component
class FedSmoo(FedSpeed):
    """FedSpeed with a common step uphill (Sun et al. 2023).

    radius: rho; merge: alpha; prox: lambda; mean_dual: whose duals the server adds.
    """

    broadcasts: ClassVar[bool | tuple[str, ...]] = ("ascent",)

    @property
    def channels(self):
        return super().channels | {"ascent": COHORT}

    def init(self, x):
        return super().init(x) | {"ascent": torch.zeros_like(x)}

    def init_shared(self, x):
        return super().init_shared(x) | {"ascent": torch.zeros_like(x)}

    def direction(self, grad, x, anchor, state, shared):
        g, common = grad(x), shared["ascent"]
        along = g - state["ascent"] - common
        step = along * (self.radius / (norm(along) + TINY))
        g = torch.lerp(g, grad(x + step), self.merge)
        return g + (x - anchor + state["dual"]) / self.prox, {
            **state,
            "ascent": state["ascent"] + step - common,
        }

    def finish(self, x, anchor, state, shared, info):
        messages, kept = super().finish(x, anchor, state, shared, info)
        return messages | {"ascent": state["ascent"]}, kept | {"ascent": state["ascent"]}

    def absorb(self, shared, mixed, info):
        absorbed, addition = super().absorb(shared, mixed, info)
        length = norm(mixed["ascent"])
        ascent = torch.where(
            length > 0, mixed["ascent"] * (self.radius / length.clamp_min(1e-30)), shared["ascent"]
        )
        return absorbed | {"ascent": ascent}, addition
