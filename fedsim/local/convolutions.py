"""Convolutions of c clients with the max-pooling that follows them: three ways to compute the same, each the fastest for some layers."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedsim.local.layer_gradients import LayerGradient

try:
    from fedsim import _convolutions as compiled
except ImportError:  # it could not be built where this was installed
    compiled = None

if TYPE_CHECKING:
    from fedsim.local.layers import Layer

PROCESSORS = compiled.PROCESSORS if compiled else ()  # those with a compiled kernel that this one can run, the fastest first
MOST_CHANNELS = 16  # with more, convolutions and maxima of the library are faster than a product with columns
STRIP = 16  # channels of what is compiled are multiples of it
FEW = 4  # channels of data up to which it takes them too
MOST_SIDE = 16  # of filters
MOST_PIXELS = 64  # a side; larger images fall out of the cache


def side(size: int | tuple[int, ...]) -> int:
    """The side of a square; 0 for another rectangle."""
    return size if isinstance(size, int) else size[0] if len(set(size)) == 1 else 0


def kind(convolution: nn.Conv2d, pool: int, first: bool) -> type[Convolution]:
    """What computes a convolution of float32 and the max-pooling that follows it; first: its inputs are data, whose gradient is not wanted."""
    inputs, outputs, size = convolution.in_channels, convolution.out_channels, side(convolution.kernel_size)
    if max(inputs, outputs) <= MOST_CHANNELS:
        return ColumnConvolution
    fits = inputs % STRIP == 0 and size in (3, 5) or first and inputs <= FEW and size <= MOST_SIDE
    if PROCESSORS and fits and outputs % STRIP == 0 and pool <= 2 and convolution.padding[0] < size:
        return CompiledConvolution
    return LibraryConvolution


class Convolution(LayerGradient):
    """A convolution, whose gradient is small enough to be written out."""

    def __init__(self, layer: Layer, weight: Tensor, bias: Tensor) -> None:
        super().__init__(layer, weight, bias)
        self.filters, self.shift = weight, bias  # at the point, or uphill of it
        self.size, self.padding = layer.module.kernel_size[0], layer.module.padding[0]

    def squared(self) -> Tensor:
        return self.gradient.square().sum((1, 2, 3, 4)) + self.slope.square().sum(1)

    def climb(self, step: Tensor) -> None:
        self.filters = torch.addcmul(self.weight, self.gradient, step.view(-1, 1, 1, 1, 1))
        self.shift = torch.addcmul(self.bias, self.slope, step.view(-1, 1))

    def write(self, weight: Tensor, bias: Tensor) -> None:
        weight.copy_(self.gradient)
        bias.copy_(self.slope)

    def descend(self, along: float) -> None:
        self.weight.add_(self.gradient, alpha=along)
        self.bias.add_(self.slope, alpha=along)
        self.filters, self.shift = self.weight, self.bias


class ColumnConvolution(Convolution):
    """Convolution and max-pooling as one product of matrices, for few channels.

    The p^2 convolutions that a maximum is taken of look at (k + p - 1)^2 pixels together. These, for each place of the pooled image, are
    the columns [c, in (k + p - 1)^2, places], and the p^2 outputs are products with the filters moved by up to p - 1 pixels among zeros.
    """

    def __init__(self, layer: Layer, weight: Tensor, bias: Tensor) -> None:
        super().__init__(layer, weight, bias)
        clients, outputs, inputs = weight.shape[:3]
        self.blocks = layer.blocks
        side = self.blocks * layer.pool
        self.moved = weight.new_zeros(clients, layer.pool, layer.pool, outputs, inputs, side, side)
        self.inside = self._inside_of(self.moved)

    def forward(self, x: Tensor) -> Tensor:
        if self.filters is self.weight or not self.layer.first:  # data are the same uphill
            self.columns = self._columns(x)
        self.inside.copy_(self.filters[:, None, None])
        convolved = torch.bmm(self.moved.flatten(1, 3).flatten(2), self.columns)
        self.convolved = convolved.unflatten(1, (self.layer.pool**2, -1))  # written over by the derivatives by them
        first, *others = self.convolved.unbind(1)
        self.highest = [first]  # of the first, the first two, ...
        for each in others:
            self.highest.append(torch.maximum(self.highest[-1], each))
        self.out = self._activated(self.highest[-1] + self.shift.unsqueeze(-1))
        return self.out.view(*self.out.shape[:2], *self.places, -1)

    def _columns(self, x: Tensor) -> Tensor:
        """The image is laid out by the place of a pixel in its block of p x p, [c, in, p, p, rows, columns, B], so that what one pixel of
        the filters meets is made of long runs."""
        clients, inputs, *image, examples = x.shape
        pool, padding = self.layer.pool, self.padding
        self.image, self.places = image, [(length + 2 * padding - self.size + 1) // pool for length in image]
        rows, columns = extent = [length + self.blocks - 1 for length in self.places]
        padded = x.new_zeros(clients, inputs, rows * pool, columns * pool, examples)
        _within(padded, padding, image).copy_(x[:, :, : rows * pool - padding, : columns * pool - padding])
        self.cells = clients, inputs, pool, pool, *extent, examples
        cells = padded.view(clients, inputs, rows, pool, columns, pool, examples).permute(0, 1, 3, 5, 2, 4, 6).contiguous()
        each, group, by_row, by_column, down, right, _ = cells.stride()
        shape = clients, inputs, self.blocks, pool, self.blocks, pool, self.places[0], self.places[1] * examples
        found = cells.as_strided(shape, (each, group, down, by_row, right, by_column, down, 1))
        return found.reshape(clients, inputs * (self.blocks * pool) ** 2, -1)

    def backward(self, d: Tensor) -> Tensor | None:
        d = self._before_activation(d.reshape(self.out.shape), self.out)
        self.slope, convolved = d.sum(-1), self.convolved
        for place in range(len(self.highest) - 1, 0, -1):  # of equal ones the first counts as the maximum
            each = convolved[:, place].sub_(self.highest[place - 1])
            torch.ops.aten.threshold_backward.grad_input(d, each, 0, grad_input=each)
            d = d - each
        convolved[:, 0] = d
        convolved, filters = convolved.flatten(1, 2), self.moved.flatten(1, 3).flatten(2)
        moved = torch.bmm(convolved, self.columns.transpose(1, 2)).view(self.moved.shape)
        self.gradient = functools.reduce(torch.add, [each for row in self._inside_of(moved).unbind(1) for each in row.unbind(1)])
        return None if self.layer.first else self._summed(torch.bmm(filters.transpose(1, 2), convolved, out=self.columns))

    def _summed(self, columns: Tensor) -> Tensor:
        """The image's derivative from that of the columns."""
        clients, inputs, pool, _, *extent, examples = self.cells
        height, width = self.places
        cells = columns.new_zeros(clients, inputs, pool, pool, extent[0], extent[1] * examples)
        columns = columns.view(clients, inputs, self.blocks, pool, self.blocks, pool, height, width * examples)
        for row in range(self.blocks):
            for column in range(self.blocks):
                first, last = column * examples, (column + width) * examples
                cells[..., row : row + height, first:last].add_(columns[:, :, row, :, column])
        padded = cells.view(self.cells).permute(0, 1, 4, 2, 5, 3, 6).reshape(clients, inputs, extent[0] * pool, extent[1] * pool, examples)
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
    """Convolution and max-pooling by the library, one client after the other, in the layout (channels last) that it is fastest in."""

    def forward(self, x: Tensor) -> Tensor:
        self.before, found = [], []
        for image, filters, shift in zip(x, self.filters, self.shift, strict=True):
            image = _channels_last(image)
            outputs, kept = self._pooled(image, filters, shift)
            outputs = self._activated(outputs)
            self.before.append((image, outputs, kept))
            found.append(outputs.permute(1, 2, 3, 0))
        return _stacked(found)

    def backward(self, d: Tensor) -> Tensor | None:
        found = []
        for each, filters, (image, outputs, kept) in zip(d, self.filters, self.before, strict=True):
            each = self._before_activation(_channels_last(each), outputs)
            found.append(self._derivatives(each, image, filters, kept))
        images, filters, shifts = zip(*found, strict=True)
        self.gradient, self.slope = _stacked(filters), _stacked(shifts)
        return None if self.layer.first else _stacked([image.permute(1, 2, 3, 0) for image in images])

    def _pooled(self, image: Tensor, filters: Tensor, shift: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Of one client's image [B, in, H, W]: the outputs before the activation, and what their derivatives need."""
        convolved, pool = F.conv2d(image, filters, shift, padding=self.padding), self.layer.pool
        if pool == 1:
            return convolved, ()
        outputs, indices = F.max_pool2d(convolved, pool, return_indices=True)
        return outputs, (convolved, indices)

    def _derivatives(self, d: Tensor, image: Tensor, filters: Tensor, kept: tuple[Tensor, ...]) -> tuple[Tensor | None, Tensor, Tensor]:
        """By the image (None for data), the filters and the shift."""
        pool, padding = [self.layer.pool] * 2, [self.padding] * 2
        if kept:
            convolved, indices = kept
            d = torch.ops.aten.max_pool2d_with_indices_backward(d, convolved, pool, pool, [0, 0], [1, 1], False, indices)
        wanted = [not self.layer.first, True, True]
        return torch.ops.aten.convolution_backward(d, image, filters, [d.shape[1]], [1, 1], padding, [1, 1], False, [0, 0], 1, wanted)


class CompiledConvolution(LibraryConvolution):
    """The same by `fedsim/_convolutions.c`, in float32: with fewer multiplications, pooled where it is convolved."""

    def _pooled(self, image: Tensor, filters: Tensor, shift: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        examples, _, height, width = image.shape
        if max(height, width) > MOST_PIXELS:
            return super()._pooled(image, filters, shift)
        rows, columns = ((length + 2 * self.padding - self.size + 1) // self.layer.pool for length in (height, width))
        results = image.new_empty(examples, rows, columns, len(shift))
        places = torch.empty_like(results) if self.layer.pool == 2 else image.new_empty(0)
        arrays = [each.numpy() for each in (_pixels(image), _pixels(filters), shift, results, places)]
        compiled.forward(PROCESSORS[0], self._shape(image), *arrays)
        return results.permute(0, 3, 1, 2), (places,)

    def _derivatives(self, d: Tensor, image: Tensor, filters: Tensor, kept: tuple[Tensor, ...]) -> tuple[Tensor | None, Tensor, Tensor]:
        if max(image.shape[2:]) > MOST_PIXELS:
            return super()._derivatives(d, image, filters, kept)
        gradient = torch.empty_like(filters, memory_format=torch.channels_last)
        below = None if self.layer.first else torch.empty_like(image)
        found = _pixels(gradient), image.new_empty(0) if below is None else _pixels(below)
        arrays = [each.numpy() for each in (_pixels(image), _pixels(filters), *kept, _pixels(d), *found)]
        compiled.backward(PROCESSORS[0], self._shape(image), *arrays)
        return below, gradient, d.sum((0, 2, 3))

    def _shape(self, image: Tensor) -> tuple[int, ...]:
        examples, inputs, height, width = image.shape
        return examples, inputs, self.filters.shape[1], height, width, self.size, self.padding, self.layer.pool


def _channels_last(image: Tensor) -> Tensor:
    """[channels, H, W, B] as [B, channels, H, W] with the channels last in memory."""
    return image.permute(3, 0, 1, 2).contiguous(memory_format=torch.channels_last)


def _pixels(image: Tensor) -> Tensor:
    """[B, channels, H, W] as [B, H, W, channels] without gaps, which is a view where the channels are last in memory."""
    return image.permute(0, 2, 3, 1).contiguous()


def _stacked(tensors: Sequence[Tensor]) -> Tensor:
    """Stacked; one alone is not copied."""
    return torch.stack(tensors) if len(tensors) > 1 else tensors[0].unsqueeze(0)
