"""One round: train -> coefficients -> reduce -> step, on the arrays of a session."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

from fedsim.algorithms.base import COHORT, MIXING, OTHERS, Aggregator, Averaging, Reports, RoundInfo
from fedsim.attacks import Attack, NoAttack
from fedsim.engine.base import Session
from fedsim.engine.task import CANDIDATES, STATISTICS, AverageJob, EvaluateJob, MixJob, SumJob, Task, TrainJob
from fedsim.exchange import advance, merged_rows
from fedsim.failures import Failures
from fedsim.kept_rows import KeptRows
from fedsim.local.batches import local_steps
from fedsim.local.execution import WORTH_A_CALL, clients_per_call
from fedsim.products import compact, shares
from fedsim.protocols.base import Payload, Plan, Tick
from fedsim.receivers import Receivers
from fedsim.screening import Diverged, Screening

NUMBER = 4  # bytes of a float32


@dataclass(frozen=True)
class RoundReport:
    """cohort: clients that trained and were heard [S]; update_norms: Euclidean norms of their updates [S]; sent, received: bytes by clients
    in this round; dropouts: clients that dropped out in mid-round; discarded: clients whose updates could not be used."""

    cohort: np.ndarray
    update_norms: np.ndarray
    sent: int
    received: int
    dropouts: int = 0
    discarded: int = 0


class Rounds:
    """Runs ticks. receivers: their models and vectors; kept: rows of the clients' state; link_state: the aggregator's state per link."""

    def __init__(
        self,
        task: Task,
        session: Session,
        plan: Plan,
        probability: np.ndarray,
        failures: Failures | None = None,
        attack: Attack | None = None,
    ) -> None:
        self.task, self.session, self.plan, self.probability = task, session, plan, probability
        self.receivers = Receivers(task, session.arena)
        self.screening = Screening(task, self.receivers, plan, failures or Failures(), attack or NoAttack())
        self.sizes, self.chunk = task.shards.sizes, clients_per_call(task.module, task.local, task.device)
        self.averaging: dict[str, Averaging] = dict(task.rule.channels)
        if task.correction is not None:
            self.averaging[STATISTICS] = OTHERS
        arena = session.arena
        sent = {name: length * NUMBER for name, length in task.channels.items() if name not in task.rule.same_as}
        sent["update"] = task.aggregator.sent(task.layout.size) * NUMBER
        model = sent["update"] if task.place == "graph" else task.layout.size * NUMBER
        self.kept, self.reserved = KeptRows(task.keepers), 0
        self.client_arrays = [name for name in arena.specs if name.startswith("client/")]
        carried = sum(arena.specs[name].shape[-1] for name in self.client_arrays) if task.place == "walk" else 0
        self.payload = Payload(model, (sum(task.broadcast.values()) + carried) * NUMBER, sent)
        self.link_state = task.aggregator.init_links(plan.links) if plan.links is not None else {}

    def run(self, tick: Tick, rate: float) -> RoundReport:
        """Run one tick with this learning rate. Raises Diverged."""
        asked = self.plan.traffic(tick, self.payload, True)[1]
        tick, dropouts = self.screening.present(tick)
        trained = tick
        if self.task.rows:
            _, norms, keep = self._train(tick, rate, None)
            usable = self.screening.usable(tick, norms)
            if not usable.all():
                self.kept.release(keep[~usable])
                tick, norms, keep = self.screening.without(tick, usable), norms[usable], keep[usable]
            reports = self._reports(tick, rate, norms)
            values = self._coefficients(tick, reports)
            self._server_rows(tick, reports, values) if self.task.place == "server" else self._graph_step(tick, reports, values)
        else:
            reports = self._reports(tick, rate, None)
            values = self._coefficients(tick, reports)
            weights = {channel: matrix.toarray()[0] for channel, matrix in self._weights(tick, values).items()}
            groups, norms, keep = self._train(tick, rate, weights)
            self.screening.usable(tick, norms)
            self._server_step(tick, reports, self._total(groups))
        if self.client_arrays:
            self.kept.commit(tick.keepers, keep)
        additive = (self.task.aggregator.adds_updates or self.task.aggregator.rows) and not self.task.rule.absorbs_update
        merged = additive and (self.task.aggregator.rows or bool(np.allclose(values, tick.heard.weight, rtol=1e-9, atol=0)))
        sent, received = self.plan.traffic(trained, self.payload, merged)
        received = asked if dropouts and self.task.place == "server" else received
        return RoundReport(tick.cohort, norms, sent, received, dropouts, len(trained.cohort) - len(tick.cohort))

    def _reports(self, tick: Tick, rate: float, norms: np.ndarray | None) -> Reports:
        examples = self.sizes[tick.cohort]
        steps = local_steps(examples, self.task.local)
        accumulated = self.task.local.make_optimizer().accumulated(steps, rate * self.task.rule.pull)
        return Reports(examples, steps, rate, self.probability[tick.cohort], accumulated, norms, tick.round, self.task.seed)

    def _coefficients(self, tick: Tick, reports: Reports) -> np.ndarray:
        state = self.link_state or self.task.aggregator.init_links(tick.links)  # links drawn afresh: what lasts is state per receiver
        values, self.link_state = self.task.aggregator.coefficients(tick.links, tick.heard, reports, state)
        return values

    def _weights(self, tick: Tick, values: np.ndarray) -> dict[str, csr_array]:
        """Per channel the coefficient matrix [r, S]."""
        heard, shape = tick.heard, (len(tick.receivers), len(tick.cohort))

        def matrix(averaging: Averaging) -> csr_array:
            if averaging is OTHERS:
                return tick.others
            if averaging is MIXING:
                return tick.base[:, tick.anchors]
            weight = values if averaging is COHORT else np.full(len(heard), 1 / self.task.members)
            return csr_array((weight, (heard.row, heard.column)), shape=shape)

        return {channel: matrix(averaging) for channel, averaging in self.averaging.items()}

    def _info(self, tick: Tick, reports: Reports) -> RoundInfo:
        heard = np.bincount(tick.heard.row[~tick.heard.own], minlength=len(tick.receivers)).astype(np.float32)
        steps = float(reports.steps.mean()) if len(reports.steps) else 0.0
        judge = self._judge if self.task.aggregator.judges else None
        receivers, count = tick.receivers, torch.from_numpy(heard).unsqueeze(-1)
        return RoundInfo(tick.round, self.task.seed, receivers, count, self.task.members, reports.rate, steps, judge)

    def _groups(self, cohort: np.ndarray) -> list[np.ndarray]:
        """Positions in a cohort, cut into groups that depend on nothing but shards and model: in order where all take as many steps, else
        so that clients of a chunk take about as many, and no group has more than twice its share to do, which one worker would still be at
        when the others are done. There are more groups the more there is to do, and 2, 4, 8 or 16 if they can and clients are alike, of
        which so many workers have equal shares."""
        size, steps = len(cohort), local_steps(self.sizes[cohort], self.task.local)
        if not size:
            return []
        worth = WORTH_A_CALL[torch.device(self.task.device).type]
        calls = max(-(-size // self.chunk), int(self._examples(cohort).sum()) * self.task.layout.size // worth)
        count = min(self.task.local.groups, 1 << (calls - 1).bit_length(), size)
        if steps.min() == steps.max():
            return np.array_split(np.arange(size), count)
        each = -(-size // (self.chunk * count))
        chunks = np.array_split(np.argsort(-steps, kind="stable"), each * count)
        groups = [np.concatenate(chunks[group::count]) for group in range(count)]
        work = self._examples(cohort)
        while len(groups) < self.task.local.groups:
            heaviest = max(range(len(groups)), key=lambda group: work[groups[group]].sum())
            if len(groups[heaviest]) == 1 or work[groups[heaviest]].sum() * count <= 2 * work.sum():
                break
            groups[heaviest : heaviest + 1] = np.array_split(groups[heaviest], 2)
        return groups

    def _examples(self, cohort: np.ndarray) -> np.ndarray:
        """How many examples each client's local steps take together, int64 [S]."""
        sizes = self.sizes[cohort]
        return local_steps(sizes, self.task.local) * np.minimum(sizes, self.task.local.batch_size)

    def _train(self, tick: Tick, rate: float, weights: dict[str, np.ndarray] | None) -> tuple[int, np.ndarray, np.ndarray]:
        """Train the cohort in groups; the number of groups, the norms of the updates [S], and the rows where clients' state lies then
        [S]."""
        size = len(tick.cohort)
        kept = self.kept.row[tick.keepers]
        keep = self._claimed(size) if self.client_arrays else np.zeros(size, np.int64)
        if not size:
            return 0, np.zeros(0), keep
        if self.task.rows and size > self.reserved:
            arena = self.session.arena
            arena.reserve([name for name in arena.specs if name.startswith("message/")], np.arange(self.reserved, size))
            self.reserved = size
        work = self._examples(tick.cohort)
        jobs = []
        for group, columns in enumerate(self._groups(tick.cohort)):
            part = None if weights is None else {channel: values[columns] for channel, values in weights.items()}
            clients, anchors, rows = tick.cohort[columns], tick.anchors[columns], (kept[columns], keep[columns])
            cost = float(work[columns].sum())
            jobs.append(TrainJob(tick.round, rate, self.receivers.side, clients, anchors, columns, *rows, part, group, cost))
        norms = np.zeros(size, np.float32)
        for job, found in zip(jobs, self.session.run(jobs), strict=True):
            norms[job.columns] = found
        return len(jobs), norms, keep

    def _claimed(self, count: int) -> np.ndarray:
        before = self.kept.used
        rows = self.kept.claim(count)
        if self.kept.used > before:
            self.session.arena.reserve(self.client_arrays, np.arange(before, self.kept.used))
        return rows

    def _total(self, groups: int) -> dict[str, Tensor]:
        """The groups' sums, added in order, float32 [1, length] per channel."""
        mixed = {}
        for channel, length in self.task.channels.items():
            total = np.zeros(length)
            for group in range(groups):
                total += self.session.arena[f"partial/{channel}"][group]
            mixed[channel] = torch.from_numpy(total.astype(np.float32)).unsqueeze(0)
        return mixed

    def _server_rows(self, tick: Tick, reports: Reports, values: np.ndarray) -> None:
        """The server's step from single messages: the same sums as without them, or the aggregator's own merge of the updates."""
        weights = {channel: matrix.toarray()[0] for channel, matrix in self._weights(tick, values).items()}
        rows = self.task.aggregator.rows
        summed = {channel: value for channel, value in weights.items() if not (rows and channel == "update")}
        groups = self._groups(tick.cohort) if summed else []
        self.session.run([SumJob(at, {name: value[at] for name, value in summed.items()}, group) for group, at in enumerate(groups)])
        mixed = self._total(len(groups))
        if rows:
            updates = torch.from_numpy(self.session.arena["message/update"][: len(tick.cohort)])
            info = self._info(tick, reports)
            mixed["update"] = merged_rows(self.task.aggregator, updates, weights["update"], info, 0, tick.cohort).unsqueeze(0)
        self._server_step(tick, reports, mixed)

    def _server_step(self, tick: Tick, reports: Reports, mixed: dict[str, Tensor]) -> None:
        task, arena = self.task, self.session.arena
        base = torch.from_numpy(arena[self.receivers.models].copy())
        own = task.correction.statistics(base, task.layout) if task.correction is not None else None
        heard = torch.full((1, 1), len(tick.cohort) > 0)
        if not advance(task, arena, (self.receivers.side, self.receivers.side), base, mixed, own, heard, self._info(tick, reports)):
            raise Diverged(f"round {tick.round}: the server's next model is not finite; lower local.rate or aggregator.rate")

    def _graph_step(self, tick: Tick, reports: Reports, values: np.ndarray) -> None:
        weights = {channel: matrix.astype(np.float32).tocsr() for channel, matrix in self._weights(tick, values).items()}
        others, info = np.diff(tick.others.tocsr().indptr) > 0, self._info(tick, reports)
        jobs: list[MixJob | AverageJob] = []
        if len(tick.receivers) and self.task.averages:
            # base @ models + merge @ updates, where an update is a trained model without that it started from
            merge, base = weights["update"], tick.base.tocsr()
            rest = base - csr_array((merge.data, tick.anchors[merge.indices], merge.indptr), shape=base.shape)
            given = tick.receivers, compact(rest) if rest.nnz else None, compact(merge)
            encodes = type(self.task.aggregator).encode is not Aggregator.encode  # after the norms were taken
            finite = not encodes and all(bool(np.isfinite(part).all()) for part in (reports.norms, merge.data, base.data))
            for blocks, columns in self._columns():
                jobs.append(AverageJob(self.receivers.side, *given, blocks, columns, finite))
        elif len(tick.receivers):
            position = np.arange(len(tick.receivers))
            for rows in np.array_split(position, min(self.task.local.groups, len(position))):
                merge = {channel: matrix[rows] for channel, matrix in weights.items()}
                jobs.append(MixJob(self.receivers.side, rows, tick.base[rows], merge, tick.anchors, others[rows], _of(info, rows)))
        if not all(self.session.run(jobs)):
            raise Diverged(f"round {tick.round}: the next model of a node is not finite; lower local.rate or aggregator.rate")
        self.receivers.settle(tick.receivers)

    def _columns(self) -> list[tuple[slice, slice]]:
        """All columns of the receivers' models in shares: blocks, and columns of each."""
        blocks, _, columns = self.session.arena.specs[self.receivers.models].stored
        groups = self.task.local.groups
        if blocks == 1:
            return [(slice(0, 1), share) for share in shares(columns, groups)]
        ends = np.linspace(0, blocks, min(groups, blocks) + 1).astype(int).tolist()
        return [(slice(start, stop), slice(0, columns)) for start, stop in itertools.pairwise(ends)]

    def _judge(self, updates: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Mean losses [m] and accuracies [m] on the validation split of the server's model plus each update [m, P]."""
        arena, count = self.session.arena, len(updates)
        arena.reserve([CANDIDATES], np.arange(count))
        arena[CANDIDATES][:count] = arena[self.receivers.models] + updates.numpy()
        examples = len(self.task.dataset.validation)
        blocks = np.array_split(np.arange(count), min(self.task.local.groups, count))
        parts = self.session.run([EvaluateJob(CANDIDATES, rows, "validation", slice(0, examples)) for rows in blocks])
        losses, hits = (np.concatenate([part[which] for part in parts]) / examples for which in (0, 1))
        return losses, hits

    @property
    def state_bytes(self) -> dict[str, int]:
        """Bytes of what an algorithm remembers: at the clients that have any, per link, and at the receivers beside their models."""
        arena = self.session.arena
        kept = sum(arena.specs[name].shape[-1] * arena[name].itemsize for name in self.client_arrays)
        return {
            "client_state_bytes": len(self.kept.owners) * kept,
            "link_state_bytes": sum(array.nbytes for array in self.link_state.values()),
            "receiver_state_bytes": sum(array.nbytes for array in self.receivers.vectors().values()),
        }

    def state(self) -> dict[str, np.ndarray]:
        """Everything that lasts between rounds, by name; arrays may be views of what the next round changes."""
        owners = self.kept.owners
        parts = {
            "receivers": self.receivers.state(),
            "client": {name.removeprefix("client/"): self.session.arena[name][self.kept.row[owners]] for name in self.client_arrays},
            "links": self.link_state,
            "plan": self.plan.state(),
        }
        return {"owners": owners, **{f"{part}/{name}": value for part, values in parts.items() for name, value in values.items()}}

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Go on from what `state` gave, in place of starting the receivers."""

        def part(kind: str) -> dict[str, np.ndarray]:
            return {name.removeprefix(f"{kind}/"): value for name, value in state.items() if name.startswith(f"{kind}/")}

        rows = self.kept.restore(state["owners"])
        if self.client_arrays and len(rows):
            self.session.arena.reserve(self.client_arrays, rows)
        for name, value in part("client").items():
            self.session.arena[f"client/{name}"][rows] = value
        self.receivers.restore(part("receivers"))
        self.link_state = {name: value.copy() for name, value in part("links").items()}
        self.plan.restore(part("plan"))


def _of(info: RoundInfo, rows: np.ndarray) -> RoundInfo:
    """The part of a round's information that belongs to some of its receivers."""
    return replace(info, receivers=info.receivers[rows], heard=info.heard[torch.from_numpy(rows)])
