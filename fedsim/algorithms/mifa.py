"""MIFA: every client's last update counts in every round.

Source: Gu et al., "Fast Federated Learning in the Presence of Arbitrary Device Unavailability",
NeurIPS 2021 (arXiv 2106.04159), as in the baselines of Wang & Ji, ICLR 2024 (official code).

    y_i <- D_i for i in S;   x <- x + eta * sum over all i of y_i / N

Symbols: D_i update [P]; y_i the update that client i sent last [P], zero before its first; S the
cohort; N clients with data.

Here a client sends D_i - y_i and remembers D_i, and the server keeps the mean of y, which moves by
sum_S (D_i - y_i) / N: the same numbers as from a server that stores N updates (up to rounding), and
the memory lies with the clients that have taken part. An empty round adds the mean again.

Departures: attackers forge the difference that is sent, and its effect stays, which a server that
stores updates would forget at their next turn. Over a graph a neighbour that was absent would miss
a difference for good, so that MIFA needs a server.
"""

from __future__ import annotations

import torch

from fedsim.algorithms.base import Aggregator, Reports
from fedsim.component import Positive, component
from fedsim.errors import require
from fedsim.network.links import Heard, Links


@component
class RemembersUpdates(Aggregator):
    """Clients send the difference to the update they sent last; the server keeps the mean of the
    last updates of all clients. rate: global learning rate eta."""

    rate: Positive = 1.0

    def check(self, place):
        accepted = (
            "remembers the clients' last updates, and nodes that were absent would miss what"
            " changed; use protocol=server"
        )
        require(place == "server", "aggregator", type(self).__name__, accepted)

    def bind(self, setting):
        again = [*setting.rule.same_as, *(["update"] if setting.rule.absorbs_update else [])]
        accepted = (
            f"gets no mean of the round's updates to use as {again} where {type(self).__name__}"
            " sends their differences to those before"
        )
        require(not again, "client", type(setting.rule).__name__, accepted)
        return self

    def init_memory(self, x):
        return {"update": torch.zeros_like(x)}

    def encode(self, messages, memory):
        update = messages["update"]
        return messages | {"update": update - memory["update"]}, {"update": update}

    def init_receiver(self, x):
        return {"mean_update": torch.zeros_like(x)}


@component
class Mifa(RemembersUpdates):
    """Mean of the last updates of all clients (Gu et al. 2021). rate: global learning rate eta."""

    def coefficients(self, links: Links, heard: Heard, reports: Reports, state):
        return links.weight[heard.link], state

    def step(self, base, mixed, state, info):
        mean = state["mean_update"] + mixed
        return base + self.rate * mean, {"mean_update": mean}
