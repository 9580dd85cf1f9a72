"""Between training and merging: clients that drop out, attackers, and updates that cannot be
used."""

from __future__ import annotations

import numpy as np
import torch

from fedsim.attacks.base import Attack
from fedsim.protocols.base import Plan, Tick
from fedsim.rounds.client_state import ClientState
from fedsim.rounds.cohort_training import Trained
from fedsim.rounds.failures import Failures
from fedsim.rounds.jobs import Task
from fedsim.rounds.receivers import Receivers


class Diverged(Exception):
    """A client's update, or the model made of them, cannot be used; the models are those of the
    round before."""


class Screening:
    """Applies the simulated failures and attacks, and the policy for what cannot be used."""

    def __init__(
        self, task: Task, receivers: Receivers, plan: Plan, failures: Failures, attack: Attack
    ) -> None:
        self.task, self.receivers, self.arena, self.plan = task, receivers, receivers.arena, plan
        self.failures, self.attack = failures, attack

    def present(self, tick: Tick) -> tuple[Tick, int]:
        """The tick of those who do not drop out, and how many do."""
        lost = self.failures.dropouts(self.task.seed, tick.round, tick.cohort)
        return (
            (self.plan.tick(tick.round, tick.cohort[~lost]), int(lost.sum()))
            if lost.any()
            else (tick, 0)
        )

    def screen(self, tick: Tick, trained: Trained, clients: ClientState) -> tuple[Tick, Trained]:
        """The tick, and what training left, of those whose updates are used; the others keep the
        state that they had. Raises Diverged."""
        usable = self.usable(tick, trained.norms)
        if usable.all():
            return tick, trained
        clients.release(trained.state_rows[~usable])
        return self.without(tick, usable), trained.only(usable)

    def usable(self, tick: Tick, norms: np.ndarray) -> np.ndarray:
        """Which updates are used, bool [S], after attackers have had their way; norms [S] are those
        of what arrives then. Raises Diverged where one cannot be used, unless the policy is to go
        on."""
        seed, size = self.task.seed, len(tick.cohort)
        broken = self.failures.breaks(seed, tick.round, tick.cohort)
        hostile = (
            self.task.attackers[tick.cohort]
            if self.attack.forges and self.task.attackers is not None
            else np.zeros(size, bool)
        )
        if hostile.any():
            norms[hostile] = self._forge(tick, hostile)
        norms[broken] = np.nan
        if self.failures.policy == "keep":
            if broken.any():
                nothing = np.full((int(broken.sum()), self.task.layout.size), np.nan, np.float32)
                self.arena.write(self.task.message("update"), np.flatnonzero(broken), nothing)
            return np.ones(size, bool)
        bad = self.failures.unusable(norms)
        if bad.any() and self.failures.policy == "refuse":
            what = (
                "not finite"
                if not np.isfinite(norms[bad]).all()
                else f"longer than failures.max_norm={self.failures.max_norm}"
            )
            which = (
                f"round {tick.round}: the update of {bad.sum()} of {size} clients is {what} (client"
                f" {tick.cohort[bad][0]})"
            )
            raise Diverged(
                f"{which}; lower local.rate, set local.clip_norm, or choose failures.policy=drop"
            )
        return ~bad

    def _forge(self, tick: Tick, hostile: np.ndarray) -> np.ndarray:
        """Put what attackers send in place of their messages; the norms of their updates."""
        name, cohort = self.task.message("update"), np.arange(len(tick.cohort))
        updates = self.arena.rows(name, cohort)
        # where clients send trained models, what they are apart from those received
        start = self.arena.rows(self.receivers.models, tick.anchors) if self.task.averages else None
        if start is not None:
            updates -= start
        forged = self.attack.forge(
            torch.from_numpy(updates), hostile, self.task.seed, tick.round
        ).numpy()
        self.arena.write(
            name, cohort[hostile], forged if start is None else start[hostile] + forged
        )
        return np.linalg.norm(forged, axis=1)

    def without(self, tick: Tick, usable: np.ndarray) -> Tick:
        """The tick of those whose updates are used; their messages move up."""
        for name in map(self.task.message, self.task.channels):
            for to, source in enumerate(np.flatnonzero(usable)[:, None]):
                if to != source:
                    self.arena.write(name, np.array([to]), self.arena.rows(name, source))
        return self.plan.tick(tick.round, tick.cohort[usable])
