"""A split of the data on a device: images stay uint8 until a batch of them is used."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from fedsim.data.dataset import Dataset, Split


class Examples:
    """A split on the device."""

    def __init__(self, split: Split, dataset: Dataset, device: torch.device) -> None:
        self.x, self.y = (
            torch.from_numpy(np.ascontiguousarray(array)).to(device) for array in (split.x, split.y)
        )
        self.tokens = dataset.tokens
        factor = torch.as_tensor(
            dataset.scale / np.asarray(dataset.std, np.float64), dtype=torch.float32
        )
        shift = torch.as_tensor(
            np.asarray(dataset.mean, np.float64) / np.asarray(dataset.std, np.float64),
            dtype=torch.float32,
        )
        self.factor, self.offset = factor.to(device), -shift.to(device)
        self.stored, self.ready = self.x.new_empty(0), torch.empty(0, device=device)

    def __len__(self) -> int:
        return len(self.y)

    def batch(self, index: np.ndarray | slice) -> tuple[Tensor, Tensor]:
        """Inputs [*index.shape, ...] and targets of these examples."""
        at = index if isinstance(index, slice) else torch.from_numpy(index).to(self.x.device)
        x = self.x[at]
        return (
            x if self.tokens else self._normal(x, torch.empty(x.shape, device=x.device))
        ), self.y[at]

    def staged(self, index: np.ndarray) -> tuple[Tensor, Tensor]:
        """The same for an array of indices, in memory that the next call uses again."""
        at = torch.from_numpy(index).to(self.x.device)
        shape, flat = (*index.shape, *self.x.shape[1:]), at.reshape(-1)
        self.stored = _room(self.stored, math.prod(shape))
        rows = self.stored[: math.prod(shape)].view(-1, *self.x.shape[1:])
        x = torch.index_select(self.x, 0, flat, out=rows).view(shape)
        if not self.tokens:
            self.ready = _room(self.ready, x.numel())
            x = self._normal(x, self.ready[: x.numel()].view(shape))
        return x, self.y[at]

    def like(self, other: Examples) -> bool:
        """Whether they are of one kind, prepared in the same way."""
        kinds = [
            (each.tokens, each.x.dtype, each.x.shape[1:], each.y.dtype, each.y.shape[1:])
            for each in (self, other)
        ]
        return (
            kinds[0] == kinds[1]
            and torch.equal(self.factor, other.factor)
            and torch.equal(self.offset, other.offset)
        )

    def _normal(self, x: Tensor, out: Tensor) -> Tensor:
        out.copy_(x)  # uint8 becomes float32 here, where that is fastest
        # A third of the time of addcmul with these shapes
        return out.mul_(self.factor).add_(self.offset)


def joined(parts: Sequence[Examples]) -> tuple[Examples, list[int]]:
    """Examples of one kind one after the other, equal ones once, and where those of each part
    begin. The parts become views of them."""
    distinct: list[Examples] = []
    which = []
    for part in parts:
        same = (
            n
            for n, each in enumerate(distinct)
            if torch.equal(each.x, part.x) and torch.equal(each.y, part.y)
        )
        which.append(next(same, len(distinct)))
        if which[-1] == len(distinct):
            distinct.append(part)
    ends = np.cumsum([0, *(len(part) for part in distinct)]).tolist()
    whole = copy.copy(parts[0])
    if len(distinct) > 1:
        whole.x, whole.y = (
            torch.cat([getattr(part, name) for part in distinct]) for name in ("x", "y")
        )
    for part, n in zip(parts, which, strict=True):
        part.x, part.y = whole.x[ends[n] : ends[n + 1]], whole.y[ends[n] : ends[n + 1]]
    return whole, [ends[n] for n in which]


def _room(memory: Tensor, size: int) -> Tensor:
    return memory if len(memory) >= size else memory.new_empty(size)
