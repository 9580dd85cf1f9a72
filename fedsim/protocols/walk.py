"""Rounds on a walk: tokens carry models over a graph, and whoever holds one trains it."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from scipy.sparse import csr_array

from fedsim.algorithms.base import Place
from fedsim.component import NonNegative, NonNegativeInt, OpenProbability, PositiveInt, component
from fedsim.errors import require
from fedsim.network.links import Heard, Links
from fedsim.network.topology import Topology
from fedsim.protocols.base import Payload, Plan, Protocol, Tick
from fedsim.protocols.chain import Chain, Kernel

MAX_VISITS = 1 << 28  # of the numbers of visits held, one a token and node: 2 GB


@component
class Walk(Protocol):
    """Token SGD with a self-repellent random walk (SA-SRRW; Hu, Doshi, Eun 2024): see
    `fedsim.protocols.chain`.

    In every round each token's holder trains the token's model and passes it on: the paper's
    iteration, with as many steps as `local.steps` at a node. The step sizes of the model are
    `local.rate` times the schedule (`schedule=power` is the paper's).

    tokens: replicas, independent of each other; alpha: repellence, 0 is the base chain; exponent: a
    of the visits' step size (n + 1)^-a; kernel: repellent, or history_driven, for which a node asks
    one neighbour a step in place of all; start: the node where all tokens begin (null: each at a
    random node of its own); same_start: all tokens carry one initial model, or each its own.

    A token waits while its holder is absent. A move sends one model, with the vectors that follow
    it; staying sends nothing. The numbers of visits, one number each, that a holder asks of its
    neighbours are not counted as bytes.
    """

    place: ClassVar[Place] = "walk"

    tokens: PositiveInt = 1
    alpha: NonNegative = 5.0
    exponent: OpenProbability = 0.8
    kernel: Kernel = "repellent"
    start: NonNegativeInt | None = None
    same_start: bool = True

    def bind(self, clients: int, topology, mixing, seed: int, members: int | None = None) -> Plan:
        accepted = (
            "protocol=walk needs a topology that stays, such as topology=ring or"
            " topology=random_regular"
        )
        require(topology is not None, "topology", None, accepted)
        require(topology.fixed, "topology", type(topology).__name__, accepted)
        require(
            not topology.directed,
            "topology",
            type(topology).__name__,
            "a walk goes both ways; use an undirected graph",
        )
        what = "a walk mixes no models, and its base chain is Metropolis-Hastings; use mixing=none"
        require(mixing is None, "mixing", type(mixing).__name__, what)
        empty = clients - (clients if members is None else members)
        require(
            not empty,
            "partition",
            f"{empty} clients without data",
            "every node of a walk needs data to train on",
        )
        require(
            self.start is None or self.start < clients,
            "protocol.start",
            self.start,
            f"a node, 0 to {clients - 1}, or null",
        )
        most = (
            f"at most {MAX_VISITS // clients:,} for {clients:,} clients: each keeps a number for"
            " every node"
        )
        require(self.tokens * clients <= MAX_VISITS, "protocol.tokens", self.tokens, most)
        return WalkPlan(self, clients, topology, seed)


class WalkPlan(Plan):
    """Moves are planned with a tick and made when the next round is planned, so that a round can be
    planned again, with fewer holders.

    chain: where the tokens are before the moves planned; planned: (round, tokens, nodes they go
    to).
    """

    links: Links

    def __init__(self, settings: Walk, clients: int, topology: Topology, seed: int) -> None:
        self.receivers, self.clients = settings.tokens, clients
        adjacency = topology.adjacency(clients, seed)
        self.chain = Chain(
            adjacency,
            self.receivers,
            seed,
            settings.kernel,
            settings.alpha,
            settings.exponent,
            settings.start,
        )
        everyone, ones = np.arange(self.receivers), np.ones(self.receivers)
        self.links = Links(
            self.receivers, self.receivers, everyone, everyone, ones, ones.astype(bool)
        )
        none = np.zeros(0, np.int64)
        self.planned = -1, none, none

    def tick(self, round: int, cohort: np.ndarray) -> Tick:
        """cohort: clients that are there."""
        if round != self.planned[0]:
            self._move()
        present = np.zeros(self.clients, bool)
        present[cohort] = True
        tokens = np.flatnonzero(present[self.chain.position])
        self.planned = round, tokens, self.chain.draw(tokens, round)
        size = len(tokens)
        position, ones = np.arange(size), np.ones(size)
        base = csr_array(
            (ones.astype(np.float32), (position, tokens)), shape=(size, self.receivers)
        )
        heard = Heard(tokens, tokens, tokens, position, position, ones, ones.astype(bool))
        holders = self.chain.position[tokens]
        return Tick(
            round, holders, tokens, tokens, self.links, heard, base, csr_array((size, size)), tokens
        )

    def _move(self) -> None:
        _, tokens, nodes = self.planned
        self.chain.move(tokens, nodes)
        self.planned = -1, tokens[:0], nodes[:0]

    def traffic(self, tick: Tick, payload: Payload, merged: bool) -> tuple[int, int]:
        _, tokens, nodes = self.planned  # with this tick
        moves = int((nodes != self.chain.position[tokens])[np.isin(tokens, tick.receivers)].sum())
        return moves * (payload.model + payload.shared), moves * (payload.model + payload.shared)

    def state(self) -> dict[str, np.ndarray]:
        self._move()
        return self.chain.state()

    def restore(self, state: dict[str, np.ndarray]) -> None:
        self.planned = -1, self.planned[1][:0], self.planned[2][:0]
        self.chain.restore(state)
