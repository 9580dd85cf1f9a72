"""Directed graphs: a node that sends to another need not hear it.

Sources: the exponential graph of Assran et al., "Stochastic Gradient Push for Distributed Deep
Learning", ICML 2019 (arXiv 1811.10792); random receivers of Epidemic Learning (De Vos et al.,
NeurIPS 2023, EL-Local) and of gossip learning (Hegedus et al. 2019), where each node sends to so
many others.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from fedsim import rng
from fedsim.component import PositiveInt, component
from fedsim.errors import require
from fedsim.network.topology import Topology


@component
class Exponential(Topology):
    """Node i sends to i + 2^k (mod N), for every k with 2^k < N; with `rotate` in turn, one k a
    round, so that everybody sends to one and hears one. With halves for weights and N a power of
    two, log2(N) rounds give everybody the exact mean."""

    directed: ClassVar[bool] = True

    rotate: bool = True

    @property
    def fixed(self) -> bool:
        return not self.rotate

    def round_edges(self, nodes: int, seed: int, round: int) -> np.ndarray:
        require(nodes >= 2, "partition.clients", nodes, "at least 2 for the topology Exponential")
        hops = 2 ** np.arange((nodes - 1).bit_length())
        if self.rotate:
            hops = hops[[round % len(hops)]]
        ids = np.arange(nodes)
        return np.stack([np.tile(ids, len(hops)), (ids + hops[:, None]).ravel() % nodes], axis=1)


@component
class RandomOut(Topology):
    """Every node sends to `degree` others, all choices equally likely; how many it hears is left to
    chance.

    per_round: a fresh choice each round. Where the graph stays, one of a node's receivers is the
    next on a random cycle through all nodes and the others are chosen freely, so that everybody can
    reach everybody.
    """

    directed: ClassVar[bool] = True

    degree: PositiveInt = 2
    per_round: bool = False

    @property
    def fixed(self) -> bool:
        return not self.per_round

    def edge_list(self, nodes: int, seed: int) -> np.ndarray:
        require(
            self.degree < nodes,
            "topology.degree",
            self.degree,
            f"less than the number of clients, {nodes}",
        )
        random = rng.generator(seed, "receivers")
        first = np.zeros((nodes, 0), np.int64)
        if not self.per_round:
            cycle = random.permutation(nodes)
            first = np.empty((nodes, 1), np.int64)
            first[cycle, 0] = np.roll(cycle, -1)
        receivers = _others(nodes, self.degree, first, random)
        return np.stack([np.repeat(np.arange(nodes), self.degree), receivers.ravel()], axis=1)


def _others(nodes: int, count: int, chosen: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """`count` different others for each node, int64 [N, count], those in `chosen` [N, c] among
    them. Each further one is drawn as a rank among those not yet taken and then counted past those
    taken, the node itself included, in ascending order."""
    while chosen.shape[1] < count:
        taken = np.sort(np.concatenate([np.arange(nodes)[:, None], chosen], axis=1), axis=1)
        pick = random.integers(0, nodes - taken.shape[1], size=nodes)
        for column in taken.T:
            pick += pick >= column
        chosen = np.concatenate([chosen, pick[:, None]], axis=1)
    return chosen
