"""A worker: runs jobs on the arrays of an arena. It knows nothing of who calls it, so every engine
gives the same bits."""

from __future__ import annotations

import ctypes
import itertools
import sys
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from fedsim.algorithms.base import State
from fedsim.algorithms.directions import norm
from fedsim.engine.arena import Arena
from fedsim.models.pooling import pooled_first
from fedsim.parameters import copied_apart
from fedsim.rounds.batch_ahead import Drawing
from fedsim.rounds.jobs import (
    MEMORY,
    OPTIMIZER,
    RULE,
    STATISTICS,
    AverageJob,
    EvaluateJob,
    Job,
    MixJob,
    SumJob,
    Task,
    TrainJob,
    models,
)
from fedsim.rounds.kernel_choice import clients_per_call, gradient_kernel
from fedsim.rounds.receiver_step import advance, merged_rows
from fedsim.rounds.weighted_sums import average, product
from fedsim.training.examples import Examples
from fedsim.training.fisher_diagonal import diagonal_fisher
from fedsim.training.gradients import example_losses
from fedsim.training.loop import Chunk, Kernel, Trained, train

# examples; larger batches of images are slower and take more memory
EVALUATION_BATCH, CONVOLUTION_BATCH = 1000, 128
EVALUATED = 8  # models in one call


class Worker:
    """Holds the data, the model's skeleton and the kernels on one device, and runs jobs."""

    def __init__(self, task: Task, arena: Arena) -> None:
        keep_freed_memory()
        torch.set_num_threads(1)  # other thread counts give other bits
        self.task, self.arena, self.device = task, arena, torch.device(task.device)
        if self.device.type == "cuda":  # the same bits again on the same GPU
            torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
        self.module = pooled_first(task.module.to(self.device).train())
        kernel, mixed = (
            gradient_kernel(self.module, task.local, task.device),
            task.local.precision == "bfloat16",
        )
        gradient = kernel(self.module, task.layout, task.classification, mixed)
        self.chunk = clients_per_call(self.module, task.local, task.device)
        splits = {
            "train": task.dataset.train,
            "validation": task.dataset.validation,
            "test": task.dataset.test,
        }
        self.examples = {
            name: Examples(split, task.dataset, self.device)
            for name, split in splits.items()
            if split is not None
        }
        self.shards = self.examples["train"]
        if task.poisoned is not None:
            self.shards = Examples(
                replace(task.dataset.train, y=task.poisoned), task.dataset, self.device
            )
        self.runs: dict[type, Callable] = {
            TrainJob: self._train,
            SumJob: self._sum,
            MixJob: self._mix,
            AverageJob: self._average,
            EvaluateJob: self._evaluate,
        }
        self.drawing = Drawing(task)
        self.kernel = Kernel(gradient, self.shards.staged, self._fisher)

    def run(self, job: Job):
        """Run one job: a TrainJob gives the norms of the updates, an EvaluateJob losses and hits, a
        MixJob or AverageJob whether its models are finite; the rest is in the arena."""
        with torch.no_grad():
            return self.runs[type(job)](job)

    def announce(self, jobs: Sequence[Job]) -> None:
        """These jobs will be run next: saves time, and changes nothing else."""
        self.drawing.announce(jobs)

    def _rows(self, name: str, rows: np.ndarray) -> Tensor:
        """Copies of rows of an array, on the host."""
        return torch.from_numpy(self.arena.rows(name, rows))

    def _train(self, job: TrainJob) -> np.ndarray:
        training = self.training(job)
        chunk = next(training)
        while True:
            try:
                chunk = training.send(
                    train(chunk, self.task.rule, self.task.local, self.kernel, job.rate)
                )
            except StopIteration as end:
                return end.value

    def training(self, job: TrainJob) -> Generator[Chunk, Trained, np.ndarray]:
        """A job but for training itself: gives the chunks to train, is sent what `train` gave of
        each, returns the norms of the updates."""
        task, norms = self.task, []
        sums = None if job.weights is None else self._sums(task.channels)
        for part in _parts(len(job.clients), self.chunk):
            chunk, memory = self._chunk(job, part)
            messages, state, optimizer, x = yield chunk
            norms.append(norm(messages["update"]).squeeze(-1).cpu().numpy())
            messages, memory = task.aggregator.encode(messages, memory)
            messages |= {channel: messages[source] for channel, source in task.rule.same_as.items()}
            if task.averages:
                messages["update"] = messages["update"] + chunk.anchor
            if task.correction is not None:
                messages[STATISTICS] = task.correction.statistics(
                    chunk.anchor if task.combine_first else x, task.layout
                )
            for prefix, kept in ((RULE, state), (MEMORY, memory), (OPTIMIZER, optimizer)):
                for name, value in kept.items():
                    self.arena[f"client/{prefix}{name}"][job.keep[part]] = value.cpu().numpy()
            for channel, message in messages.items():
                if sums is None:
                    self.arena.write(
                        task.message(channel), job.columns[part], message.cpu().numpy()
                    )
                else:
                    _add(sums[channel], message, job.weights[channel][part])
        self._write_sums(sums or {}, job.group)
        return np.concatenate(norms)

    def _sum(self, job: SumJob) -> None:
        sums = self._sums({channel: self.task.channels[channel] for channel in job.weights})
        for part in _parts(len(job.columns), self.chunk):
            for channel, weights in job.weights.items():
                _add(
                    sums[channel],
                    self._rows(f"message/{channel}", job.columns[part]).to(self.device),
                    weights[part],
                )
        self._write_sums(sums, job.group)

    def _sums(self, lengths: dict[str, int]) -> State:
        return {
            name: torch.zeros(length, dtype=torch.float64, device=self.device)
            for name, length in lengths.items()
        }

    def _write_sums(self, sums: State, group: int) -> None:
        for channel, total in sums.items():
            self.arena[f"partial/{channel}"][group] = total.cpu().numpy()

    def _chunk(self, job: TrainJob, part: slice) -> tuple[Chunk, State]:
        """A chunk of a job's clients, and what its aggregator remembers of them."""
        task, clients, anchors = self.task, job.clients[part], job.anchors[part]
        batches = self.drawing.of(job, part)
        rows = anchors[:1] if (anchors == anchors[0]).all() else anchors
        anchor = self._rows(models(job.side), rows).to(self.device).expand(len(clients), -1)
        prefix = f"shared/{job.side}/"
        shared = {name: self._rows(prefix + name, rows).to(self.device) for name in task.broadcast}
        kept = self._kept(anchor, job.kept[part])
        state, memory, optimizer = (_named(kept, prefix) for prefix in (RULE, MEMORY, OPTIMIZER))
        # Not .sizes, which looks at all clients
        sizes = task.shards.offsets[clients + 1] - task.shards.offsets[clients]
        return Chunk(
            task.seed, job.round, clients, batches, sizes, anchor, state, optimizer, shared
        ), memory

    def _kept(self, anchor: Tensor, rows: np.ndarray) -> State:
        """The clients' kept state; a client that takes part for the first time starts from the
        rule's own."""
        if (rows < 0).all():
            return {
                name: fresh.to(anchor).expand(len(rows), -1).clone()
                for name, fresh in self.task.fresh(anchor).items()
            }
        stored = {
            name: self._rows(f"client/{name}", rows).to(self.device)
            for name in self.arena.named("client/")
        }
        if stored and (rows < 0).any():
            known = torch.from_numpy(rows >= 0).to(self.device).unsqueeze(-1)
            stored = {
                name: torch.where(known, stored[name], fresh)
                for name, fresh in self.task.fresh(anchor).items()
            }
        return stored

    def _fisher(self, x: Tensor, clients: np.ndarray) -> Tensor:
        shards, batch, x = self.task.shards, self.shards.batch, copied_apart(x)
        inputs = [batch(shards.shard(client))[0] for client in clients.tolist()]
        return torch.stack(
            [
                diagonal_fisher(self.module, self.task.layout, *each)
                for each in zip(x, inputs, strict=True)
            ]
        )

    def _mix(self, job: MixJob) -> bool:
        """Whether the models of the block are finite."""
        mixed = {
            name: product(matrix, torch.from_numpy(self.arena[f"message/{name}"]))
            for name, matrix in job.merge.items()
            if not (self.task.aggregator.rows and name == "update")
        }
        present = self.arena[models(job.side)]
        if self.task.aggregator.rows:
            mixed["update"] = self._merged(job)
            base = torch.from_numpy(present[job.receivers])
        else:
            base = product(job.base, torch.from_numpy(present))
        own = (
            self._rows(f"message/{STATISTICS}", job.own)
            if self.task.correction is not None
            else None
        )
        others = torch.from_numpy(job.others).unsqueeze(-1)
        return advance(
            self.task, self.arena, (job.side, 1 - job.side), base, mixed, own, others, job.info
        )

    def _average(self, job: AverageJob) -> bool:
        """Write columns of the next models; whether they are finite."""
        terms = [(job.merge, self.arena[self.task.message("update")][job.blocks])]
        if job.rest is not None:
            terms.append((job.rest, self.arena[models(job.side)][job.blocks]))
        return average(
            self.arena[models(1 - job.side)][job.blocks],
            job.receivers,
            job.columns,
            terms,
            job.finite,
        )

    def _merged(self, job: MixJob) -> Tensor:
        """Mixed updates [r, P] of an aggregator that sees single ones: the trained models heard,
        less the receiver's model."""
        present, matrix = self.arena[models(job.side)], job.merge["update"]
        mixed = torch.zeros(len(job.own), self.task.layout.size)
        for row, receiver in enumerate(job.receivers):
            heard = slice(matrix.indptr[row], matrix.indptr[row + 1])
            columns = matrix.indices[heard]
            updates = self._rows("message/update", columns) + torch.from_numpy(
                present[job.anchors[columns]] - present[receiver]
            )
            mixed[row] = merged_rows(
                self.task.aggregator,
                updates,
                matrix.data[heard],
                job.info,
                row,
                job.anchors[columns],
            )
        return mixed

    def _evaluate(self, job: EvaluateJob) -> tuple[np.ndarray, np.ndarray]:
        """Losses and hits: sums over the examples, float64 [m], or, with `example_values`, each
        example's, [m, n]."""
        examples = self.examples[job.split]
        every = np.arange(len(examples))[job.examples]
        size = (
            CONVOLUTION_BATCH
            if any(isinstance(part, nn.Conv2d) for part in self.module.modules())
            else EVALUATION_BATCH
        )
        found = []
        for part in _parts(len(job.rows), EVALUATED):
            x = copied_apart(self._rows(job.models, job.rows[part]).to(self.device))
            batches = (
                examples.batch(every[start : start + size]) for start in range(0, len(every), size)
            )
            found.append(
                torch.cat([self._losses_and_hits(x, *batch) for batch in batches], dim=-1)
                .cpu()
                .numpy()
            )
        values = np.concatenate(found, axis=1)
        return tuple(values if job.example_values else values.sum(axis=-1))

    def _losses_and_hits(self, x: Tensor, inputs: Tensor, targets: Tensor) -> Tensor:
        """Of models [m, P] on the same n examples: float64 [2, m, n]."""
        outputs = self.kernel.gradient.outputs(x, inputs)
        losses = example_losses(
            outputs, targets.expand(len(x), *targets.shape), self.task.classification
        )
        hits = (
            outputs.max(dim=-1).indices == targets
            if self.task.classification
            else torch.zeros_like(losses)
        )
        return torch.stack([losses.double(), hits.double()])


def _named(state: State, prefix: str) -> State:
    """The part of a state whose names start with the prefix, by the rest of the name."""
    return {
        name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)
    }


def _parts(count: int, most: int) -> list[slice]:
    """As few equal parts as there can be."""
    ends = np.cumsum(
        [len(part) for part in np.array_split(np.arange(count), -(-count // most))]
    ).tolist()
    return [slice(start, stop) for start, stop in itertools.pairwise([0, *ends])]


def _add(total: Tensor, message: Tensor, weights: np.ndarray) -> None:
    """total += sum of weighted rows: in float32 over those trained in one call, in float64 from
    there on."""
    total.add_(torch.from_numpy(weights).to(message) @ message)


def keep_freed_memory() -> None:
    """Tell glibc to keep freed blocks: temporaries of a few MB would otherwise be mapped and
    unmapped at every step. A round of W2 takes 41 ms in place of 45 (medians of three processes in
    turn); another C library is left as it is."""
    if sys.platform == "linux":
        try:
            libc = ctypes.CDLL("libc.so.6")
            libc.mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD
            libc.mallopt(-1, 1 << 30)  # M_TRIM_THRESHOLD
        except OSError:
            pass  # another C library
