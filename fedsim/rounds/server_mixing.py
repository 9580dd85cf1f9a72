"""How a server mixes what a cohort sent, and steps: by sums that workers formed, or from rows."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from fedsim.engine.base import Session
from fedsim.rounds.grouping import Grouping
from fedsim.rounds.jobs import SumJob, Task
from fedsim.rounds.receiver_step import advance, merged_rows
from fedsim.rounds.receivers import Receivers
from fedsim.rounds.screening import Diverged
from fedsim.rounds.weighing import Weighed


class ServerMixing:
    """One receiver. Sums and rows give the same bits: in both each group gives one float64 sum per
    channel, and these are added in order."""

    def __init__(
        self, task: Task, session: Session, receivers: Receivers, grouping: Grouping
    ) -> None:
        self.task, self.session, self.receivers = task, session, receivers
        self.grouping = grouping

    def mix(self, weighed: Weighed, groups: int) -> dict[str, Tensor]:
        """The weighted means per channel, float32 [1, length]. groups: so many sums were formed
        while they trained, which counts only where messages were not kept as rows."""
        if not self.task.rows:
            return self._total(groups)
        merges = self.task.aggregator.rows  # it sees single updates
        names = [name for name in weighed.matrices if not (merges and name == "update")]
        mixed = self._total(self._sum(weighed, names))
        if merges:
            updates = self.session.arena["message/update"][: len(weighed.tick.cohort)]
            weights = weighed.at_server()["update"]
            given = torch.from_numpy(updates), weights, weighed.info, 0, weighed.tick.cohort
            mixed["update"] = merged_rows(self.task.aggregator, *given).unsqueeze(0)
        return mixed

    def step(self, weighed: Weighed, mixed: dict[str, Tensor]) -> None:
        """Write the next model. Raises Diverged."""
        task, arena, side = self.task, self.session.arena, self.receivers.side
        base = torch.from_numpy(arena[self.receivers.models].copy())
        correction = task.correction
        own = None if correction is None else correction.statistics(base, task.layout)
        heard = torch.full((1, 1), len(weighed.tick.cohort) > 0)
        if not advance(task, arena, (side, side), base, mixed, own, heard, weighed.info):
            what = f"round {weighed.tick.round}: the server's next model is not finite"
            raise Diverged(f"{what}; lower local.rate or aggregator.rate")

    def _sum(self, weighed: Weighed, names: list[str]) -> int:
        """Form the groups' sums of rows; how many groups there are."""
        weights = weighed.at_server()
        groups = self.grouping.groups(weighed.tick.cohort) if names else []
        jobs = [
            SumJob(at, {name: weights[name][at] for name in names}, group)
            for group, at in enumerate(groups)
        ]
        self.session.run(jobs)
        return len(groups)

    def _total(self, groups: int) -> dict[str, Tensor]:
        """The groups' sums, added in order, float32 [1, length] per channel."""
        mixed = {}
        for channel, length in self.task.channels.items():
            total = np.zeros(length)
            for group in range(groups):
                total += self.session.arena[f"partial/{channel}"][group]
            mixed[channel] = torch.from_numpy(total.astype(np.float32)).unsqueeze(0)
        return mixed
