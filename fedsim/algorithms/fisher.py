"""Fisher-weighted merging: each parameter is averaged by how much each client's data say about it.

Source: Matena & Raffel, "Merging Models with Fisher-Weighted Averaging", NeurIPS 2022 (arXiv
2111.09832), equation 4.

Symbols: x model received, D_i update, F_i diagonal Fisher information of client i at its trained
model, all [P]; a_i the aggregator's weights.

    x <- x + sum_i a_i F_i D_i / sum_i a_i F_i           elementwise, F_i <- F_i / ||F_i|| + floor

Departures: every Fisher has the floor, not the first alone, so that where nobody's data say
anything the plain mean remains; F takes one more pass over the shard. What is sent besides D_i is
F_i and F_i D_i, because a server keeps sums. At a server only: over a graph the models that are
merged start from different points, and the difference to the mean would need all of them.
"""

from __future__ import annotations

from typing import ClassVar

from fedsim.algorithms.base import COHORT, ClientRule
from fedsim.algorithms.directions import norm
from fedsim.component import Positive, component
from fedsim.errors import require


@component
class FisherMerging(ClientRule):
    """Local SGD, merged by Fisher weights (Matena & Raffel 2022).

    floor: added to each client's normalised Fisher.
    """

    absorbs_update: ClassVar[bool] = True
    classifies: ClassVar[bool] = True

    floor: Positive = 1e-6

    def check(self, rate, place):
        require(
            place == "server",
            "client",
            "FisherMerging",
            "merges at a server only; use protocol=server",
        )

    @property
    def channels(self):
        return {"update": COHORT, "fisher": COHORT, "weighted": COHORT}

    def finish(self, x, anchor, state, shared, info):
        update, fisher = x - anchor, info.fisher(x)
        fisher = fisher / norm(fisher).clamp_min(1e-30) + self.floor
        return {"update": update, "fisher": fisher, "weighted": fisher * update}, state

    def absorb(self, shared, mixed, info):
        heard = info.heard > 0
        merged = mixed["weighted"] / mixed["fisher"].where(heard, 1.0)
        return shared, (merged - mixed["update"]).where(heard, 0.0)
