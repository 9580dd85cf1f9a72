"""FedSAM: local steps along the gradient at a point uphill (sharpness-aware minimisation at the
clients).

Source: Qu et al., "Generalized Federated Learning via Sharpness Aware Minimization", ICML 2022
(FedSAM and MoFedSAM), in the form of the FL-Simulator suite.

Symbols: x local model [P]; rho ascent radius.

    g  = grad(x);  g+ = grad(x + rho g / ||g||), the same mini-batch     then x <- x - eta g+
    server:  as FedAvg

Nothing but the client's own gradients is used, so it runs over a graph as well. A step costs two
gradients.

Departures: 1e-7 is added to the norm. With rho = 0 this is FedAvg.
"""

from __future__ import annotations

from fedsim.algorithms.base import ClientRule
from fedsim.algorithms.directions import Affine
from fedsim.component import NonNegative, component


@component
class FedSam(ClientRule):
    """Local sharpness-aware steps (Qu et al. 2022). radius: rho."""

    radius: NonNegative = 0.1

    def affine(self, anchor, state, shared):
        return Affine(radius=self.radius)
