"""Training chunks of several runs in one call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from fedsim.algorithms.base import ClientRule, State
from fedsim.training.batches import Batches
from fedsim.training.loop import Chunk, Kernel, Trained, train
from fedsim.training.settings import LocalTraining

Fisher = Callable[[Tensor, np.ndarray], Tensor]


def moved(chunk: Chunk, by: int) -> Chunk:
    """The chunk with examples that stand so many places further on."""
    batches = chunk.batches
    return replace(chunk, batches=replace(batches, index=batches.index + by))


def train_together(
    chunks: Sequence[Chunk],
    rule: ClientRule,
    settings: LocalTraining,
    kernel: Kernel,
    fishers: Sequence[Fisher],
    rate: float,
) -> list[Trained]:
    """What `train` gives of each chunk. The chunks are of runs with the same rule, settings and
    model, and their batches equally wide.

    kernel: whose examples are those of all runs; fishers: `Kernel.fisher` of each run.
    """
    sizes = [len(chunk.clients) for chunk in chunks]
    # A client of the second run is known as `apart` + its number, ...
    apart = max(int(chunk.clients.max()) for chunk in chunks) + 1

    def fisher(x: Tensor, clients: np.ndarray) -> Tensor:
        found = torch.empty_like(x)
        for run, own in enumerate(fishers):
            if (its := clients // apart == run).any():
                found[torch.from_numpy(its)] = own(x[torch.from_numpy(its)], clients[its] % apart)
        return found

    clients = np.concatenate([chunk.clients + apart * run for run, chunk in enumerate(chunks)])
    whole = Chunk(
        seed=-1,  # nothing that draws by it is trained together
        round=-1,
        clients=clients,
        batches=_batches([chunk.batches for chunk in chunks]),
        examples=np.concatenate([chunk.examples for chunk in chunks]),
        anchor=torch.cat([chunk.anchor for chunk in chunks]),
        state=_named([chunk.state for chunk in chunks], sizes),
        local_state=_named([chunk.local_state for chunk in chunks], sizes),
        shared=_named([chunk.shared for chunk in chunks], sizes),
    )
    messages, state, local_state, x = train(
        whole, rule, settings, Kernel(kernel.gradient, kernel.examples_of, fisher), rate
    )
    found, stop = [], 0
    for size in sizes:
        part = slice(stop, stop := stop + size)
        # Messages are summed by products, which may depend on where in memory they begin: as alone,
        # with memory of their own
        own = {name: value[part].clone() for name, value in messages.items()}
        kept = (
            {name: value[part] for name, value in named.items()} for named in (state, local_state)
        )
        found.append((own, *kept, x[part]))
    return found


def _batches(parts: Sequence[Batches]) -> Batches:
    length = max(part.index.shape[1] for part in parts)

    def longer(values: np.ndarray, mode: str) -> np.ndarray:
        return np.pad(
            values, [(0, 0), (0, length - values.shape[1]), *[(0, 0)] * (values.ndim - 2)], mode
        )

    index, count = (
        np.concatenate([longer(values, mode) for values in arrays])
        for arrays, mode in (
            ([part.index for part in parts], "edge"),
            ([part.count for part in parts], "constant"),
        )
    )
    return Batches(index, count, np.concatenate([part.steps for part in parts]))


def _named(parts: Sequence[State], sizes: Sequence[int]) -> State:
    """Vectors by name [C, length] of all; one vector for a whole chunk becomes one for each
    client."""
    return {
        name: torch.cat(
            [part[name].expand(size, -1) for part, size in zip(parts, sizes, strict=True)]
        )
        for name in parts[0]
    }
