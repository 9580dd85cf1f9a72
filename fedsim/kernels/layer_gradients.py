"""Layers of c clients with forward pass and gradient written out.

Activations are [c, B, features] in dense layers and [c, channels, H, W, B] in convolutions. In
memory, some have the examples last, as in these shapes, so that what is next to each other in an
image is a run of B numbers, and others the channels.

A layer holds its inputs and derivatives from a forward and a backward pass until the next. Its
gradient need not be written out: a dense layer's is the product d' h of derivatives d [c, B, out]
and inputs h [c, B, in], which steps put into their own products.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from fedsim.kernels.layers import Layer

WIDE = 16  # examples in a batch, from which on W h' is faster than h W'

_kept_where_positive = torch.ops.aten.threshold_backward


class LayerGradient:
    """A layer of c clients at a point, and after a backward pass its gradient there."""

    def __init__(self, layer: Layer, weight: Tensor, bias: Tensor) -> None:
        self.layer, self.point = layer, (weight, bias)
        # That it is computed with: at the point, or uphill of it
        self.weight, self.bias = self.point
        self.climbs = False  # whether steps go uphill first

    def forward(self, x: Tensor) -> Tensor:
        raise NotImplementedError("a layer gives outputs")

    def backward(self, d: Tensor) -> Tensor | None:
        """From the derivative of the loss by the outputs to that by the inputs, None for the first
        layer."""
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

    def stand(self, weight: Tensor, bias: Tensor) -> None:
        """Be computed with these, uphill of the point; `descend` comes back."""
        self.weight, self.bias = weight, bias

    def descend(self, along: float) -> None:
        """point <- point + along gradient, in place."""
        self.weight, self.bias = self.point
        self._add(along)

    def _add(self, along: float) -> None:
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

    Uphill, where the weight is W + s d' h with d, h those at the point itself, products with it are
    products with W and others of B rows: x (W + s d' h)' = x W' + s (x h') d, and so nothing of the
    size of W is written. Inputs that are data are the same there and here.
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
        return (
            below
            if self.uphill is None
            else below.baddbmm_(torch.bmm(d, self.uphill[0].transpose(1, 2)), self.uphill[1])
        )

    def squared(self) -> Tensor:
        """|d' h|^2 + |d' 1|^2 = sum of (h h' + 1)(d d'), entry by entry. No less than the sum's own
            rounding
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

    def _add(self, along: float) -> None:
        self.weight.baddbmm_(self.d.transpose(1, 2), self.h, alpha=along)
        self.bias.add_(self.d.sum(dim=1), alpha=along)
        self.uphill = None


def _alike(x: Tensor, y: Tensor) -> Tensor:
    """Products of examples' inputs [c, B, B], with 1 for the bias."""
    return torch.bmm(x, y.transpose(1, 2)).add_(1)
