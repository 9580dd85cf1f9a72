"""Synchronous gossip: every active node trains, sends to its active neighbours and mixes what it
heard."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from scipy.sparse import csr_array

from fedsim.algorithms.base import Place
from fedsim.component import component
from fedsim.errors import require
from fedsim.network.links import Heard, Links
from fedsim.network.mixing import Mixing
from fedsim.network.topology import Topology
from fedsim.protocols.base import Payload, Plan, Protocol, Tick, equal_weights


@component
class Gossip(Protocol):
    """Every node holds a model and mixes with its neighbours.

    order: adapt_then_combine mixes the trained models (local SGD on a graph); combine_then_adapt
    mixes the models as they were and adds the node's own update (D-PSGD), where an aggregator has
    nothing to weigh: those that differ in their weights alone give the same models; same_start: all
    nodes start from one initialisation, or each from its own.
    """

    place: ClassVar[Place] = "graph"

    order: Literal["adapt_then_combine", "combine_then_adapt"] = "adapt_then_combine"
    same_start: bool = True

    @property
    def combine_first(self) -> bool:
        return self.order == "combine_then_adapt"

    def bind(self, clients: int, topology, mixing, seed: int, members: int | None = None) -> Plan:
        require(
            topology is not None,
            "topology",
            None,
            "protocol=gossip needs a topology, such as topology=ring or topology=random_regular",
        )
        what = (
            f"{type(mixing).__name__} weights need a graph whose links carry both ways; use"
            " mixing=uniform, or algorithm=push_sum"
        )
        require(mixing.directed or not topology.directed, "mixing", type(mixing).__name__, what)
        return GossipPlan(clients, topology, mixing, self.combine_first, seed)


class GossipPlan(Plan):
    def __init__(
        self, nodes: int, topology: Topology, mixing: Mixing, combine_first: bool, seed: int
    ) -> None:
        self.receivers, self.topology, self.mixing, self.combine_first, self.seed = (
            nodes,
            topology,
            mixing,
            combine_first,
            seed,
        )
        first = topology.adjacency(nodes, seed, 0)  # refused here if it cannot be drawn
        self.graph_links = mixing.links(first) if topology.fixed else None
        everyone, ones = np.arange(nodes), np.ones(nodes)
        self.own_links = Links(nodes, nodes, everyone, everyone, ones, ones.astype(bool))
        self.links = self.own_links if combine_first else self.graph_links

    def tick(self, round: int, cohort: np.ndarray) -> Tick:
        links = self.graph_links or self.mixing.links(
            self.topology.adjacency(self.receivers, self.seed, round)
        )
        active = np.zeros(self.receivers, bool)
        active[cohort] = True
        position = np.cumsum(active) - 1  # of a node in the cohort
        carried = active[links.receiver] & active[links.sender]
        heard = self._heard(links, carried, position, self.mixing.hear(links, carried))
        size = len(cohort)
        base = csr_array(
            (heard.weight.astype(np.float32), (heard.row, heard.sender)),
            shape=(size, self.receivers),
        )
        others = equal_weights(heard.row[~heard.own], heard.column[~heard.own], (size, size))
        if self.combine_first:
            own = active[self.own_links.sender]
            links, heard = self.own_links, self._heard(self.own_links, own, position, np.ones(size))
        return Tick(round, cohort, cohort, cohort, links, heard, base, others, cohort)

    @staticmethod
    def _heard(
        links: Links, carried: np.ndarray, position: np.ndarray, weight: np.ndarray
    ) -> Heard:
        at = np.flatnonzero(carried)
        receiver, sender = links.receiver[at], links.sender[at]
        return Heard(
            at, receiver, sender, position[receiver], position[sender], weight, links.own[at]
        )

    def traffic(self, tick: Tick, payload: Payload, merged: bool) -> tuple[int, int]:
        messages = tick.others.nnz
        channels = sum(size for name, size in payload.channels.items() if name != "update")
        update = 0 if self.combine_first or merged else payload.channels["update"]
        sent = messages * (payload.model + update + channels)
        return sent, sent
