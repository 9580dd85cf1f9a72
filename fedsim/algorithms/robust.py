"""Coordinate median and trimmed mean: each coordinate by itself, whatever a minority of the senders
says.

Source: Yin et al., "Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates", ICML
2018 (arXiv 1803.01498).

    median         x <- x + eta * median of D_i over S
    trimmed mean   x <- x + eta * mean of what is left of D_i over S when the
                   k = floor(share |S|) least and greatest are cut off

Symbols: D_i updates of the senders heard [|S|, P]; medians and orders are taken for each
coordinate. With an even number the median is the mean of the two in the middle.

All senders count alike: coefficients are ignored, since an attacker would choose its own. Any
number of senders is enough to compute something: one gives its own update, and where share |S| is
below 1 nothing is cut, which is the plain mean. An empty round adds nothing. Over a graph (our
extension) D_i is a trained model of the closed neighbourhood less the receiver's own model before
training, so that with eta = 1 a node takes the median of the trained models, its own included.
Other channels of a client rule are averaged as always.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor

from fedsim.algorithms.base import Aggregator
from fedsim.component import Positive, component
from fedsim.errors import require


@component
class Robust(Aggregator):
    """An aggregator that needs the single updates of several senders. rate: global learning rate
    eta."""

    rows: ClassVar[bool] = True

    rate: Positive = 1.0

    def check(self, place):
        require(
            place != "walk",
            "aggregator",
            type(self).__name__,
            "compares several senders, and on a walk there is one at a time",
        )

    def step(self, base, mixed, state, info):
        return base + self.rate * mixed, state


@component
class Median(Robust):
    """Coordinate-wise median of the updates (Yin et al. 2018). rate: global learning rate eta."""

    def merge(self, updates, weights, info):
        return trimmed_mean(updates, (len(updates) - 1) // 2)


@component
class TrimmedMean(Robust):
    """Coordinate-wise trimmed mean of the updates (Yin et al. 2018). share: cut off at each end;
    rate: global learning rate eta."""

    share: Annotated[float, Field(ge=0, lt=0.5)] = 0.2

    def merge(self, updates, weights, info):
        cut = int(self.share * len(updates) + 1e-9)  # 0.29 * 100 is a little less than 29
        return trimmed_mean(updates, min(cut, (len(updates) - 1) // 2))


def trimmed_mean(updates: Tensor, cut: int) -> Tensor:
    """Mean [P] of the rows [H, P] that are left in each coordinate without the `cut` least and
    greatest."""
    return updates.sort(dim=0).values[cut : len(updates) - cut].mean(dim=0)
