"""Links: every receiver-sender pair that can carry a message. A server has one per client, a graph
one per directed edge and one per node to itself."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Links:
    """All links of a protocol, sorted by receiver, then sender.

    receivers, senders: counts R and N; receiver, sender: int64 [L]; weight: float64 [L], the
    nominal mixing weight when everybody is heard (a server: 1/N), summing to 1 for each receiver;
    own: bool [L], the links from a node to itself (none at a server, whose clients are no
    receivers).
    """

    receivers: int
    senders: int
    receiver: np.ndarray
    sender: np.ndarray
    weight: np.ndarray
    own: np.ndarray

    def __len__(self) -> int:
        return len(self.sender)


@dataclass(frozen=True)
class Heard:
    """The links that carried a message in one round.

    link: int64 [H], index into the Links; receiver, sender: int64 [H], ids; row: int64 [H],
    position of the receiver among the round's receivers; column: int64 [H], position of the sender
    in the cohort; weight: float64 [H], the mixing weight with absences already dealt with, summing
    to 1 for each receiver that heard anybody; own: bool [H], the links from a node to itself.
    """

    link: np.ndarray
    receiver: np.ndarray
    sender: np.ndarray
    row: np.ndarray
    column: np.ndarray
    weight: np.ndarray
    own: np.ndarray

    def __len__(self) -> int:
        return len(self.link)
