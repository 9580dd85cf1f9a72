"""How much a node gives to each neighbour's message and to itself, when all arrive and when some do not."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sparse

from fedsim.component import Fraction, component
from fedsim.links import Links


class Mixing:
    """Mixing weights on a graph; rows of the mixing matrix sum to 1.

    A subclass gives the nominal weights of the links between two nodes; a node keeps the rest, and also what does not arrive.
    """

    def neighbour_weights(self, receiver_degree: np.ndarray, sender_degree: np.ndarray) -> np.ndarray:
        """Nominal weights of the links between two nodes: float64 [E], from the degrees at both ends, int64 [E] each."""
        raise NotImplementedError("a mixing gives weights")

    def links(self, adjacency: sparse.csr_array) -> Links:
        """One link per directed edge and one per node to itself. adjacency: bool [N, N], symmetric, no diagonal."""
        nodes = adjacency.shape[0]
        degree = np.diff(adjacency.indptr).astype(np.int64)
        closed = (adjacency + sparse.eye_array(nodes, dtype=bool, format="csr")).tocsr()
        closed.sort_indices()
        receiver = np.repeat(np.arange(nodes), degree + 1)
        sender = closed.indices.astype(np.int64)
        own = receiver == sender
        weight = self.neighbour_weights(degree[receiver], degree[sender])
        return Links(nodes, nodes, receiver, sender, _keep_rest(weight, receiver, own, nodes), own)

    def hear(self, links: Links, carried: np.ndarray) -> np.ndarray:
        """Weights of the links that carried, float64 [carried.sum()], summing to 1 for each active receiver: weight that does not arrive
        goes to the receiver itself. carried: bool [L]; a node's own link is carried where it is active, and a link to an inactive node
        that is carried all the same is a ValueError."""
        receiver, own = _check(links, carried)
        return _keep_rest(links.weight[carried], receiver, own, links.receivers)


@component
class Metropolis(Mixing):
    """1 / (1 + max(d_i, d_j)) for each neighbour j of i (Metropolis-Hastings). Symmetric and doubly stochastic, also when links fail in
    both directions at once."""

    def neighbour_weights(self, receiver_degree: np.ndarray, sender_degree: np.ndarray) -> np.ndarray:
        return 1.0 / (1 + np.maximum(receiver_degree, sender_degree))


@component
class Uniform(Mixing):
    """1 / (d_i + 1) for each neighbour and itself. Doubly stochastic on regular graphs only: elsewhere the average drifts towards
    nodes of high degree."""

    def neighbour_weights(self, receiver_degree: np.ndarray, sender_degree: np.ndarray) -> np.ndarray:
        return 1.0 / (1 + receiver_degree)


@component
class OwnShare(Mixing):
    """`share` for itself and (1 - share) / n for each of the n neighbours that were heard; 1 for itself if there is none
    (Tian et al. 2024, arXiv 2404.04616, there beta). Doubly stochastic on regular graphs only."""

    share: Fraction = 0.5

    def neighbour_weights(self, receiver_degree: np.ndarray, sender_degree: np.ndarray) -> np.ndarray:
        return (1.0 - self.share) / np.maximum(receiver_degree, 1)

    def hear(self, links: Links, carried: np.ndarray) -> np.ndarray:
        receiver, own = _check(links, carried)
        arrived = np.bincount(receiver[~own], minlength=links.receivers)[receiver]
        return _keep_rest((1.0 - self.share) / np.maximum(arrived, 1), receiver, own, links.receivers)


def _check(links: Links, carried: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(receiver, own) of the links that carried."""
    if carried.dtype != bool or carried.shape != (len(links),):
        raise ValueError(f"carried must be bool [{len(links)}], not {carried.dtype} {list(carried.shape)}")
    receiver, own = links.receiver[carried], links.own[carried]
    active = np.zeros(links.receivers, dtype=bool)
    active[receiver[own]] = True
    if not active[receiver].all():
        raise ValueError(f"node {receiver[~active[receiver]][0]} is inactive, yet a link to it carried a message")
    return receiver, own


def _keep_rest(weight: np.ndarray, receiver: np.ndarray, own: np.ndarray, nodes: int) -> np.ndarray:
    """The weights [L] with each own link's replaced by what the receiver's other links leave of 1."""
    given = np.bincount(receiver, np.where(own, 0.0, weight), minlength=nodes)
    return np.where(own, 1.0 - given[receiver], weight)
