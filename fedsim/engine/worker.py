"""A worker: runs jobs on the arrays of an arena. It knows nothing of who calls it, so every engine gives the same bits."""

from __future__ import annotations

import ctypes
import sys

import numpy as np
import torch
from torch import Tensor, nn

from fedsim.algorithms.base import State, norm
from fedsim.data.dataset import Dataset, Split
from fedsim.engine.arena import Arena
from fedsim.engine.task import SEEN, STATISTICS, EvaluateJob, Job, MixJob, Task, TrainJob
from fedsim.exchange import advance
from fedsim.local.batches import draw_batches
from fedsim.local.gradients import clients_per_call, example_losses, gradient_kernel
from fedsim.local.training import MOMENTUM, Chunk, train

EVALUATION_BATCH, CONVOLUTION_BATCH = 1000, 128  # examples; larger batches of images are slower and take more memory


class Examples:
    """A split on the device; images stay uint8 until a batch of them is used."""

    def __init__(self, split: Split, dataset: Dataset, device: torch.device) -> None:
        self.x, self.y = (torch.from_numpy(np.ascontiguousarray(array)).to(device) for array in (split.x, split.y))
        self.tokens = dataset.tokens
        factor = torch.as_tensor(dataset.scale / np.asarray(dataset.std, np.float64), dtype=torch.float32)
        shift = torch.as_tensor(np.asarray(dataset.mean, np.float64) / np.asarray(dataset.std, np.float64), dtype=torch.float32)
        self.factor, self.shift = factor.to(device), shift.to(device)

    def __len__(self) -> int:
        return len(self.y)

    def batch(self, index: np.ndarray | slice) -> tuple[Tensor, Tensor]:
        """Inputs [*index.shape, ...] and targets of these examples."""
        at = index if isinstance(index, slice) else torch.from_numpy(index).to(self.x.device)
        x, y = self.x[at], self.y[at]
        return (x if self.tokens else torch.mul(x, self.factor).sub_(self.shift)), y  # uint8 becomes float32 here, in a copy


class Worker:
    """Holds the data, the model's skeleton and the kernels on one device, and runs jobs."""

    def __init__(self, task: Task, arena: Arena) -> None:
        keep_freed_memory()
        torch.set_num_threads(1)  # other thread counts give other bits
        self.task, self.arena, self.device = task, arena, torch.device(task.device)
        if self.device.type == "cuda":  # the same bits again on the same GPU
            torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
        self.module = task.module.to(self.device).train()
        self.gradient = gradient_kernel(self.module, task.local, task.device)(self.module, task.layout, task.classification)
        self.chunk = clients_per_call(self.module, task.local, task.device)
        splits = {"train": task.dataset.train, "validation": task.dataset.validation, "test": task.dataset.test}
        self.examples = {name: Examples(split, task.dataset, self.device) for name, split in splits.items() if split is not None}

    def run(self, job: Job):
        """Run one job: a TrainJob gives the norms of the updates, an EvaluateJob losses and hits, a MixJob whether
        its models are finite; the rest is in the arena."""
        with torch.no_grad():
            if isinstance(job, TrainJob):
                return self._train(job)
            return self._mix(job) if isinstance(job, MixJob) else self._evaluate(job)

    def _rows(self, name: str, rows: np.ndarray) -> Tensor:
        """Copies of rows of an array, on the host."""
        return torch.from_numpy(self.arena[name][rows])

    def _train(self, job: TrainJob) -> np.ndarray:
        task, norms = self.task, []
        sums = None
        if job.weights is not None:
            sums = {name: torch.zeros(length, dtype=torch.float64, device=self.device) for name, length in task.channels.items()}
        for start in range(0, len(job.clients), self.chunk):
            part = slice(start, start + self.chunk)
            clients, anchors = job.clients[part], job.anchors[part]
            chunk = self._chunk(job, clients, anchors)
            messages, state, x = train(chunk, task.rule, task.local, self.gradient, self.examples["train"].batch, job.rate)
            messages |= {channel: messages[source] for channel, source in task.rule.same_as.items()}
            if task.correction is not None:
                messages[STATISTICS] = task.correction.statistics(chunk.anchor if task.combine_first else x, task.layout)
            self._keep(state, clients)
            norms.append(norm(messages["update"]).squeeze(-1).cpu().numpy())
            for channel, message in messages.items():
                if sums is None:
                    self.arena[f"message/{channel}"][job.columns[part]] = message.cpu().numpy()
                    continue
                for row, weight in zip(message, job.weights[channel][part].tolist(), strict=True):
                    sums[channel].add_(row, alpha=weight)  # in float64, client by client: the sum does not depend on the chunk
        if sums is not None:
            for channel, total in sums.items():
                self.arena[f"partial/{channel}"][job.group] = total.cpu().numpy()
        return np.concatenate(norms)

    def _chunk(self, job: TrainJob, clients: np.ndarray, anchors: np.ndarray) -> Chunk:
        task = self.task
        batches = draw_batches(task.shards, clients, task.local, task.seed, job.round)
        rows = anchors[:1] if (anchors == anchors[0]).all() else anchors
        anchor = self._rows(job.models, rows).to(self.device).expand(len(clients), -1)
        names = self.arena.named("shared/") if task.rule.broadcasts else ()
        shared = {name: self._rows(f"shared/{name}", rows).to(self.device) for name in names}
        sizes = task.shards.offsets[clients + 1] - task.shards.offsets[clients]
        return Chunk(batches, sizes, anchor, self._kept(anchor, clients), shared)

    def _kept(self, anchor: Tensor, clients: np.ndarray) -> State:
        """The clients' kept state; a client that takes part for the first time starts from the rule's own."""
        stored = {name: self._rows(f"client/{name}", clients).to(self.device) for name in self.arena.named("client/")}
        if stored and not self.arena[SEEN][clients].all():
            fresh = self.task.rule.init(anchor)
            if MOMENTUM in stored:
                fresh[MOMENTUM] = torch.zeros_like(anchor)
            seen = torch.from_numpy(self.arena[SEEN][clients]).to(self.device).bool().unsqueeze(-1)
            stored = {name: torch.where(seen, value, fresh[name]) for name, value in stored.items()}
        return stored

    def _keep(self, state: State, clients: np.ndarray) -> None:
        for name, value in state.items():
            self.arena[f"client/{name}"][clients] = value.cpu().numpy()
        if state:
            self.arena[SEEN][clients] = 1

    def _mix(self, job: MixJob) -> bool:
        """Whether the models of the block are finite."""
        messages = {name: matrix @ self.arena[f"message/{name}"][: matrix.shape[1]] for name, matrix in job.merge.items()}
        mixed = {name: torch.from_numpy(message) for name, message in messages.items()}
        own = self._rows(f"message/{STATISTICS}", job.own) if self.task.correction is not None else None
        base, others = torch.from_numpy(job.base @ self.arena[job.models]), torch.from_numpy(job.others).unsqueeze(-1)
        return advance(self.task, self.arena, job.next_models, job.receivers, base, mixed, own, others)

    def _evaluate(self, job: EvaluateJob) -> tuple[np.ndarray, np.ndarray]:
        """Losses and hits: sums over the examples, float64 [m], or, with `example_values`, each example's, [m, n]."""
        examples, losses, hits = self.examples[job.split], [], []
        every = np.arange(len(examples))[job.examples]
        size = CONVOLUTION_BATCH if any(isinstance(part, nn.Conv2d) for part in self.module.modules()) else EVALUATION_BATCH
        for row in job.rows.tolist():
            parameters = self.task.layout.views(self._rows(job.models, np.array([row]))[0].to(self.device))
            for start in range(0, len(every), size):
                inputs, targets = examples.batch(every[start : start + size])
                outputs = torch.func.functional_call(self.module, parameters, (inputs,))
                losses.append(example_losses(outputs, targets, self.task.classification).double())
                hits.append((outputs.argmax(-1) == targets).double() if self.task.classification else torch.zeros_like(losses[-1]))
        values = [torch.cat(parts).cpu().numpy().reshape(len(job.rows), len(every)) for parts in (losses, hits)]
        return tuple(values) if job.example_values else tuple(value.sum(axis=1) for value in values)


def keep_freed_memory() -> None:
    """Tell glibc to keep freed blocks: temporaries of a few MB would otherwise be mapped and unmapped at every step."""
    if sys.platform == "linux":
        try:
            libc = ctypes.CDLL("libc.so.6")
            libc.mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD
            libc.mallopt(-1, 1 << 30)  # M_TRIM_THRESHOLD
        except OSError:
            pass  # another C library
