"""FedAU: unknown participation probabilities, estimated from the gaps between participations.

Source: Wang & Ji, "A Lightweight Method for Tackling Unknown Participation Statistics in Federated
Averaging", ICLR 2024 (arXiv 2306.03401), Algorithms 1 and 2.

    x <- x + eta * sum_{i in S} w_i D_i / N

Symbols: D_i update [P]; N clients; K cutoff. Per link: w weight (starts at 1), m intervals
recorded, t_last the tick that closed the last interval (-1 at first). An interval closes when the
client is heard or when it reaches the cutoff; w is the mean of closed intervals, and an interval
counts only in later rounds. The form here touches the links that are heard and no others; it equals
the paper's at every participation.

Departures: an empty round adds nothing (the official code fails). Over a graph (our extension) a
receiver r keeps counters for each link, adds sum_j w_rj omega_rj D_j with its nominal mixing
weights w_rj, and counts its own active rounds only, so that its own weight is 1.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from fedsim.algorithms.base import Aggregator, Reports
from fedsim.component import Positive, PositiveInt, component
from fedsim.network.links import Heard, Links


@component
class FedAU(Aggregator):
    """Weights each update by its client's mean gap between participations (Wang & Ji 2024).

    cutoff: longest interval K that is recorded, in rounds (null: no cutoff); rate: global learning
    rate eta.
    """

    remembers_links: ClassVar[bool] = True

    cutoff: PositiveInt | None = None
    rate: Positive = 1.0

    def init_links(self, links: Links) -> dict[str, np.ndarray]:
        n = len(links)
        return {
            "omega": np.ones(n),
            "intervals": np.zeros(n, np.int64),
            "last": np.full(n, -1, np.int64),
            "clock": np.zeros(links.receivers, np.int64),
            "graph": np.array(links.own.any()),
        }

    def coefficients(self, links: Links, heard: Heard, reports: Reports, state):
        omega, intervals, last, clock = (
            state[name] for name in ("omega", "intervals", "last", "clock")
        )
        at, now = heard.link, clock[heard.receiver]
        w, m, since = omega[at], intervals[at], now - last[at]
        if self.cutoff is not None:
            # Intervals that the cutoff closed before this round
            closed = (since - 1) // self.cutoff
            w = np.where(closed > 0, (m * w + closed * self.cutoff) / np.maximum(m + closed, 1), w)
            m, since = m + closed, since - closed * self.cutoff
        sent = w
        omega[at], intervals[at], last[at] = (m * w + since) / (m + 1), m + 1, now
        # A server's clock runs every round, a node's when it acts
        clock[np.unique(heard.receiver) if state["graph"] else slice(None)] += 1
        return links.weight[at] * sent, state

    @property
    def adds_updates(self):
        return self.rate == 1

    def step(self, base, mixed, state, info):
        return base + self.rate * mixed, state
