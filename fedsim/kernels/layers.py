"""The plain sequences of layers whose gradients are written out, and what computes each layer."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedsim.kernels import convolutions
from fedsim.kernels.convolutions import CompiledConvolution, side
from fedsim.kernels.layer_gradients import DenseLayer, LayerGradient

ACTIVATIONS = (nn.ReLU, nn.Tanh)


@dataclass(frozen=True)
class Layer:
    """A dense layer or a convolution, with the activation and the max-pooling (of so many pixels a
    side) that follow it.

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
        """What computes it in float32."""
        return self._kind(True)

    def _kind(self, single: bool) -> type[LayerGradient]:
        return (
            DenseLayer
            if isinstance(self.module, nn.Linear)
            else convolutions.kind(self.module, self.pool, self.first, single)
        )

    @property
    def blocks(self) -> int:
        """So many blocks of pixels a side, each of which is pooled to one, are looked at by the
        convolutions of a pooled pixel."""
        return -(-(side(self.module.kernel_size) + self.pool - 1) // self.pool)

    def matrices(self, batch: int) -> list[tuple[int, int]]:
        """Rows and columns of a client's matrices that the library multiplies with a batch of so
        many examples: the shorter ones, whose sizes divide the others'."""
        if isinstance(self.module, nn.Linear):
            return [
                (batch, columns)
                for columns in (batch, self.module.in_features, self.module.out_features)
            ]
        if self.kind is CompiledConvolution:
            return []
        filters, pixels = (
            self.module.out_channels * self.pool**2,
            self.module.in_channels * (self.blocks * self.pool) ** 2,
        )
        return [(filters, pixels), (pixels, batch), (filters, batch)]

    def at(self, weight: Tensor, bias: Tensor) -> LayerGradient:
        """The layer of c clients with these weights [c, ...] and biases [c, out], which a step
        changes in place."""
        return self._kind(weight.dtype == torch.float32)(self, weight, bias)


def layers_of(module: nn.Module) -> list[Layer] | None:
    """The layers of a plain sequence: convolutions of stride 1, each followed by an activation, a
    max-pooling, both or neither; Flatten; dense layers, each but the last followed by an
    activation. All of them have biases. None for any other module, and for one with further or
    shared parameters or with hooks."""
    if not isinstance(module, nn.Sequential) or type(module).forward is not nn.Sequential.forward:
        return None
    # Unlike named_children, with a layer that stands there twice
    parts, found = list(module._modules.items()), []
    while parts and _is_convolution(parts[0][1]):
        name, convolution = parts.pop(0)
        activation, pool = None, 1
        while parts and not isinstance(parts[0][1], nn.Conv2d | nn.Flatten):
            _, part = parts.pop(0)
            if type(part) in ACTIVATIONS and activation is None:
                activation = type(part)
            elif _is_pooling(part) and pool == 1:
                pool = side(part.kernel_size)
            else:
                return None
        found.append(Layer(name, convolution, activation, pool, first=not found))
    if (
        not parts
        or type(flatten := parts.pop(0)[1]) is not nn.Flatten
        or (flatten.start_dim, flatten.end_dim) != (1, -1)
    ):
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


def _is_convolution(part: nn.Module) -> bool:
    return (
        type(part) is nn.Conv2d
        and part.bias is not None
        and side(part.kernel_size) > 0
        and not isinstance(part.padding, str)
        and part.padding[0] == part.padding[1]
        and (part.stride, part.dilation, part.groups, part.padding_mode)
        == ((1, 1), (1, 1), 1, "zeros")
    )


def _is_pooling(part: nn.Module) -> bool:
    if type(part) is not nn.MaxPool2d or part.ceil_mode or part.return_indices:
        return False
    return side(part.kernel_size) == side(part.stride) > 0 and (
        side(part.padding),
        side(part.dilation),
    ) == (0, 1)
