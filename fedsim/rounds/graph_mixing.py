"""How the nodes of a graph, or the tokens of a walk, mix what they heard, and step: by rows, on
workers."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import torch
from scipy.sparse import csr_array

from fedsim.algorithms.base import Aggregator, RoundInfo
from fedsim.engine.base import Session
from fedsim.rounds.jobs import AverageJob, MixJob, Task
from fedsim.rounds.receivers import Receivers
from fedsim.rounds.screening import Diverged
from fedsim.rounds.weighing import Weighed
from fedsim.rounds.weighted_sums import compact, shares

Jobs = list[MixJob] | list[AverageJob]


class GraphMixing:
    """N receivers. `mix` cuts the work into jobs, each of which mixes and steps a block of
    receivers or of columns; `step` runs them, and takes over what they wrote."""

    def __init__(self, task: Task, session: Session, receivers: Receivers) -> None:
        self.task, self.session, self.receivers = task, session, receivers

    def mix(self, weighed: Weighed, groups: int) -> Jobs:
        """The jobs of a round; none where no receiver steps."""
        if not len(weighed.tick.receivers):
            return []
        weights = {
            channel: matrix.astype(np.float32).tocsr()
            for channel, matrix in weighed.matrices.items()
        }
        if self.task.averages:
            return self._averages(weighed, weights["update"])
        return self._blocks(weighed, weights)

    def step(self, weighed: Weighed, mixed: Jobs) -> None:
        """Write the next models. Raises Diverged."""
        if not all(self.session.run(mixed)):
            what = f"round {weighed.tick.round}: the next model of a node is not finite"
            raise Diverged(f"{what}; lower local.rate or aggregator.rate")
        self.receivers.settle(weighed.tick.receivers)

    def _averages(self, weighed: Weighed, merge: csr_array) -> list[AverageJob]:
        """base @ models + merge @ updates, where an update is a trained model without that it
        started from: by columns, of all receivers."""
        tick, base = weighed.tick, weighed.tick.base.tocsr()
        start = csr_array((merge.data, tick.anchors[merge.indices], merge.indptr), shape=base.shape)
        rest = base - start
        given = tick.receivers, compact(rest) if rest.nnz else None, compact(merge)
        # After `encode` the norms are not those of what was sent
        encodes = type(self.task.aggregator).encode is not Aggregator.encode
        known = (weighed.reports.norms, merge.data, base.data)
        finite = not encodes and all(bool(np.isfinite(part).all()) for part in known)
        side = self.receivers.side
        return [AverageJob(side, *given, *part, finite) for part in self._columns()]

    def _blocks(self, weighed: Weighed, weights: dict[str, csr_array]) -> list[MixJob]:
        """Everything else, by blocks of receivers."""
        tick, side = weighed.tick, self.receivers.side
        others = np.diff(tick.others.tocsr().indptr) > 0
        position = np.arange(len(tick.receivers))
        jobs = []
        for rows in np.array_split(position, min(self.task.local.groups, len(position))):
            merge = {channel: matrix[rows] for channel, matrix in weights.items()}
            given = tick.base[rows], merge, tick.anchors, others[rows], _of(weighed.info, rows)
            jobs.append(MixJob(side, rows, *given))
        return jobs

    def _columns(self) -> list[tuple[slice, slice]]:
        """All columns of the receivers' models in shares: blocks, and columns of each."""
        blocks, _, columns = self.session.arena.specs[self.receivers.models].stored
        groups = self.task.local.groups
        if blocks == 1:
            return [(slice(0, 1), share) for share in shares(columns, groups)]
        ends = np.linspace(0, blocks, min(groups, blocks) + 1).astype(int).tolist()
        return [(slice(*pair), slice(0, columns)) for pair in itertools.pairwise(ends)]


def _of(info: RoundInfo, rows: np.ndarray) -> RoundInfo:
    """The part of a round's information that belongs to some of its receivers."""
    heard = info.heard[torch.from_numpy(rows)]
    return replace(info, receivers=info.receivers[rows], heard=heard)
