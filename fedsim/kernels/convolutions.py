"""Convolutions of c clients with the max-pooling that follows them: three ways to compute the same,
each the fastest for some layers.

Images and their derivatives are [c, channels, H, W, B], filters [c, out, in, k, k]."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedsim.kernels.compiled import PROCESSORS, convolutions as compiled
from fedsim.kernels.layer_gradients import LayerGradient

if TYPE_CHECKING:
    from fedsim.kernels.layers import Layer

# With more, convolutions and maxima of the library are faster than a product with columns
MOST_CHANNELS = 16
# Channels of what is compiled are filled up to a multiple of it; as many, or fewer, are taken as
# data only
STRIP, FEW = 16, 4
MOST_SIDE = 16  # of the filters that it takes
LEAST_OUTPUTS = 5  # with fewer, too much of what it does is for zeros


def side(size: int | tuple[int, ...]) -> int:
    """The side of a square; 0 for another rectangle."""
    return size if isinstance(size, int) else size[0] if len(set(size)) == 1 else 0


def kind(convolution: nn.Conv2d, pool: int, first: bool, single: bool) -> type[Convolution]:
    """What computes a convolution and the max-pooling that follows it. first: its inputs are data,
    whose gradient is not wanted; single: in float32."""
    inputs, outputs, size = (
        convolution.in_channels,
        convolution.out_channels,
        side(convolution.kernel_size),
    )
    fits = size in (3, 5) if inputs > FEW else first and size <= MOST_SIDE
    if (
        PROCESSORS
        and single
        and fits
        and outputs >= LEAST_OUTPUTS
        and pool <= 2
        and convolution.padding[0] < size
    ):
        return CompiledConvolution
    return ColumnConvolution if max(inputs, outputs) <= MOST_CHANNELS else LibraryConvolution


class Convolution(LayerGradient):
    """A convolution, whose gradient is small enough to be written out."""

    def __init__(self, layer: Layer, weight: Tensor, bias: Tensor) -> None:
        super().__init__(layer, weight, bias)
        self.size, self.padding = layer.module.kernel_size[0], layer.module.padding[0]

    def squared(self) -> Tensor:
        return self.gradient.square().sum((1, 2, 3, 4)) + self.slope.square().sum(1)

    def climb(self, step: Tensor) -> None:
        weight = torch.addcmul(self.weight, self.gradient, step.view(-1, 1, 1, 1, 1))
        self.stand(weight, torch.addcmul(self.bias, self.slope, step.view(-1, 1)))

    def write(self, weight: Tensor, bias: Tensor) -> None:
        weight.copy_(self.gradient)
        bias.copy_(self.slope)

    def _add(self, along: float) -> None:
        self.weight.add_(self.gradient, alpha=along)
        self.bias.add_(self.slope, alpha=along)


class ColumnConvolution(Convolution):
    """Convolution and max-pooling as one product of matrices, for few channels.

    The p^2 convolutions that a maximum is taken of look at (k + p - 1)^2 pixels together. These,
    for each place of the pooled image, are the columns [c, in (k + p - 1)^2, places], and the p^2
    outputs are products with the filters moved by up to p - 1 pixels among zeros.
    """

    def __init__(self, layer: Layer, weight: Tensor, bias: Tensor) -> None:
        super().__init__(layer, weight, bias)
        clients, outputs, inputs = weight.shape[:3]
        self.blocks = layer.blocks
        side = self.blocks * layer.pool
        self.moved = weight.new_zeros(clients, layer.pool, layer.pool, outputs, inputs, side, side)
        self.inside = self._inside_of(self.moved)

    def forward(self, x: Tensor) -> Tensor:
        if self.weight is self.point[0] or not self.layer.first:  # data are the same uphill
            self.columns = self._columns(x)
        self.inside.copy_(self.weight[:, None, None])
        convolved = torch.bmm(self.moved.flatten(1, 3).flatten(2), self.columns)
        # Written over by the derivatives by them
        self.convolved = convolved.unflatten(1, (self.layer.pool**2, -1))
        first, *others = self.convolved.unbind(1)
        self.highest = [first]  # of the first, the first two, ...
        for each in others:
            self.highest.append(torch.maximum(self.highest[-1], each))
        self.out = self._activated(self.highest[-1] + self.bias.unsqueeze(-1))
        return self.out.view(*self.out.shape[:2], *self.places, -1)

    def _columns(self, x: Tensor) -> Tensor:
        """The image is laid out by the place of a pixel in its block of p x p, [c, in, p, p, rows,
        columns, B], so that what one pixel of the filters meets is made of long runs."""
        clients, inputs, *image, examples = x.shape
        pool, padding = self.layer.pool, self.padding
        self.image, self.places = (
            image,
            [(length + 2 * padding - self.size + 1) // pool for length in image],
        )
        rows, columns = extent = [length + self.blocks - 1 for length in self.places]
        padded = x.new_zeros(clients, inputs, rows * pool, columns * pool, examples)
        _within(padded, padding, image).copy_(
            x[:, :, : rows * pool - padding, : columns * pool - padding]
        )
        self.cells = clients, inputs, pool, pool, *extent, examples
        cells = (
            padded.view(clients, inputs, rows, pool, columns, pool, examples)
            .permute(0, 1, 3, 5, 2, 4, 6)
            .contiguous()
        )
        each, group, by_row, by_column, down, right, _ = cells.stride()
        shape = (
            clients,
            inputs,
            self.blocks,
            pool,
            self.blocks,
            pool,
            self.places[0],
            self.places[1] * examples,
        )
        found = cells.as_strided(shape, (each, group, down, by_row, right, by_column, down, 1))
        return found.reshape(clients, inputs * (self.blocks * pool) ** 2, -1)

    def backward(self, d: Tensor) -> Tensor | None:
        d = self._before_activation(d.reshape(self.out.shape), self.out)
        self.slope, convolved = d.sum(-1), self.convolved
        # Of equal ones the first counts as the maximum
        for place in range(len(self.highest) - 1, 0, -1):
            each = convolved[:, place].sub_(self.highest[place - 1])
            torch.ops.aten.threshold_backward.grad_input(d, each, 0, grad_input=each)
            d = d - each
        convolved[:, 0] = d
        convolved, filters = convolved.flatten(1, 2), self.moved.flatten(1, 3).flatten(2)
        moved = torch.bmm(convolved, self.columns.transpose(1, 2)).view(self.moved.shape)
        self.gradient = functools.reduce(
            torch.add, [each for row in self._inside_of(moved).unbind(1) for each in row.unbind(1)]
        )
        return (
            None
            if self.layer.first
            else self._summed(torch.bmm(filters.transpose(1, 2), convolved, out=self.columns))
        )

    def _summed(self, columns: Tensor) -> Tensor:
        """The image's derivative from that of the columns."""
        clients, inputs, pool, _, *extent, examples = self.cells
        height, width = self.places
        cells = columns.new_zeros(clients, inputs, pool, pool, extent[0], extent[1] * examples)
        columns = columns.view(
            clients, inputs, self.blocks, pool, self.blocks, pool, height, width * examples
        )
        for row in range(self.blocks):
            for column in range(self.blocks):
                first, last = column * examples, (column + width) * examples
                cells[..., row : row + height, first:last].add_(columns[:, :, row, :, column])
        padded = (
            cells.view(self.cells)
            .permute(0, 1, 4, 2, 5, 3, 6)
            .reshape(clients, inputs, extent[0] * pool, extent[1] * pool, examples)
        )
        found = _within(padded, self.padding, self.image)
        short = [length - size for length, size in zip(self.image, found.shape[2:4], strict=True)]
        return F.pad(found, (0, 0, 0, short[1], 0, short[0])) if any(short) else found

    def _inside_of(self, moved: Tensor) -> Tensor:
        """A view [c, p, p, out, in, k, k] of the filters in each of the p^2 places."""
        clients, down, right, *rest = moved.stride()
        size = *moved.shape[:5], self.size, self.size
        return moved.as_strided(size, (clients, down + rest[2], right + rest[3], *rest))


def _within(padded: Tensor, padding: int, image: Sequence[int]) -> Tensor:
    """Where an image lies in a padded one, as far as there is room for it."""
    height, width = image
    return padded[:, :, padding : padding + height, padding : padding + width]


class LibraryConvolution(Convolution):
    """Convolution and max-pooling by the library, one client after the other, in the layout
    (channels last) that it is fastest in."""

    def forward(self, x: Tensor) -> Tensor:
        pool, self.before, found = self.layer.pool, [], []
        for image, filters, shift in zip(x, self.weight, self.bias, strict=True):
            image = image.permute(3, 0, 1, 2).contiguous(memory_format=torch.channels_last)
            convolved, indices = F.conv2d(image, filters, shift, padding=self.padding), None
            outputs = convolved
            if pool > 1:
                outputs, indices = F.max_pool2d(convolved, pool, return_indices=True)
            outputs = self._activated(outputs)
            self.before.append((image, convolved, indices, outputs))
            found.append(outputs.permute(1, 2, 3, 0))
        return _stacked(found)

    def backward(self, d: Tensor) -> Tensor | None:
        pool, padding = [self.layer.pool] * 2, [self.padding] * 2
        wanted, found = [not self.layer.first, True, True], []
        for each, filters, (image, convolved, indices, outputs) in zip(
            d, self.weight, self.before, strict=True
        ):
            each = each.permute(3, 0, 1, 2).contiguous(memory_format=torch.channels_last)
            each = self._before_activation(each, outputs)
            if indices is not None:
                each = torch.ops.aten.max_pool2d_with_indices_backward(
                    each, convolved, pool, pool, [0, 0], [1, 1], False, indices
                )
            settings = [each.shape[1]], [1, 1], padding, [1, 1], False, [0, 0], 1, wanted
            found.append(torch.ops.aten.convolution_backward(each, image, filters, *settings))
        images, filters, shifts = zip(*found, strict=True)
        self.gradient, self.slope = _stacked(filters), _stacked(shifts)
        return (
            None if self.layer.first else _stacked([image.permute(1, 2, 3, 0) for image in images])
        )


class CompiledConvolution(Convolution):
    """Convolution and max-pooling by `fedsim/kernels/_convolutions.c`, one client after the other,
    with fewer multiplications: float32 only."""

    def forward(self, x: Tensor) -> Tensor:
        self.images, outputs, pool = _turned(x).contiguous(), self.bias.shape[1], self.layer.pool
        clients, examples, height, width, inputs = self.images.shape
        rows, columns = (
            (length + 2 * self.padding - self.size + 1) // pool for length in (height, width)
        )
        self.shape = examples, inputs, outputs, height, width, self.size, self.padding, pool
        self.out = x.new_empty(clients, examples, rows, columns, outputs)
        self.places = x.new_empty(
            clients, examples * rows * columns, -(-outputs // STRIP) * STRIP if pool == 2 else 0
        )
        self._each(compiled.forward, self.images, self._filters, self.bias, self.out, self.places)
        return _turned(self._activated(self.out))

    def backward(self, d: Tensor) -> Tensor | None:
        slopes, filters = self._before_activation(_turned(d), self.out).contiguous(), self._filters
        gradient = filters.new_empty(filters.shape)
        below = (
            self.images.new_empty(len(slopes), 0)
            if self.layer.first
            else torch.empty_like(self.images)
        )
        self._each(compiled.backward, self.images, filters, self.places, slopes, gradient, below)
        self.gradient, self.slope = gradient.movedim(-1, 2), slopes.sum((1, 2, 3))
        return None if self.layer.first else _turned(below)

    @property
    def _filters(self) -> Tensor:
        """[c, out, k, k, in], as which each client's lie in memory."""
        return self.weight.movedim(2, -1)

    def _each(self, function: Callable[..., None], *stacks: Tensor) -> None:
        for client in zip(*map(_arrays, stacks), strict=True):
            function(PROCESSORS[0], self.shape, *client)


def _arrays(stack: Tensor) -> np.ndarray:
    """A stack as an array, of which each client's part is without gaps: not a copy where it is
    so."""
    return (stack if stack[0].is_contiguous() else stack.contiguous()).numpy()


def _turned(images: Tensor) -> Tensor:
    """A view [c, B, H, W, channels] of [c, channels, H, W, B], and back."""
    return images.permute(0, 4, 2, 3, 1)


def _stacked(tensors: Sequence[Tensor]) -> Tensor:
    """Stacked; one alone is not copied."""
    return torch.stack(tensors) if len(tensors) > 1 else tensors[0].unsqueeze(0)
