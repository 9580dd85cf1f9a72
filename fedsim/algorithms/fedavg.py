"""FedAvg: local SGD and averaging of updates.

Source: McMahan et al., AISTATS 2017; the paper's three forms for partial participation: Wang & Ji,
ICLR 2024, section 1.3 of the official code.

Symbols: D_i update of client i [P]; S the senders heard; n_i shard sizes; N clients; p_i
participation probabilities.

    weighting=size         x + eta * sum_S n_i D_i / sum_S n      (McMahan et al.)
    weighting=uniform      x + eta * sum_S D_i / |S|              ("average_participating")
    weighting=all          x + eta * sum_S D_i / N                ("average_all")
    weighting=known_prob   x + eta * sum_S D_i / (p_i N)          ("known_prob": p_i true)

An empty round leaves the model as it is. Over a graph (our extension) 1/|S| and 1/N become the
mixing weights with and without the weight of absent neighbours given to the receiver itself, `size`
weighs them by n_i and normalises at each receiver, and a node's own p is 1, since it acts only when
it takes part.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from fedsim.algorithms.base import Aggregator, ClientRule, Reports
from fedsim.component import Positive, component
from fedsim.network.links import Heard, Links


@component
class Sgd(ClientRule):
    """Local SGD: the client of FedAvg."""


@component
class FedAvg(Aggregator):
    """Weighted mean of the updates (McMahan et al. 2017).

    weighting: see the head of this file; rate: global learning rate eta.
    """

    weighting: Literal["size", "uniform", "all", "known_prob"] = "size"
    rate: Positive = 1.0

    def coefficients(self, links: Links, heard: Heard, reports: Reports, state):
        if self.weighting == "size":
            weight = heard.weight * reports.examples[heard.column]
            weight = weight / np.bincount(heard.receiver, weight, links.receivers)[heard.receiver]
        elif self.weighting == "uniform":
            weight = heard.weight
        else:
            weight = links.weight[heard.link]
            if self.weighting == "known_prob":
                weight = weight / np.where(heard.own, 1.0, reports.probability[heard.column])
        return weight, state

    @property
    def adds_updates(self):
        return self.rate == 1

    def step(self, base, mixed, state, info):
        return base + self.rate * mixed, state
