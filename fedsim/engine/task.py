"""What stays the same for a whole run, and the jobs of a round. Plain arrays and dataclasses: this is all that workers get."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import nn

from fedsim.algorithms.base import Aggregator, ClientRule, Correction
from fedsim.data.dataset import Dataset
from fedsim.data.shards import Shards
from fedsim.engine.arena import ArraySpec, Rows
from fedsim.local.settings import LocalTraining
from fedsim.local.training import MOMENTUM
from fedsim.parameters import Layout

STATISTICS = "statistics"  # the channel of a correction
MODELS = ("models/0", "models/1")  # receivers' models; a graph writes the next ones beside the present ones
MEAN_MODEL = "mean_model"
SEEN = "client_seen"  # which clients have kept state


@dataclass(frozen=True)
class Task:
    """Everything constant in a run.

    clients: N; members: those with data; receivers: R (a server: 1); rows: whether messages are kept as rows (a graph) or only as sums (a
    server); combine_first: models are mixed as they were before training (a correction then belongs to the mixed model, before updates are
    added).
    """

    dataset: Dataset
    shards: Shards
    module: nn.Module
    layout: Layout
    rule: ClientRule
    aggregator: Aggregator
    correction: Correction | None
    local: LocalTraining
    clients: int
    members: int
    receivers: int
    rows: bool
    combine_first: bool
    seed: int
    device: str = "cpu"

    @property
    def classification(self) -> bool:
        return self.dataset.task == "classification"

    @functools.cached_property
    def channels(self) -> dict[str, int]:
        """Length of every channel."""
        lengths = dict.fromkeys(self.rule.channels, self.layout.size)
        if self.correction is not None:
            lengths[STATISTICS] = self.correction.statistics(torch.zeros(1, self.layout.size), self.layout).shape[-1]
        return lengths

    def arrays(self) -> dict[str, ArraySpec]:
        """The arrays of a run, by name. client/*: kept state [N, P]; shared/*, receiver/*: vectors at receivers [R, P];
        message/*: what the cohort sent [N, length]; partial/*: sums of the groups [V, length]."""
        P, like = self.layout.size, torch.zeros(1, self.layout.size)
        specs = {name: ArraySpec((self.receivers, P)) for name in (MODELS if self.rows else MODELS[:1])}
        if self.rows:
            specs[MEAN_MODEL] = ArraySpec((1, P))
        kept = list(self.rule.init(like)) + ([MOMENTUM] if self.local.keep_momentum else [])
        specs |= {f"client/{name}": ArraySpec((self.clients, P), sparse=True) for name in kept}
        if kept:
            specs[SEEN] = ArraySpec((self.clients,), "uint8")
        specs |= {f"shared/{name}": ArraySpec((self.receivers, P)) for name in self.rule.init_shared(like)}
        specs |= {f"receiver/{name}": ArraySpec((self.receivers, P)) for name in self.aggregator.init_receiver(like)}
        for channel, length in self.channels.items():
            if self.rows:
                specs[f"message/{channel}"] = ArraySpec((self.clients, length), sparse=True)
            else:
                specs[f"partial/{channel}"] = ArraySpec((self.local.groups, length), "float64")
        return specs


@dataclass(frozen=True)
class TrainJob:
    """Train one group. clients, anchors (rows of the receivers' models they start from), columns (positions in the cohort): int64 [G];
    weights: per channel float64 [G] for a sum into row `group` of the partials, or None to keep the messages as rows."""

    round: int
    rate: float
    models: str
    clients: np.ndarray
    anchors: np.ndarray
    columns: np.ndarray
    weights: dict[str, np.ndarray] | None
    group: int
    cost: float

    def reads(self, task: Task, arena) -> dict[str, Rows]:
        anchors = np.unique(self.anchors)
        shared = {name: anchors for name in arena.specs if name.startswith("shared/")}
        kept = {name: self.clients for name in arena.specs if name.startswith("client/") or name == SEEN}
        return {self.models: anchors, **shared, **kept}

    def writes(self, task: Task, arena) -> dict[str, Rows]:
        kept = {name: self.clients for name in arena.specs if name.startswith("client/") or name == SEEN}
        if self.weights is None:
            return kept | {f"message/{channel}": self.columns for channel in task.channels}
        return kept | {f"partial/{channel}": slice(self.group, self.group + 1) for channel in task.channels}


@dataclass(frozen=True)
class MixJob:
    """Mix for a block of receivers of a graph. receivers: int64 [r]; own: int64 [r], their positions in the cohort; base: [r, R];
    merge: per channel [r, cohort]; others: bool [r], whether a receiver heard anybody else."""

    models: str
    next_models: str
    receivers: np.ndarray
    own: np.ndarray
    base: csr_array
    merge: dict[str, csr_array]
    others: np.ndarray
    cost: float = 1.0

    def reads(self, task: Task, arena) -> dict[str, Rows]:
        vectors = {name: self.receivers for name in arena.specs if name.startswith(("shared/", "receiver/"))}
        messages = {f"message/{name}": slice(0, matrix.shape[1]) for name, matrix in self.merge.items()}
        return {self.models: slice(None), **messages, **vectors}

    def writes(self, task: Task, arena) -> dict[str, Rows]:
        vectors = {name: self.receivers for name in arena.specs if name.startswith(("shared/", "receiver/"))}
        return {self.next_models: self.receivers, **vectors}


@dataclass(frozen=True)
class EvaluateJob:
    """Evaluate models on examples of a split. models: array of that name, rows int64 [m]; examples: slice or int64 [n];
    example_values: give each example's loss and hit instead of their sums."""

    models: str
    rows: np.ndarray
    split: str
    examples: slice | np.ndarray
    example_values: bool = False
    cost: float = 1.0

    def reads(self, task: Task, arena) -> dict[str, Rows]:
        return {self.models: self.rows}

    def writes(self, task: Task, arena) -> dict[str, Rows]:
        return {}


Job = TrainJob | MixJob | EvaluateJob
