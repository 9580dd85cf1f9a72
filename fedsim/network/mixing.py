"""How much a node gives to each neighbour's message and to itself, when all arrive and when some do
not."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
import scipy.sparse as sparse

from fedsim.component import Fraction, component
from fedsim.network.links import Links


class Mixing:
    """Mixing weights on a graph; rows of the mixing matrix sum to 1.

    A subclass gives the nominal weights of the links between two nodes; a node keeps the rest, and
    also what does not arrive. directed: whether the weights make sense where links carry one way
    only; column_stochastic: columns sum to 1 in place of rows, and a sender keeps what does not
    arrive elsewhere, so that nothing is lost; then only models that are divided by weights of their
    own (`ClientRule.scaled`) can be mixed.
    """

    directed: ClassVar[bool] = True
    column_stochastic: ClassVar[bool] = False

    def neighbour_weights(
        self, receiver_degree: np.ndarray, sender_degree: np.ndarray
    ) -> np.ndarray:
        """Nominal weights of the links between two nodes: float64 [E], from how many nodes the
        receiver hears and how many the sender sends to, int64 [E] each."""
        raise NotImplementedError("a mixing gives weights")

    def links(self, adjacency: sparse.csr_array) -> Links:
        """One link per directed edge and one per node to itself. adjacency: bool [N, N], receivers
        in rows, no diagonal."""
        nodes = adjacency.shape[0]
        heard = np.diff(adjacency.indptr).astype(np.int64)
        sent = np.bincount(adjacency.indices, minlength=nodes)
        closed = (adjacency + sparse.eye_array(nodes, dtype=bool, format="csr")).tocsr()
        closed.sort_indices()
        receiver = np.repeat(np.arange(nodes), heard + 1)
        sender = closed.indices.astype(np.int64)
        own = receiver == sender
        weight = self.neighbour_weights(heard[receiver], sent[sender])
        keeper = sender if self.column_stochastic else receiver
        return Links(nodes, nodes, receiver, sender, _keep_rest(weight, keeper, own, nodes), own)

    def hear(self, links: Links, carried: np.ndarray) -> np.ndarray:
        """Weights of the links that carried, float64 [carried.sum()], summing to 1 for each active
        receiver (column_stochastic: sender): weight that does not arrive goes to the receiver
        (sender) itself. carried: bool [L]; a node's own link is carried where it is active, and a
        link to an inactive node that is carried all the same is a ValueError."""
        receiver, own = _check(links, carried)
        keeper = links.sender[carried] if self.column_stochastic else receiver
        return _keep_rest(links.weight[carried], keeper, own, links.receivers)


def metropolis_weights(
    receiver_degree: np.ndarray, sender_degree: np.ndarray, offset: int = 1
) -> np.ndarray:
    """1 / (offset + max(d_i, d_j)), float64 [E] from degrees [E]: with offset 1 a node always keeps
    some of its own, with 0 these are the steps of a Metropolis-Hastings walk with uniform target.
    """
    return 1.0 / np.maximum(offset + np.maximum(receiver_degree, sender_degree), 1)


@component
class Metropolis(Mixing):
    """1 / (1 + max(d_i, d_j)) for each neighbour j of i (Metropolis-Hastings). Symmetric and doubly
    stochastic, also when links fail in both directions at once."""

    directed: ClassVar[bool] = False

    def neighbour_weights(
        self, receiver_degree: np.ndarray, sender_degree: np.ndarray
    ) -> np.ndarray:
        return metropolis_weights(receiver_degree, sender_degree)


@component
class Uniform(Mixing):
    """1 / (d_i + 1) for each neighbour and itself. Doubly stochastic on regular graphs only:
    elsewhere the average drifts towards nodes of high degree.

    over: what d_i counts: all neighbours, so that a node keeps what absent ones would have given,
    or those that were heard in the round.
    """

    over: Literal["neighbours", "heard"] = "neighbours"

    def neighbour_weights(
        self, receiver_degree: np.ndarray, sender_degree: np.ndarray
    ) -> np.ndarray:
        return 1.0 / (1 + receiver_degree)

    def hear(self, links: Links, carried: np.ndarray) -> np.ndarray:
        if self.over == "neighbours":
            return super().hear(links, carried)
        receiver, own = _check(links, carried)
        return _keep_rest(
            1.0 / (1 + _arrived(receiver, own, links.receivers)), receiver, own, links.receivers
        )


@component
class OwnShare(Mixing):
    """`share` for itself and (1 - share) / n for each of the n neighbours that were heard; 1 for
    itself if there is none (Tian et al. 2024, arXiv 2404.04616, there beta). Doubly stochastic on
    regular graphs only."""

    share: Fraction = 0.5

    def neighbour_weights(
        self, receiver_degree: np.ndarray, sender_degree: np.ndarray
    ) -> np.ndarray:
        return (1.0 - self.share) / np.maximum(receiver_degree, 1)

    def hear(self, links: Links, carried: np.ndarray) -> np.ndarray:
        receiver, own = _check(links, carried)
        arrived = _arrived(receiver, own, links.receivers)
        return _keep_rest(
            (1.0 - self.share) / np.maximum(arrived, 1), receiver, own, links.receivers
        )


@component
class Push(Mixing):
    """1 / (out + 1) of what a node has for each of the `out` nodes it sends to and for itself
    (push-sum). What a message would have carried to a node that does not hear it stays with the
    sender."""

    column_stochastic: ClassVar[bool] = True

    def neighbour_weights(
        self, receiver_degree: np.ndarray, sender_degree: np.ndarray
    ) -> np.ndarray:
        return 1.0 / (1 + sender_degree)


def _check(links: Links, carried: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(receiver, own) of the links that carried."""
    if carried.dtype != bool or carried.shape != (len(links),):
        raise ValueError(
            f"carried must be bool [{len(links)}], not {carried.dtype} {list(carried.shape)}"
        )
    receiver, own = links.receiver[carried], links.own[carried]
    active = np.zeros(links.receivers, dtype=bool)
    active[receiver[own]] = True
    if not active[receiver].all():
        raise ValueError(
            f"node {receiver[~active[receiver]][0]} is inactive, yet a link to it carried a message"
        )
    return receiver, own


def _arrived(receiver: np.ndarray, own: np.ndarray, nodes: int) -> np.ndarray:
    """How many others the receiver of each link heard, int64 [L]."""
    return np.bincount(receiver[~own], minlength=nodes)[receiver]


def _keep_rest(weight: np.ndarray, keeper: np.ndarray, own: np.ndarray, nodes: int) -> np.ndarray:
    """The weights [L] with each own link's replaced by what the other links of the same keeper [L]
    (the receiver or the sender of a link) leave of 1."""
    given = np.bincount(keeper, np.where(own, 0.0, weight), minlength=nodes)
    return np.where(own, 1.0 - given[keeper], weight)
