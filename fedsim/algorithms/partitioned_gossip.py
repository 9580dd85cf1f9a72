"""Partitioned gossip: every message carries one part of the model, and each part knows its age.

Source: Hegedus, Danner, Jelasity, "Decentralized Learning Works: An Empirical Comparison of Gossip
Learning and Federated Learning", 2021, and their "Gossip Learning as a Decentralized Alternative to
Federated Learning", DAIS 2019 (gossip learning: Ormandi et al. 2013).

Symbols: S parts of the flat vector [P], of equal size give or take one; a age of a part at a node,
in local steps, [N, S], 0 at first. After K local steps a node adds K to its ages, draws one part s,
and sends that part of its model and its age. A receiver of the parts s_j of models y_j with ages
b_j takes, for each part s that arrived,

    x_s <- (a_s x_s + sum b_j y_j,s) / (a_s + sum b_j);   a_s <- max(a_s, b_j)

and leaves the other parts as they are. `topology=random_out_per_round topology.degree=1` (the
preset) sends to one random node a round, as in the papers. With one part this is plain gossip
learning, whose weights are 1/2 each among two nodes of equal age.

Departures: rounds are synchronous, so that several parts may arrive at once and are then merged at
once (one by one they would weigh differently), and a node trains before it merges; learning rates
follow the schedule, not the ages. The mixing's weights and the aggregator's coefficients have no
part in it. Which part a message holds is drawn by (seed, round, sender); bytes are those of the
largest part and an age."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch

from fedsim import rng
from fedsim.algorithms.base import Aggregator, Reports
from fedsim.component import PositiveInt, component
from fedsim.errors import require
from fedsim.network.links import Heard, Links


@component
class PartitionedGossip(Aggregator):
    """Age-weighted merging of one random part of each model heard (Hegedus et al. 2019).

    parts: S.
    """

    rows: ClassVar[bool] = True

    parts: PositiveInt = 10

    def check(self, place):
        require(
            place == "graph",
            "aggregator",
            "PartitionedGossip",
            "nodes merge parts of each other's models; use protocol=gossip",
        )

    def sent(self, length):
        return -(-length // self.parts) + 1

    def init_links(self, links: Links) -> dict[str, np.ndarray]:
        return {"ages": np.zeros((links.receivers, self.parts), np.int64)}

    def coefficients(self, links: Links, heard: Heard, reports: Reports, state):
        """The share of a message in its part at its receiver; 1 for a receiver's own model."""
        ages, own = state["ages"], heard.own
        ages[heard.receiver[own]] += reports.steps[heard.column[own], None]
        part = self._parts(reports.seed, reports.round, heard.sender)
        age = np.where(own, 0, ages[heard.sender, part])
        cell = heard.receiver * self.parts + part
        total = ages.ravel() + np.bincount(cell, age, ages.size)
        weight = np.where(own, 1.0, age / np.maximum(total[cell], 1))
        np.maximum.at(ages, (heard.receiver, part), age)
        return weight, state

    def merge(self, updates, weights, info):
        own = torch.from_numpy(info.senders == info.receivers[0])
        trained = updates[own][0]
        merged, part = trained.clone(), self._parts(info.seed, info.round, info.senders)
        edges = np.linspace(0, len(trained), self.parts + 1).round().astype(np.int64)
        for message in np.flatnonzero(~own.numpy()).tolist():
            span = slice(edges[part[message]], edges[part[message] + 1])
            merged[span] += weights[message] * (updates[message, span] - trained[span])
        return merged

    def _parts(self, seed: int, round: int, senders: np.ndarray) -> np.ndarray:
        """Which part each sender sends, int64 [H]."""
        return (rng.uniform(seed, "part", round, senders) * self.parts).astype(np.int64)
