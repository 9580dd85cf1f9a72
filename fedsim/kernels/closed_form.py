"""Mini-batch gradients of plain sequences of layers, written out: without autograd, and without a
gradient where a step needs none."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor, nn

from fedsim.algorithms.directions import TINY, Affine, norm
from fedsim.kernels.convolutions import CompiledConvolution, LibraryConvolution
from fedsim.kernels.layer_gradients import DenseLayer, LayerGradient
from fedsim.kernels.layers import layers_of
from fedsim.parameters import CACHE_LINE, Layout, copied_apart, room_for
from fedsim.training.gradients import Descent, GradientKernel

CONVOLUTION_CLIENTS = 4  # in one call, none of whose convolutions is by the library
# parameters: up to so many, networks that begin with a convolution go uphill by a row of their
# gradient, faster so
ONE_ROW = 1 << 18


class ClosedFormGradient(GradientKernel):
    """All clients in one call, for the modules of `layers_of`."""

    def __init__(
        self, module: nn.Module, layout: Layout, classification: bool, mixed: bool = False
    ) -> None:
        super().__init__(module, layout, classification, mixed)
        self.layers, self.less_one = layers_of(module), torch.tensor(-1.0)

    def __call__(self, x: Tensor, inputs: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        if len(x) > 1 and x.stride(0) % CACHE_LINE:  # a point that a rule made
            x = copied_apart(x)
        gradients, layers = room_for(x), self._at(x)
        self._backward(layers, inputs, targets, weights)
        for layer, parameters in zip(layers, self._views(gradients), strict=True):
            layer.write(*parameters)
        return gradients

    @classmethod
    def fits(cls, module: nn.Module, gpu: bool) -> bool:
        """Plain sequences of layers, those with convolutions on a CPU only."""
        return layers_of(module) is not None and not (gpu and _convolutional(module))

    @classmethod
    def clients_per_call(cls, module: nn.Module) -> int | None:
        """Few with convolutions, and one where the library computes one of them: more fall out of
        the cache."""
        if not _convolutional(module):
            return None
        return (
            1
            if any(layer.kind is LibraryConvolution for layer in layers_of(module) or ())
            else CONVOLUTION_CLIENTS
        )

    def independent_of_place(self, batch: int) -> bool:
        """There are processors on which the bits of a product depend on where in memory its
        matrices begin, modulo 16 bytes, and those of a vector on more; on a GPU they may depend on
        how many matrices there are, which is accepted."""
        if any(parameter.is_cuda for parameter in self.module.parameters()):
            return True
        matrices = [matrix for layer in self.layers for matrix in layer.matrices(batch)]
        known = not any(layer.kind is LibraryConvolution for layer in self.layers)
        return known and all(
            rows * columns % 4 == 0 and min(rows, columns) > 1 for rows, columns in matrices
        )

    def copied(self, x: Tensor) -> Tensor:
        return copied_apart(x)

    def descent(self, x: Tensor, form: Affine, rate: float) -> Descent:
        """The gradient that a step follows is never written out, but into the products that change
        the weights."""
        layers, left, along = self._at(x), 1 - rate * form.pull, -rate * form.scale
        shift = None if form.offset is None else form.offset * -rate
        climb = self._climb(x, layers, form.radius) if form.radius else None

        def step(*batch: Tensor) -> None:
            if climb:
                self._backward(layers, *batch)
                climb()
            if shift is None and left == 1:
                self._backward(layers, *batch, then=lambda layer: layer.descend(along))
                return
            self._backward(layers, *batch)
            x.mul_(left) if shift is None else torch.add(shift, x, alpha=left, out=x)
            for layer in layers:
                layer.descend(along)

        return step

    def _climb(self, x: Tensor, layers: list[LayerGradient], radius: float) -> Callable[[], None]:
        """What takes the layers of models x [c, P] to the distance `radius` uphill, after a
        backward pass there. Small networks go by a row of gradients and one of uphill parameters
        [c, P] each, others layer by layer, with nothing of the size of a dense weight written."""
        if self.layout.size <= ONE_ROW and not isinstance(layers[0], DenseLayer):
            gradients, peak = room_for(x), room_for(x)
            slopes, places = self._views(gradients), self._views(peak)

            def climb() -> None:
                for layer, slope in zip(layers, slopes, strict=True):
                    layer.write(*slope)
                torch.addcmul(x, gradients, radius / (norm(gradients) + TINY), out=peak)
                for layer, place in zip(layers, places, strict=True):
                    layer.stand(*place)

            return climb

        def climb_one_by_one() -> None:
            # squares not summed over layers at once, which would have an order that depends on a
            # client's place
            steps = radius / (
                functools.reduce(torch.add, [layer.squared() for layer in layers]).sqrt() + TINY
            )
            for layer in layers:
                layer.climb(steps)

        for layer in layers:
            layer.climbs = True
        return climb_one_by_one

    def outputs(self, x: Tensor, inputs: Tensor) -> Tensor:
        """Of dense layers in one call, of compiled convolutions model by model; other convolutions
        of large batches are for the library."""
        if all(layer.kind is DenseLayer for layer in self.layers):
            return self._forward(self._at(x), inputs.expand(len(x), *inputs.shape))[0]
        if all(layer.kind in (DenseLayer, CompiledConvolution) for layer in self.layers):
            return torch.cat(
                [self._forward(self._at(row), inputs.unsqueeze(0))[0] for row in x.split(1)]
            )
        return super().outputs(x, inputs)

    def _at(self, x: Tensor) -> list[LayerGradient]:
        return [
            layer.at(*parameters)
            for layer, parameters in zip(self.layers, self._views(x), strict=True)
        ]

    def _views(self, x: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Weight [c, ...] and bias [c, out] of each layer."""
        views = self.layout.views(x)
        return [
            (views[weight], views[bias])
            for weight, bias in (layer.parameters for layer in self.layers)
        ]

    def _backward(
        self,
        layers: list[LayerGradient],
        inputs: Tensor,
        targets: Tensor,
        weights: Tensor,
        then: Callable[[LayerGradient], None] = lambda layer: None,
    ) -> None:
        """A forward and a backward pass; `then` is done to each layer when no other needs its
        weights any more."""
        outputs, image = self._forward(layers, inputs)
        d = self._slope(outputs, targets).mul_(weights.unsqueeze(-1))
        for layer in reversed(layers):
            if d.dim() == 3 and not isinstance(layer, DenseLayer):
                d = d.transpose(1, 2).reshape(image)
            d = layer.backward(d)
            then(layer)

    def _forward(
        self, layers: list[LayerGradient], inputs: Tensor
    ) -> tuple[Tensor, torch.Size | None]:
        """Outputs [c, B, outputs] from inputs [c, B, ...], and the shape in which convolutions gave
        theirs to the first dense layer."""
        h, image = (
            inputs.flatten(2) if isinstance(layers[0], DenseLayer) else inputs.movedim(1, -1),
            None,
        )
        for layer in layers:
            if h.dim() > 3 and isinstance(layer, DenseLayer):
                image, h = h.shape, h.flatten(1, 3).transpose(1, 2)
            h = layer.forward(h)
        return h, image

    def _slope(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The derivative of each example's loss by its outputs [c, B, outputs], which may be
        written over."""
        if self.classification:
            d = _softmax_(outputs)
            return d.scatter_add_(
                -1, targets.unsqueeze(-1), self.less_one.to(d).expand(*targets.shape, 1)
            )
        return (outputs - targets).mul_(2 / targets.shape[-1])


def _convolutional(module: nn.Module) -> bool:
    return any(isinstance(part, nn.Conv2d) for part in module.modules())


def _softmax_(logits: Tensor) -> Tensor:
    """In place, over the last dimension; torch's own takes three times as long where that is
    short."""
    powers = logits.sub_(logits.amax(-1, keepdim=True)).exp_()
    return powers.div_(powers.sum(-1, keepdim=True))
