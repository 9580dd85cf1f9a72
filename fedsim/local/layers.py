"""Layers of c clients with forward pass and gradient written out, and the sequences that are made of such layers.

Activations are [c, B, features] in dense layers and [c, channels, H, W, B] in convolutions: with the examples last, what is next to each
other in an image is in memory a run of B numbers, so that columns, maxima and their gradients are plain passes over memory.

A layer holds its inputs and derivatives from a forward and a backward pass until the next. Its gradient need not be written out: a
dense layer's is the product d' h of derivatives d [c, B, out] and inputs h [c, B, in], which steps put into their own products.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ACTIVATIONS = (nn.ReLU, nn.Tanh)
MOST_CHANNELS = 16  # with more, convolutions and maxima of the library are faster than a product with columns
WIDE = 16  # examples in a batch, from which on W h' is faster than h W'

_kept_where_positive = torch.ops.aten.threshold_backward


@dataclass(frozen=True)
class Layer:
    """A dense layer or a convolution, with the activation and the max-pooling (of so many pixels a side) that follow it.

    first: whether its inputs are the data.
    """

    name: str
    module: nn.Linear | nn.Conv2d
    activation: type[nn.Module] | None = None
    pool: int = 1
    first: bool = False

    @property
    def parameters(self) -> tuple[str, str]:
        return f"{self.name}.weight", f"{self.name}.bias"

    @property
    def kind(self) -> type[LayerGradient]:
        if isinstance(self.module, nn.Linear):
            return DenseLayer
        few = max(self.module.in_channels, self.module.out_channels) <= MOST_CHANNELS
        return ColumnConvolution if few else LibraryConvolution

    @property
    def blocks(self) -> int:
        """So many blocks of pixels a side, each of which is pooled to one, are looked at by the convolutions of a pooled pixel."""
        return -(-(_side(self.module.kernel_size) + self.pool - 1) // self.pool)

    def matrices(self, batch: int) -> list[tuple[int, int]]:
        """Rows and columns of a client's matrices with a batch of so many examples: the shorter ones, whose sizes divide the others'."""
        if isinstance(self.module, nn.Linear):
            return [(batch, columns) for columns in (batch, self.module.in_features, self.module.out_features)]
        filters, pixels = self.module.out_channels * self.pool**2, self.module.in_channels * (self.blocks * self.pool) ** 2
        return [(filters, pixels), (pixels, batch), (filters, batch)]

    def at(self, weight: Tensor, bias: Tensor) -> LayerGradient:
        """The layer of c clients with these weights [c, ...] and biases [c, out], which a step changes in place."""
        return self.kind(self, weight, bias)


def layers_of(module: nn.Module) -> list[Layer] | None:
    """The layers of a plain sequence: convolutions of stride 1, each followed by an activation, a max-pooling, both or neither; Flatten;
    dense layers, each but the last followed by an activation. All of them have biases. None for any other module, and for one with
    further or shared parameters or with hooks."""
    if not isinstance(module, nn.Sequential) or type(module).forward is not nn.Sequential.forward:
        return None
    parts, found = list(module._modules.items()), []  # unlike named_children, with a layer that stands there twice
    while parts and _is_convolution(parts[0][1]):
        name, convolution = parts.pop(0)
        activation, pool = None, 1
        while parts and not isinstance(parts[0][1], nn.Conv2d | nn.Flatten):
            _, part = parts.pop(0)
            if type(part) in ACTIVATIONS and activation is None:
                activation = type(part)
            elif _is_pooling(part) and pool == 1:
                pool = _side(part.kernel_size)
            else:
                return None
        found.append(Layer(name, convolution, activation, pool, first=not found))
    if not parts or type(flatten := parts.pop(0)[1]) is not nn.Flatten or (flatten.start_dim, flatten.end_dim) != (1, -1):
        return None
    if len(parts) % 2 == 0 or not all(type(part) in ACTIVATIONS for _, part in parts[1::2]):
        return None
    for place, (name, part) in enumerate(parts[::2]):
        if type(part) is not nn.Linear or part.bias is None:
            return None
        activation = type(parts[2 * place + 1][1]) if 2 * place + 1 < len(parts) else None
        found.append(Layer(name, part, activation, first=not found))
    own = [parameter for layer in found for parameter in layer.parameters]
    hooks = "_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"
    hooked = any(getattr(part, name) for part in module.modules() for name in hooks)
    return None if hooked or own != [name for name, _ in module.named_parameters()] else found


def _side(size: int | tuple[int, ...]) -> int:
    """The side of a square; 0 for another rectangle."""
    return size if isinstance(size, int) else size[0] if len(set(size)) == 1 else 0


def _is_convolution(part: nn.Module) -> bool:
    return (
        type(part) is nn.Conv2d
        and part.bias is not None
        and _side(part.kernel_size) > 0
        and not isinstance(part.padding, str)
        and part.padding[0] == part.padding[1]
        and (part.stride, part.dilation, part.groups, part.padding_mode) == ((1, 1), (1, 1), 1, "zeros")
    )


def _is_pooling(part: nn.Module) -> bool:
    if type(part) is not nn.MaxPool2d or part.ceil_mode or part.return_indices:
        return False
    return _side(part.kernel_size) == _side(part.stride) > 0 and (_side(part.padding), _side(part.dilation)) == (0, 1)


class LayerGradient:
    """A layer of c clients at a point, and after a backward pass its gradient there."""

    def __init__(self, layer: Layer, weight: Tensor, bias: Tensor) -> None:
        self.layer, self.weight, self.bias = layer, weight, bias
        self.climbs = False  # whether steps go uphill first

    def forward(self, x: Tensor) -> Tensor:
        raise NotImplementedError("a layer gives outputs")

    def backward(self, d: Tensor) -> Tensor | None:
        """From the derivative of the loss by the outputs to that by the inputs, None for the first layer."""
        raise NotImplementedError("a layer gives derivatives")

    def squared(self) -> Tensor:
        """The squared norm of the gradient [c]."""
        raise NotImplementedError("a layer knows how long its gradient is")

    def climb(self, step: Tensor) -> None:
        """Go on at the point as far uphill as step [c] times the gradient; `descend` comes back."""
        raise NotImplementedError("a layer can be taken uphill")

    def write(self, weight: Tensor, bias: Tensor) -> None:
        """Write the gradient."""
        raise NotImplementedError("a layer writes its gradient")

    def descend(self, along: float) -> None:
        """point <- point + along gradient, in place."""
        raise NotImplementedError("a layer takes a step")

    def _activated(self, z: Tensor) -> Tensor:
        """In place."""
        activation = self.layer.activation
        return z.relu_() if activation is nn.ReLU else z.tanh_() if activation is nn.Tanh else z

    def _before_activation(self, d: Tensor, outputs: Tensor) -> Tensor:
        activation = self.layer.activation
        if activation is nn.ReLU:
            return _kept_where_positive(d, outputs, 0)
        return d * (1 - outputs.square()) if activation is nn.Tanh else d


class DenseLayer(LayerGradient):
    """h [c, B, in] to the activation of h W' + b [c, B, out].

    Uphill, where the weight is W + s d' h with d, h those at the point itself, products with it are products with W and others of B rows:
    x (W + s d' h)' = x W' + s (x h') d, and so nothing of the size of W is written. Inputs that are data are the same there and here.
    """

    def __init__(self, layer: Layer, weight: Tensor, bias: Tensor) -> None:
        super().__init__(layer, weight, bias)
        self.uphill: tuple[Tensor, Tensor] | None = None  # s d and h

    def forward(self, x: Tensor) -> Tensor:
        if self.uphill is None:
            z = self._products(x)
            self.z = z.clone() if self.climbs and self.layer.first else None
        elif self.z is not None:
            z = torch.baddbmm(self.z, self.alike, self.uphill[0])
        else:
            z = self._products(x).baddbmm_(_alike(x, self.uphill[1]), self.uphill[0])
        self.h, self.out = x, self._activated(z)
        return self.out

    def _products(self, x: Tensor) -> Tensor:
        if x.shape[1] < WIDE:
            return torch.baddbmm(self.bias.unsqueeze(1), x, self.weight.transpose(1, 2))
        return torch.baddbmm(self.bias.unsqueeze(2), self.weight, x.transpose(1, 2)).transpose(1, 2)

    def backward(self, d: Tensor) -> Tensor | None:
        self.d = d = self._before_activation(d, self.out)
        if self.layer.first:
            return None
        below = torch.bmm(d, self.weight)
        return below if self.uphill is None else below.baddbmm_(torch.bmm(d, self.uphill[0].transpose(1, 2)), self.uphill[1])

    def squared(self) -> Tensor:
        """|d' h|^2 + |d' 1|^2 = sum of (h h' + 1)(d d'), entry by entry. No less than the sum's own rounding
        errors, which are all that is left of it where the examples' gradients cancel."""
        self.alike = _alike(self.h, self.h)
        products = torch.bmm(self.d, self.d.transpose(1, 2)).mul_(self.alike)
        alone = products.diagonal(dim1=1, dim2=2).sum(-1)
        return products.sum((1, 2)).maximum(alone * torch.finfo(alone.dtype).eps)

    def climb(self, step: Tensor) -> None:
        self.uphill = self.d * step.view(-1, 1, 1), self.h

    def write(self, weight: Tensor, bias: Tensor) -> None:
        torch.bmm(self.d.transpose(1, 2), self.h, out=weight)
        torch.sum(self.d, dim=1, out=bias)

    def descend(self, along: float) -> None:
        self.weight.baddbmm_(self.d.transpose(1, 2), self.h, alpha=along)
        self.bias.add_(self.d.sum(dim=1), alpha=along)
        self.uphill = None


def _alike(x: Tensor, y: Tensor) -> Tensor:
    """Products of examples' inputs [c, B, B], with 1 for the bias."""
    return torch.bmm(x, y.transpose(1, 2)).add_(1)


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
        pool, self.before, found = self.layer.pool, [], []
        for image, filters, shift in zip(x, self.filters, self.shift, strict=True):
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
        for each, filters, (image, convolved, indices, outputs) in zip(d, self.filters, self.before, strict=True):
            each = each.permute(3, 0, 1, 2).contiguous(memory_format=torch.channels_last)
            each = self._before_activation(each, outputs)
            if indices is not None:
                each = torch.ops.aten.max_pool2d_with_indices_backward(each, convolved, pool, pool, [0, 0], [1, 1], False, indices)
            settings = [each.shape[1]], [1, 1], padding, [1, 1], False, [0, 0], 1, wanted
            found.append(torch.ops.aten.convolution_backward(each, image, filters, *settings))
        images, filters, shifts = zip(*found, strict=True)
        self.gradient, self.slope = _stacked(filters), _stacked(shifts)
        return None if self.layer.first else _stacked([image.permute(1, 2, 3, 0) for image in images])


def _stacked(tensors: Sequence[Tensor]) -> Tensor:
    """Stacked; one alone is not copied."""
    return torch.stack(tensors) if len(tensors) > 1 else tensors[0].unsqueeze(0)
