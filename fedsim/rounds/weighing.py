"""What weighs a cohort's messages: reports of what clients did, the aggregator's coefficients, and
one matrix of them per channel."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import csr_array

from fedsim.algorithms.base import COHORT, MIXING, OTHERS, Averaging, Reports, RoundInfo
from fedsim.protocols.base import Plan, Tick
from fedsim.rounds.jobs import STATISTICS, Task
from fedsim.rounds.judging import Judge
from fedsim.training.batches import local_steps


@dataclass(frozen=True)
class Weighed:
    """A tick whose messages are weighed. values: coefficients float64 [H], one for each heard link;
    matrices: per channel [r, S]; info: what the receivers know of the round."""

    tick: Tick
    reports: Reports
    values: np.ndarray
    matrices: dict[str, csr_array]
    info: RoundInfo

    def at_server(self) -> dict[str, np.ndarray]:
        """Per channel the weights of a server's only row, float64 [S]."""
        return {channel: matrix.toarray()[0] for channel, matrix in self.matrices.items()}

    @property
    def as_mixed(self) -> bool:
        """Whether updates have the weights with which models are mixed."""
        return bool(np.allclose(self.values, self.tick.heard.weight, rtol=1e-9, atol=0))


class Weighing:
    """links: the aggregator's state per link, by name [L]."""

    def __init__(self, task: Task, plan: Plan, probability: np.ndarray, judge: Judge) -> None:
        self.task, self.probability, self.judge = task, probability, judge
        lasting = plan.links is not None
        self.links = task.aggregator.init_links(plan.links) if lasting else {}
        self.averaging: dict[str, Averaging] = dict(task.rule.channels)
        if task.correction is not None:
            self.averaging[STATISTICS] = OTHERS

    def weigh(self, tick: Tick, rate: float, norms: np.ndarray | None) -> Weighed:
        """norms: of the updates [S], None where they are not known yet."""
        reports, aggregator = self._reports(tick, rate, norms), self.task.aggregator
        # Links drawn afresh remember nothing: what lasts there is state per receiver
        state = self.links or aggregator.init_links(tick.links)
        values, self.links = aggregator.coefficients(tick.links, tick.heard, reports, state)
        matrices = {
            channel: self._matrix(tick, values, averaging)
            for channel, averaging in self.averaging.items()
        }
        return Weighed(tick, reports, values, matrices, self._info(tick, reports))

    def _reports(self, tick: Tick, rate: float, norms: np.ndarray | None) -> Reports:
        task, examples = self.task, self.task.shards.sizes[tick.cohort]
        steps = local_steps(examples, task.local)
        accumulated = task.local.make_optimizer().accumulated(steps, rate * task.rule.pull)
        probability = self.probability[tick.cohort]
        given = examples, steps, rate, probability, accumulated, norms
        return Reports(*given, tick.round, task.seed)

    def _matrix(self, tick: Tick, values: np.ndarray, averaging: Averaging) -> csr_array:
        heard, shape = tick.heard, (len(tick.receivers), len(tick.cohort))
        if averaging is OTHERS:
            return tick.others
        if averaging is MIXING:
            return tick.base[:, tick.anchors]
        everyone = np.full(len(heard), 1 / self.task.members)
        weight = values if averaging is COHORT else everyone
        return csr_array((weight, (heard.row, heard.column)), shape=shape)

    def _info(self, tick: Tick, reports: Reports) -> RoundInfo:
        senders = tick.heard.row[~tick.heard.own]
        count = np.bincount(senders, minlength=len(tick.receivers)).astype(np.float32)
        heard = torch.from_numpy(count).unsqueeze(-1)
        steps = float(reports.steps.mean()) if len(reports.steps) else 0.0
        judge = self.judge if self.task.aggregator.judges else None
        given = tick.receivers, heard, self.task.members, reports.rate, steps, judge
        return RoundInfo(tick.round, self.task.seed, *given)
