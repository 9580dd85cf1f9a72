"""FedProx: local steps with a pull back to the model received.

Source: Li et al., "Federated Optimization in Heterogeneous Networks", MLSys 2020.

Symbols: x local model, a model received (anchor), both [P]; mu strength of the pull (penalty mu/2
||x - a||^2).

    d = grad(x) + mu (x - a)                                          then x <- x - eta d
    server:  as FedAvg

The pull is that of one client, so the same holds over a graph, towards the node's own model.

Departures: partial work is set elsewhere (local.epochs gives clients steps by their shards);
gradient clipping, where set, covers the pull too; from mu = 2 / eta on the local steps diverge on
the pull alone, which is refused. With mu = 0 this is FedAvg.
"""

from __future__ import annotations

from fedsim.algorithms.base import ClientRule
from fedsim.algorithms.directions import Affine
from fedsim.component import NonNegative, component
from fedsim.errors import require


@component
class FedProx(ClientRule):
    """Local SGD with a prox term (Li et al. 2020). strength: mu."""

    strength: NonNegative = 0.1

    def check(self, rate, place):
        accepted = (
            f"less than 2 / local.rate ({2 / rate:g}); from there on the prox term alone diverges"
        )
        require(self.strength * rate < 2, "client.strength", self.strength, accepted)

    @property
    def pull(self):
        return self.strength

    def affine(self, anchor, state, shared):
        return Affine(pull=self.strength, offset=-self.strength * anchor)
