"""Who trains, who hears whom: a protocol turns a cohort into a tick, the plan of one round."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from scipy.sparse import csr_array

from fedsim.algorithms.base import Place
from fedsim.network.links import Heard, Links


@dataclass(frozen=True)
class Tick:
    """The plan of one round.

    cohort: clients that train, int64 [S], ascending, but on a walk, where it goes by token and a
    client may hold several; anchors: the receiver whose model each starts from [S]; receivers:
    those that step [r]; links: all links over which updates are merged; heard: those that carried;
    base: mixing matrix of the receivers' models [r, R], None: each its own; others: [r, S], equal
    weights over the other senders heard, rows of zeros where there are none; keepers: whose kept
    state each client trains with [S]: its own, or on a walk that of the token it holds."""

    round: int
    cohort: np.ndarray
    anchors: np.ndarray
    receivers: np.ndarray
    links: Links
    heard: Heard
    base: csr_array | None
    others: csr_array
    keepers: np.ndarray


@dataclass(frozen=True)
class Payload:
    """Bytes a message holds: model, vectors that follow the model to clients (shared), and each
    channel."""

    model: int
    shared: int
    channels: dict[str, int]


class Plan:
    """A protocol bound to a population."""

    receivers: int
    links: Links | None  # None: a fresh graph each round

    def tick(self, round: int, cohort: np.ndarray) -> Tick:
        raise NotImplementedError("a protocol plans ticks")

    def state(self) -> dict[str, np.ndarray]:
        """What the plan remembers between rounds."""
        return {}

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Go on from what `state` gave."""

    def traffic(self, tick: Tick, payload: Payload, merged: bool) -> tuple[int, int]:
        """Bytes clients sent and received in a tick. merged: updates are averaged with the weights
        of the models, so that one vector carries both."""
        raise NotImplementedError("a protocol counts bytes")


class Protocol:
    """Settings of a protocol.

    place: server, graph (clients are themselves the receivers) or walk (tokens are); same_start:
    whether all receivers start from one initial model; combine_first: whether models are mixed as
    they were before training.
    """

    place: ClassVar[Place]
    same_start: bool = True

    @property
    def combine_first(self) -> bool:
        return False

    def bind(self, clients: int, topology, mixing, seed: int, members: int | None = None) -> Plan:
        """Plan for N clients, of whom `members` hold data (None: all). Raises ConfigError for a
        topology or mixing that does not fit."""
        raise NotImplementedError("a protocol binds to a population")


def equal_weights(rows: np.ndarray, columns: np.ndarray, shape: tuple[int, int]) -> csr_array:
    """A matrix of this shape with 1/n at each (row, column), n the entries of the row."""
    counts = np.bincount(rows, minlength=shape[0])
    return csr_array((1.0 / counts[rows], (rows, columns)), shape=shape)
