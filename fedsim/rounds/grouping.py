"""How a cohort is cut into groups, the units of work that a round hands to its workers."""

from __future__ import annotations

import numpy as np
import torch

from fedsim.rounds.jobs import Task
from fedsim.rounds.kernel_choice import WORTH_A_CALL, clients_per_call
from fedsim.training.batches import local_steps


class Grouping:
    """Cuts cohorts by a fixed rule of cohort, shards and model, so that the sums of groups, and
    with them the bits of a run, do not depend on how many workers there are.

    chunk: clients trained in one call.
    """

    def __init__(self, task: Task) -> None:
        self.task, self.sizes = task, task.shards.sizes
        self.chunk = clients_per_call(task.module, task.local, task.device)

    def examples(self, cohort: np.ndarray) -> np.ndarray:
        """How many examples each client's local steps take together, int64 [S]."""
        sizes = self.sizes[cohort]
        return local_steps(sizes, self.task.local) * np.minimum(sizes, self.task.local.batch_size)

    def groups(self, cohort: np.ndarray) -> list[np.ndarray]:
        """Positions in a cohort [S] by group: in order where all clients take as many steps, else
        so that clients of a chunk take about as many, and no group has more than twice its share to
        do, which one worker would still be at when the others are done. There are more groups the
        more there is to do, and 2, 4, 8 or 16 if they can and clients are alike, of which so many
        workers have equal shares."""
        size, steps = len(cohort), local_steps(self.sizes[cohort], self.task.local)
        if not size:
            return []
        count = self._count(cohort)
        if steps.min() == steps.max():
            return np.array_split(np.arange(size), count)
        each = -(-size // (self.chunk * count))
        chunks = np.array_split(np.argsort(-steps, kind="stable"), each * count)
        groups = [np.concatenate(chunks[group::count]) for group in range(count)]
        return self._halved(groups, self.examples(cohort), count)

    def _count(self, cohort: np.ndarray) -> int:
        size, worth = len(cohort), WORTH_A_CALL[torch.device(self.task.device).type]
        work = int(self.examples(cohort).sum()) * self.task.layout.size
        calls = max(-(-size // self.chunk), work // worth)
        return min(self.task.local.groups, 1 << (calls - 1).bit_length(), size)

    def _halved(self, groups: list[np.ndarray], work: np.ndarray, count: int) -> list[np.ndarray]:
        """The groups, the heaviest cut in two while it has more than twice its share."""
        while len(groups) < self.task.local.groups:
            heaviest = max(range(len(groups)), key=lambda group: work[groups[group]].sum())
            share = work[groups[heaviest]].sum() * count
            if len(groups[heaviest]) == 1 or share <= 2 * work.sum():
                break
            groups[heaviest : heaviest + 1] = np.array_split(groups[heaviest], 2)
        return groups
