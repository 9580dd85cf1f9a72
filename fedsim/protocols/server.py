"""Rounds at a server: one receiver that hears the cohort."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from fedsim.algorithms.base import Place
from fedsim.component import component
from fedsim.errors import require
from fedsim.network.links import Heard, Links
from fedsim.protocols.base import Payload, Plan, Protocol, Tick, equal_weights


@component
class Server(Protocol):
    """One server; the cohort starts from its model and sends messages to it."""

    place: ClassVar[Place] = "server"

    def bind(self, clients: int, topology, mixing, seed: int, members: int | None = None) -> Plan:
        require(
            topology is None,
            "topology",
            type(topology).__name__,
            "a server has no topology; leave it out or use protocol=gossip",
        )
        require(
            mixing is None,
            "mixing",
            type(mixing).__name__,
            "a server mixes no models; use mixing=none or protocol=gossip",
        )
        return ServerPlan(clients, clients if members is None else members)


class ServerPlan(Plan):
    receivers = 1

    def __init__(self, clients: int, members: int) -> None:
        everyone = np.arange(clients)
        zeros = np.zeros(clients, np.int64)
        self.links: Links = Links(
            1, clients, zeros, everyone, np.full(clients, 1 / members), np.zeros(clients, bool)
        )

    def tick(self, round: int, cohort: np.ndarray) -> Tick:
        size = len(cohort)
        zeros, columns = np.zeros(size, np.int64), np.arange(size)
        heard = Heard(
            cohort,
            zeros,
            cohort,
            zeros,
            columns,
            np.full(size, 1 / max(size, 1)),
            np.zeros(size, bool),
        )
        others = equal_weights(zeros, columns, (1, size))
        return Tick(
            round, cohort, zeros, np.zeros(1, np.int64), self.links, heard, None, others, cohort
        )

    def traffic(self, tick: Tick, payload: Payload, merged: bool) -> tuple[int, int]:
        size = len(tick.cohort)
        return size * sum(payload.channels.values()), size * (payload.model + payload.shared)
