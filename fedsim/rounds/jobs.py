"""What stays the same for a whole run, and the jobs of a round. Plain arrays and dataclasses: this
is all that workers get.

Jobs never write what they read, so that a job can be run again: the receivers' arrays have two
sides, and a client's kept state is read from one row and written to another
(`fedsim.rounds.client_state`).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor, nn

from fedsim.algorithms.base import Aggregator, ClientRule, Correction, Place, RoundInfo, State
from fedsim.data.dataset import Dataset
from fedsim.data.shards import Shards
from fedsim.engine.arena import ArraySpec, Rows
from fedsim.parameters import Layout
from fedsim.rounds.weighted_sums import block_width
from fedsim.training.settings import LocalTraining

STATISTICS = "statistics"  # the channel of a correction
MEAN_MODEL = "mean_model"  # of the nodes of a graph
OUTPUT = "output"  # what a rule releases, where that is not the models themselves
CANDIDATES = "candidates"  # models that an aggregator judges
RULE, MEMORY, OPTIMIZER = "rule.", "memory.", "local."  # whose state a kept array is


def models(side: int) -> str:
    """Name of the array with the receivers' models of one side."""
    return f"models/{side}"


@dataclass(frozen=True)
class Task:
    """Everything constant in a run.

    clients: N; members: those with data; receivers: R (a server: 1); place: server, graph or walk;
    rows: whether messages are kept as rows (always, but at a server that only sums); combine_first:
    models are mixed as they were before training (a correction then belongs to the mixed model,
    before updates are added); attackers: bool [N], or None for nobody; poisoned: labels that
    training uses in place of the training split's, int64 [n], or None.
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
    place: Place
    rows: bool
    combine_first: bool
    seed: int
    device: str = "cpu"
    attackers: np.ndarray | None = None
    poisoned: np.ndarray | None = None

    @property
    def classification(self) -> bool:
        return self.dataset.task == "classification"

    @functools.cached_property
    def honest(self) -> np.ndarray:
        """Clients with data that do not attack, bool [N]: those whose models and data are what is
        measured."""
        held = self.shards.sizes > 0
        return held if self.attackers is None else held & ~self.attackers

    @property
    def sides(self) -> int:
        """Sides of the receivers' arrays. A server steps on the driver when all jobs are done, so
        it needs one."""
        return 1 if self.place == "server" else 2

    @property
    def keepers(self) -> int:
        """Who keeps state between rounds: clients, or the tokens of a walk."""
        return self.receivers if self.place == "walk" else self.clients

    @functools.cached_property
    def averages(self) -> bool:
        """Whether the receivers of a graph or walk do nothing with what they hear but add the
        average of the updates to that of the models. Then clients send trained models, and models
        are stored in blocks of columns."""
        if self.place == "server":
            return False
        vectors = self.rule.init_shared(torch.zeros(1, 1)) | self.aggregator.init_receiver(
            torch.zeros(1, 1)
        )
        absorbs = type(self.rule).absorb is not ClientRule.absorb
        return self.aggregator.adds_updates and not (
            self.aggregator.rows or self.correction is not None or absorbs or vectors
        )

    @functools.cached_property
    def channels(self) -> dict[str, int]:
        """Length of every channel."""
        lengths = dict.fromkeys(self.rule.channels, self.layout.size) | self.rule.lengths
        if self.correction is not None:
            lengths[STATISTICS] = self.correction.statistics(
                torch.zeros(1, self.layout.size), self.layout
            ).shape[-1]
        return lengths

    @functools.cached_property
    def broadcast(self) -> dict[str, int]:
        """Length of every shared vector that is sent with the model."""
        chosen, vectors = (
            self.rule.broadcasts,
            self.rule.init_shared(torch.zeros(1, self.layout.size)),
        )
        return {
            name: value.shape[-1]
            for name, value in vectors.items()
            if chosen is True or (chosen and name in chosen)
        }

    def fresh(self, anchor: Tensor) -> State:
        """What a client keeps before its first round, by name [C, length]."""
        parts = {RULE: self.rule.init(anchor), MEMORY: self.aggregator.init_memory(anchor)}
        if self.local.keeps_state:
            parts[OPTIMIZER] = self.local.init(anchor)
        return {
            prefix + name: value for prefix, part in parts.items() for name, value in part.items()
        }

    def arrays(self) -> dict[str, ArraySpec]:
        """The arrays of a run, by name. models/*, shared/*, receiver/*: by side, what receivers
        hold [R, length]; client/*: kept state by row; message/*: what the cohort sent [S, length],
        its update or trained model among it; partial/*: sums of the groups [V, length].
        """
        P, R, like = self.layout.size, self.receivers, torch.zeros(1, self.layout.size)
        cohort, block = max(self.clients, R), block_width(R, P) if self.averages else None
        specs = {}
        for side in range(self.sides):
            specs[models(side)] = ArraySpec((R, P), block=block)
            for kind, vectors in (
                ("shared", self.rule.init_shared(like)),
                ("receiver", self.aggregator.init_receiver(like)),
            ):
                specs |= {
                    f"{kind}/{side}/{name}": ArraySpec((R, value.shape[-1]))
                    for name, value in vectors.items()
                }
        if self.place != "server":
            specs[MEAN_MODEL] = ArraySpec((1, P))
        if self.releases:
            specs[OUTPUT] = ArraySpec((R, P))
        if self.aggregator.judges:
            specs[CANDIDATES] = ArraySpec((cohort, P), sparse=True)
        for name, value in self.fresh(like).items():
            specs[f"client/{name}"] = ArraySpec(
                (self.keepers + cohort, value.shape[-1]), sparse=True
            )
        for channel, length in self.channels.items():
            if self.rows:
                specs[self.message(channel)] = ArraySpec(
                    (cohort, length), sparse=True, block=block if channel == "update" else None
                )
            if self.place == "server":
                specs[f"partial/{channel}"] = ArraySpec((self.local.groups, length), "float64")
        return specs

    def message(self, channel: str) -> str:
        """Name of the array with what the cohort sent on a channel."""
        return f"message/{'model' if self.averages and channel == 'update' else channel}"

    @property
    def releases(self) -> bool:
        """Whether what is evaluated and released differs from the models that receivers hold."""
        return (
            type(self.rule).output is not ClientRule.output
            or type(self.aggregator).output is not Aggregator.output
        )


class RoundJob:
    """What all jobs of a round have; see `fedsim.engine.base.Job`."""

    products = 0
    where: ClassVar[str] = "in round {}"


@dataclass(frozen=True)
class TrainJob(RoundJob):
    """Train one group. clients, anchors (rows of the receivers' models they start from), columns
    (positions in the cohort), kept and keep (rows that their state is read from, -1: none yet, and
    written to): int64 [G]; weights: per channel float64 [G] for a sum into row `group` of the
    partials, or None to keep the messages as rows."""

    round: int
    rate: float
    side: int
    clients: np.ndarray
    anchors: np.ndarray
    columns: np.ndarray
    kept: np.ndarray
    keep: np.ndarray
    weights: dict[str, np.ndarray] | None
    group: int
    cost: float
    where: ClassVar[str] = "in the training of round {}"

    def reads(self, task: Task, arena) -> dict[str, Rows]:
        anchors = np.unique(self.anchors)
        shared = {f"shared/{self.side}/{name}": anchors for name in task.broadcast}
        known = np.unique(self.kept[self.kept >= 0])
        kept = {name: known for name in arena.specs if name.startswith("client/")}
        return {models(self.side): anchors, **shared, **kept}

    def writes(self, task: Task, arena) -> dict[str, Rows]:
        kept = {name: self.keep for name in arena.specs if name.startswith("client/")}
        if self.weights is None:
            return kept | {task.message(channel): self.columns for channel in task.channels}
        return kept | {
            f"partial/{channel}": slice(self.group, self.group + 1) for channel in task.channels
        }


@dataclass(frozen=True)
class SumJob(RoundJob):
    """Add rows of messages, weighted, into row `group` of the partials. columns: int64 [G];
    weights: per channel float64 [G]."""

    columns: np.ndarray
    weights: dict[str, np.ndarray]
    group: int
    cost: float = 1.0

    def reads(self, task: Task, arena) -> dict[str, Rows]:
        return {f"message/{channel}": self.columns for channel in self.weights}

    def writes(self, task: Task, arena) -> dict[str, Rows]:
        return {f"partial/{channel}": slice(self.group, self.group + 1) for channel in self.weights}


@dataclass(frozen=True)
class MixJob(RoundJob):
    """Mix for a block of receivers of a graph or walk. own: int64 [r], their positions in the
    cohort; base: [r, R]; merge: per channel [r, cohort]; anchors: int64 [cohort], the receivers
    that the senders started from; others: bool [r], whether a receiver heard anybody else; info: of
    these receivers."""

    side: int
    own: np.ndarray
    base: csr_array
    merge: dict[str, csr_array]
    anchors: np.ndarray
    others: np.ndarray
    info: RoundInfo
    cost: float = 1.0
    where: ClassVar[str] = "in the exchange of round {}"

    @property
    def receivers(self) -> np.ndarray:
        return self.info.receivers

    def _vectors(self, arena, side: int) -> dict[str, Rows]:
        return {
            name: self.receivers
            for name in arena.specs
            if name.startswith((f"shared/{side}/", f"receiver/{side}/"))
        }

    def reads(self, task: Task, arena) -> dict[str, Rows]:
        messages = {
            f"message/{name}": slice(0, matrix.shape[1]) for name, matrix in self.merge.items()
        }
        return {models(self.side): slice(None), **messages, **self._vectors(arena, self.side)}

    def writes(self, task: Task, arena) -> dict[str, Rows]:
        return {models(1 - self.side): self.receivers, **self._vectors(arena, 1 - self.side)}


@dataclass(frozen=True)
class AverageJob(RoundJob):
    """The next models of all receivers [r] where nothing but an average is asked for
    (`Task.averages`): some columns of rest @ models + merge @ trained models.

    rest: [r, R], None where it is 0, since models and updates have the same weights; merge: [r,
    cohort]; blocks, columns: of the stored models, and of each such block, with start and stop;
    finite: whether the trained models are, and so their averages.
    """

    side: int
    receivers: np.ndarray
    rest: csr_array | None
    merge: csr_array
    blocks: slice
    columns: slice
    finite: bool
    cost: float = 1.0
    where: ClassVar[str] = "in the exchange of round {}"

    @property
    def products(self) -> int:
        """Of a weight and a number, in all."""
        weights = self.merge.nnz + (0 if self.rest is None else self.rest.nnz)
        return (
            weights
            * (self.blocks.stop - self.blocks.start)
            * (self.columns.stop - self.columns.start)
        )

    def reads(self, task: Task, arena) -> dict[str, Rows]:
        sent = {task.message("update"): (self.blocks, slice(0, self.merge.shape[1]), self.columns)}
        return (
            sent
            if self.rest is None
            else sent | {models(self.side): (self.blocks, slice(None), self.columns)}
        )

    def writes(self, task: Task, arena) -> dict[str, Rows]:
        return {models(1 - self.side): (self.blocks, self.receivers, self.columns)}


@dataclass(frozen=True)
class EvaluateJob(RoundJob):
    """Evaluate models on examples of a split. models: name of the array, rows int64 [m]; examples:
    slice or int64 [n]; example_values: give each example's loss and hit instead of their sums."""

    models: str
    rows: np.ndarray
    split: str
    examples: slice | np.ndarray
    example_values: bool = False
    cost: float = 1.0
    where: ClassVar[str] = "in an evaluation after round {}"

    def reads(self, task: Task, arena) -> dict[str, Rows]:
        return {self.models: self.rows}

    def writes(self, task: Task, arena) -> dict[str, Rows]:
        return {}


Job = TrainJob | SumJob | MixJob | AverageJob | EvaluateJob
