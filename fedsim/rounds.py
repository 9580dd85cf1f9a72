"""One round: train -> coefficients -> reduce -> step, on the arrays of a session."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

from fedsim.algorithms.base import COHORT, OTHERS, Averaging, Reports
from fedsim.engine.base import Session
from fedsim.engine.task import MODELS, STATISTICS, MixJob, Task, TrainJob
from fedsim.exchange import advance
from fedsim.local.batches import local_steps
from fedsim.local.gradients import clients_per_call
from fedsim.protocols.base import Payload, Plan, Tick

NUMBER = 4  # bytes of a float32


class Diverged(Exception):
    """A client's update is not finite; the models are those of the round before."""


@dataclass(frozen=True)
class RoundReport:
    """cohort: clients that trained [S]; update_norms: Euclidean norms of their updates [S]; sent, received: bytes by clients in this
    round."""

    cohort: np.ndarray
    update_norms: np.ndarray
    sent: int
    received: int


class Rounds:
    """Runs ticks. models: name of the array with the receivers' present models [R, P]; link_state: the aggregator's state per link."""

    def __init__(self, task: Task, session: Session, plan: Plan, probability: np.ndarray) -> None:
        self.task, self.session, self.plan, self.probability = task, session, plan, probability
        self.sizes, self.chunk = task.shards.sizes, clients_per_call(task.module, task.local, task.device)
        self.averaging: dict[str, Averaging] = dict(task.rule.channels)
        if task.correction is not None:
            self.averaging[STATISTICS] = OTHERS
        shared = len(session.arena.named("shared/")) * task.layout.size * NUMBER if task.rule.broadcasts else 0
        sent = {name: length * NUMBER for name, length in task.channels.items() if name not in task.rule.same_as}
        self.payload = Payload(task.layout.size * NUMBER, shared, sent)
        self.models = MODELS[0]
        self.link_state = task.aggregator.init_links(plan.links) if plan.links is not None else {}

    def start(self, models: list[Tensor]) -> None:
        """Write the receivers' first models, one [P] each or one for all, and the rules' initial vectors."""
        arena, task = self.session.arena, self.task
        for row, model in enumerate(models):
            arena[self.models][row] = model.numpy()
        if len(models) == 1:
            arena[self.models][1:] = models[0].numpy()
        first = torch.from_numpy(arena[self.models])
        for prefix, values in (("shared/", task.rule.init_shared(first)), ("receiver/", task.aggregator.init_receiver(first))):
            for name, value in values.items():
                arena[prefix + name][:] = value.numpy()

    def run(self, tick: Tick, rate: float) -> RoundReport:
        """Run one tick with this learning rate. Raises Diverged."""
        task, cohort = self.task, tick.cohort
        examples = self.sizes[cohort]
        reports = Reports(examples, local_steps(examples, task.local), rate, self.probability[cohort])
        state = self.link_state if self.plan.links is not None else task.aggregator.init_links(tick.links)
        values, self.link_state = task.aggregator.coefficients(tick.links, tick.heard, reports, state)
        norms = (self._graph_round if task.rows else self._server_round)(tick, reports, values)
        additive = task.aggregator.adds_updates and not task.rule.absorbs_update
        merged = additive and bool(np.allclose(values, tick.heard.weight, rtol=1e-9, atol=0))
        sent, received = self.plan.traffic(tick, self.payload, merged)
        return RoundReport(cohort, norms, sent, received)

    def _weights(self, tick: Tick, values: np.ndarray) -> dict[str, csr_array]:
        """Per channel the coefficient matrix [r, S]."""
        heard, shape = tick.heard, (len(tick.receivers), len(tick.cohort))
        return {
            channel: tick.others
            if averaging is OTHERS
            else csr_array(
                (values if averaging is COHORT else np.full(len(heard), 1 / self.task.members), (heard.row, heard.column)), shape=shape
            )
            for channel, averaging in self.averaging.items()
        }

    def _train(self, tick: Tick, reports: Reports, weights: dict[str, np.ndarray] | None) -> tuple[int, np.ndarray]:
        """Train the cohort in groups; the number of groups and the norms of the updates [S]. Groups depend on the cohort alone."""
        size, local = len(tick.cohort), self.task.local
        if not size:
            return 0, np.zeros(0)
        arena = self.session.arena
        arena.reserve([name for name in arena.specs if name.startswith("client/")], tick.cohort)
        arena.reserve([name for name in arena.specs if name.startswith("message/")], np.arange(size))
        groups = min(local.groups, -(-size // self.chunk))
        work = reports.steps * np.minimum(reports.examples, local.batch_size)
        jobs = []
        for group, columns in enumerate(np.array_split(np.arange(size), groups)):
            part = None if weights is None else {channel: values[columns] for channel, values in weights.items()}
            clients, anchors = tick.cohort[columns], tick.anchors[columns]
            jobs.append(TrainJob(tick.round, reports.rate, self.models, clients, anchors, columns, part, group, float(work[columns].sum())))
        norms = np.concatenate(self.session.run(jobs))
        if not np.isfinite(norms).all():
            broken = tick.cohort[~np.isfinite(norms)]
            which = f"round {tick.round}: the update of {len(broken)} of {size} clients is not finite (client {broken[0]})"
            raise Diverged(f"{which}; lower local.rate or set local.clip_norm")
        return groups, norms

    def _server_round(self, tick: Tick, reports: Reports, values: np.ndarray) -> np.ndarray:
        task, arena = self.task, self.session.arena
        weights = {channel: matrix.toarray()[0] for channel, matrix in self._weights(tick, values).items()}
        groups, norms = self._train(tick, reports, weights)
        mixed = {}
        for channel, length in task.channels.items():
            total = np.zeros(length)
            for group in range(groups):
                total += arena[f"partial/{channel}"][group]
            mixed[channel] = torch.from_numpy(total.astype(np.float32)).unsqueeze(0)
        base = torch.from_numpy(arena[self.models].copy())
        own = task.correction.statistics(base, task.layout) if task.correction is not None else None
        heard = torch.full((1, 1), len(tick.cohort) > 0)
        if not advance(task, arena, self.models, tick.receivers, base, mixed, own, heard):
            raise Diverged(f"round {tick.round}: the server's next model is not finite; lower local.rate or aggregator.rate")
        return norms

    def _graph_round(self, tick: Tick, reports: Reports, values: np.ndarray) -> np.ndarray:
        arena = self.session.arena
        _, norms = self._train(tick, reports, None)
        spare = MODELS[1 - MODELS.index(self.models)]
        weights = {channel: matrix.astype(np.float32).tocsr() for channel, matrix in self._weights(tick, values).items()}
        others = np.diff(tick.others.tocsr().indptr) > 0
        jobs = []
        if len(tick.receivers):
            position = np.arange(len(tick.receivers))
            for rows in np.array_split(position, min(self.task.local.groups, len(position))):
                merge = {channel: matrix[rows] for channel, matrix in weights.items()}
                jobs.append(MixJob(self.models, spare, tick.receivers[rows], rows, tick.base[rows], merge, others[rows]))
        if not all(self.session.run(jobs)):
            raise Diverged(f"round {tick.round}: the next model of a node is not finite; lower local.rate or aggregator.rate")
        if len(tick.receivers) == self.task.receivers:
            self.models = spare
        else:  # the cost follows the nodes that are active
            arena[self.models][tick.receivers] = arena[spare][tick.receivers]
        return norms
