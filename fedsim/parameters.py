"""A model as one flat vector [P] and a table that says where each tensor lies in it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

CACHE_LINE = 16  # numbers in float32


@dataclass(frozen=True)
class Layout:
    """Where each parameter tensor lies in the flat vector.

    names: parameter names; shapes: their shapes; offsets: start of each tensor in [0, P), with P
    appended. Four-dimensional tensors (convolution kernels) lie in channels-last order, the layout
    convolutions run fastest in.
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    offsets: tuple[int, ...]

    @classmethod
    def of(cls, module: nn.Module) -> Layout:
        """The layout of a module's parameters, in their order of registration."""
        names, shapes, offsets = [], [], [0]
        for name, parameter in module.named_parameters():
            names.append(name)
            shapes.append(tuple(parameter.shape))
            offsets.append(offsets[-1] + parameter.numel())
        return cls(tuple(names), tuple(shapes), tuple(offsets))

    @property
    def size(self) -> int:
        """P, the number of parameters."""
        return self.offsets[-1]

    def views(self, flat: Tensor) -> dict[str, Tensor]:
        """The tensors of one model [P], or of a stack of models [C, P] as [C, *shape], as views of
        `flat` (no copy)."""
        lead = tuple(flat.shape[:-1])
        views = {}
        for name, shape, start, stop in zip(
            self.names, self.shapes, self.offsets, self.offsets[1:], strict=False
        ):
            part = flat[..., start:stop]
            if len(shape) == 4:
                out_channels, in_channels, height, width = shape
                views[name] = part.view(*lead, out_channels, height, width, in_channels).movedim(
                    -1, -3
                )
            else:
                views[name] = part.view(*lead, *shape)
        return views

    def flatten(self, tensors: dict[str, Tensor]) -> Tensor:
        """A new flat vector [P] (float32) from tensors by name."""
        flat = torch.empty(self.size)
        for name, view in self.views(flat).items():
            view.copy_(tensors[name].detach())
        return flat

    def layers(self, flat: Tensor, weights_only: bool) -> list[Tensor]:
        """The slice [..., size] of each tensor, as views; `weights_only` leaves out biases and
        normalisation scales (tensors of fewer than two dimensions)."""
        spans = zip(self.shapes, self.offsets, self.offsets[1:], strict=False)
        return [
            flat[..., start:stop]
            for shape, start, stop in spans
            if not weights_only or len(shape) >= 2
        ]


def room_for(rows: Tensor) -> Tensor:
    """Uninitialised memory for as many rows [C, P], each of which begins with a cache line. On some
    processors the bits of a product depend on where in memory its matrices begin; with such rows
    they do not depend on a client's place in the stack."""
    count, length = rows.shape
    return rows.new_empty(count, -(-length // CACHE_LINE) * CACHE_LINE)[:, :length]


def copied_apart(rows: Tensor) -> Tensor:
    """A copy of rows [C, P] in such memory."""
    return room_for(rows).copy_(rows)


def flat_parameters(module: nn.Module) -> Tensor:
    """The module's parameters as a new flat vector [P]."""
    return Layout.of(module).flatten(dict(module.named_parameters()))
