"""Mini-batch gradients of a stack of models, in three executions of the same function.

Each kernel is called as `kernel(x, inputs, targets, weights) -> gradients`, for c clients at once:
x: [c, P]; inputs: [c, B, ...]; targets: [c, B] or [c, B, outputs]; weights: [c, B], 1/count for the examples that count and 0 for padding;
gradients: [c, P], of mixed precision where the kernel was made so. The loss of a client is sum_b weights[b] * loss[b].

Each also has `hvp(x, vector, inputs, targets, weights)`, the Hessian times a vector [c, P] of each client, and `descent(x, form, rate)`,
which gives a function of a mini-batch that takes a step of plain SGD in place.

* Looped: one client after the other through autograd; best for convolutions on CPU.
* Vmapped: all clients in one call through torch.func; best for small convolutional models on a GPU.
* Dense: all clients in one call with the gradient written out, for stacks of linear layers.

The choice is a fixed rule of model and device, never a timing, so that results do not depend on noise.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedsim.algorithms.directions import TINY, Affine, norm
from fedsim.local.settings import LocalTraining
from fedsim.parameters import Layout

VMAP_CLIENTS = 32  # in a stacked call
DENSE_CLIENTS = {"cpu": (8, 32, 1 << 21), "cuda": (32, 1024, 1 << 26)}  # at least and at most, and parameters of all together
WORTH_A_CALL = {"cpu": 1 << 26, "cuda": 1 << 33}  # parameters times examples, some 10 ms: with less, a call's own time counts


def example_losses(outputs: Tensor, targets: Tensor, classification: bool) -> Tensor:
    """Loss of each example [n]: cross-entropy of logits [n, classes], or squared error averaged over targets [n, outputs]."""
    if classification:
        return F.cross_entropy(outputs, targets, reduction="none")
    return (outputs - targets).square().mean(dim=-1)


def client_loss(module: nn.Module, classification: bool):
    """The loss of one client as a function of its parameters by name, inputs [B, ...], targets and weights [B]."""

    def loss(parameters: dict[str, Tensor], inputs: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        outputs = torch.func.functional_call(module, parameters, (inputs,))
        return (example_losses(outputs, targets, classification) * weights).sum()

    return loss


Descent = Callable[[Tensor, Tensor, Tensor], None]  # of inputs, targets, weights


class GradientKernel:
    """What kernels have in common."""

    def __init__(self, module: nn.Module, layout: Layout, classification: bool, mixed: bool = False) -> None:
        self.module, self.layout, self.classification, self.mixed = module, layout, classification, mixed

    def __call__(self, x: Tensor, inputs: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        raise NotImplementedError("a kernel gives gradients")

    def descent(self, x: Tensor, form: Affine, rate: float) -> Descent:
        """Steps x <- x - rate * direction, in place. form: of the direction, its offset [c, P] or [1, P]."""

        def step(*batch: Tensor) -> None:
            g = self(x, *batch)
            if form.radius:
                g = self(torch.addcmul(x, g, form.radius / (norm(g) + TINY), out=g), *batch)
            _descend(x, form, rate, lambda: x.add_(g, alpha=-rate * form.scale))

        return step

    def hvp(self, x: Tensor, vector: Tensor, inputs: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        gradient = torch.func.grad(client_loss(self.module, self.classification))

        def slope(parameters: dict[str, Tensor], along: dict[str, Tensor], *batch: Tensor) -> Tensor:
            found = gradient(parameters, *batch)
            return torch.stack([(found[name] * along[name]).sum() for name in found]).sum()

        return _flat(torch.func.vmap(torch.func.grad(slope)), self.layout, x, self.layout.views(vector), inputs, targets, weights)


def _flat(function, layout: Layout, x: Tensor, *arguments) -> Tensor:
    """`function(parameters by name, ...)` of a stack x [c, P], its results by name as one stack [c, P]."""
    found, flat = function(layout.views(x), *arguments), torch.empty_like(x)
    for name, view in layout.views(flat).items():
        view.copy_(found[name])
    return flat


def _descend(x: Tensor, form: Affine, rate: float, along_gradient: Callable[[], object]) -> None:
    """The parts of a step beside the gradient's."""
    if form.pull:
        x.mul_(1 - rate * form.pull)
    along_gradient()
    if form.offset is not None:
        x.add_(form.offset, alpha=-rate)


def _rows(offset: Tensor | None, count: int) -> Sequence[Tensor | None]:
    return [None] * count if offset is None else offset.expand(count, -1).split(1)


def _softmax_(logits: Tensor) -> Tensor:
    """In place, over the last dimension; torch's own takes three times as long where that is short."""
    powers = logits.sub_(logits.amax(-1, keepdim=True)).exp_()
    return powers.div_(powers.sum(-1, keepdim=True))


class LoopedGradient(GradientKernel):
    """One client at a time, by autograd, for which the parameters of a copy of the module become views of the client's."""

    def __init__(self, module: nn.Module, layout: Layout, classification: bool, mixed: bool = False) -> None:
        super().__init__(module, layout, classification, mixed)
        self.net = copy.deepcopy(module)  # `functional_call` may leave a module of tied layers with other parameters than it had
        self.parameters = [self.net.get_parameter(name) for name in layout.names]

    def hvp(self, x: Tensor, vector: Tensor, inputs: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        batch = vector, inputs, targets, weights
        return torch.cat([super(LoopedGradient, self).hvp(x[c : c + 1], *(part[c : c + 1] for part in batch)) for c in range(len(x))])

    def __call__(self, x: Tensor, inputs: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        gradients = torch.empty_like(x)
        for c in range(len(x)):
            found = self._gradient(list(self.layout.views(x[c]).values()), inputs[c], targets[c], weights[c])
            for view, gradient in zip(self.layout.views(gradients[c]).values(), found, strict=True):
                view.copy_(gradient)
        return gradients

    def descent(self, x: Tensor, form: Affine, rate: float) -> Descent:
        views, peaks = ([list(self.layout.views(row).values()) for row in rows] for rows in (x, torch.empty_like(x) if form.radius else ()))

        rows = [replace(form, offset=offset) for offset in _rows(form.offset, len(x))]

        def step(inputs: Tensor, targets: Tensor, weights: Tensor) -> None:
            for c, point in enumerate(views):
                batch = inputs[c], targets[c], weights[c]
                found = self._gradient(point, *batch)
                if form.radius:
                    length = torch.stack(torch._foreach_norm(found)).norm() + TINY
                    torch._foreach_copy_(peaks[c], point)
                    torch._foreach_add_(peaks[c], torch._foreach_mul(found, form.radius / length))
                    found = self._gradient(peaks[c], *batch)
                _descend(x[c : c + 1], rows[c], rate, lambda p=point, g=found: torch._foreach_add_(p, g, alpha=-rate * form.scale))

        return step

    def _gradient(self, point: list[Tensor], inputs: Tensor, targets: Tensor, weights: Tensor) -> tuple[Tensor, ...]:
        for parameter, view in zip(self.parameters, point, strict=True):
            parameter.data = view
        with torch.enable_grad(), torch.autocast(inputs.device.type, torch.bfloat16, enabled=self.mixed):
            loss = (example_losses(self.net(inputs), targets, self.classification) * weights).sum()
        return torch.autograd.grad(loss, self.parameters, allow_unused=True, materialize_grads=True)


class VmappedGradient(GradientKernel):
    """All clients in one call, by torch.func."""

    def __init__(self, module: nn.Module, layout: Layout, classification: bool, mixed: bool = False) -> None:
        super().__init__(module, layout, classification, mixed)
        self.gradient = torch.func.vmap(torch.func.grad(client_loss(module, classification)))

    def __call__(self, x: Tensor, inputs: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.mixed):
            return _flat(self.gradient, self.layout, x, inputs, targets, weights)


class DenseGradient(GradientKernel):
    """All clients in one call, the gradient of a stack of linear layers written out."""

    activations = (nn.ReLU, nn.Tanh)

    def __init__(self, module: nn.Sequential, layout: Layout, classification: bool, mixed: bool = False) -> None:
        super().__init__(module, layout, classification, mixed)
        self.less_one = torch.tensor(-1.0)
        layers = [layer for layer in module if not isinstance(layer, nn.Flatten)]
        linear = [(name, layer) for name, layer in module.named_children() if isinstance(layer, nn.Linear)]
        self.names = [(f"{name}.weight", f"{name}.bias") for name, _ in linear]
        self.after = [
            type(layers[i + 1]) if i + 1 < len(layers) else None for i, layer in enumerate(layers) if isinstance(layer, nn.Linear)
        ]

    @classmethod
    def fits(cls, module: nn.Module) -> bool:
        """Whether the module is Flatten, then Linear layers with biases, each but the last followed by ReLU or tanh, and nothing else:
        no parameter besides or shared, no hook."""
        if not isinstance(module, nn.Sequential) or type(module).forward is not nn.Sequential.forward or not len(module):
            return False
        (_, flatten), *rest = module._modules.items()  # unlike named_children, with a layer that stands there twice
        linear, activations = rest[::2], rest[1::2]
        whole = isinstance(flatten, nn.Flatten) and all(type(layer) is nn.Linear and layer.bias is not None for _, layer in linear)
        own = [f"{name}.{part}" for name, _ in linear for part in ("weight", "bias")]
        hooked = any(part._forward_hooks or part._forward_pre_hooks or part._backward_hooks for part in module.modules())
        alternating = len(rest) % 2 == 1 and all(type(layer) in cls.activations for _, layer in activations)
        return whole and alternating and not hooked and own == [name for name, _ in module.named_parameters()]

    def __call__(self, x: Tensor, inputs: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        gradients = torch.empty_like(x)
        self._write(self._layers(x), self._layers(gradients), inputs, targets, weights)
        return gradients

    def descent(self, x: Tensor, form: Affine, rate: float) -> Descent:
        """The gradient is never written out, but into the products that change the weights."""
        layers, along = self._layers(x), -rate * form.scale
        peak = torch.empty_like(x) if form.radius else x
        peaks, left = self._layers(peak) if form.radius else layers, 1 - rate * form.pull

        def step(*batch: Tensor) -> None:
            if form.radius:
                self._write(layers, peaks, *batch)
                torch.addcmul(x, peak, form.radius / (norm(peak) + TINY), out=peak)
            for (weight, bias), (d, h) in zip(reversed(layers), self._backward(peaks, *batch), strict=True):
                weight.baddbmm_(d.transpose(1, 2), h, beta=left, alpha=along)
                bias.mul_(left) if left != 1 else bias
                bias.add_(d.sum(dim=1), alpha=along)
            if form.offset is not None:
                x.add_(form.offset, alpha=-rate)

        return step

    def _layers(self, x: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Weight [c, out, in] and bias [c, out] of each layer, as views."""
        views = self.layout.views(x)
        return [(views[weight], views[bias]) for weight, bias in self.names]

    def _write(self, layers: list[tuple[Tensor, Tensor]], into: list[tuple[Tensor, Tensor]], *batch: Tensor) -> None:
        """Write the gradient."""
        for (weight, bias), (d, h) in zip(reversed(into), self._backward(layers, *batch), strict=True):
            torch.bmm(d.transpose(1, 2), h, out=weight)
            torch.sum(d, dim=1, out=bias)

    def _backward(self, layers: list[tuple[Tensor, Tensor]], inputs: Tensor, targets: Tensor, weights: Tensor):
        """For each layer from the last: derivative of the loss by its output [c, B, out], and its input [c, B, in]."""
        hidden = [inputs.flatten(2)]
        for (weight, bias), after in zip(layers, self.after, strict=True):
            z = torch.baddbmm(bias.unsqueeze(1), hidden[-1], weight.transpose(1, 2))
            hidden.append(z.relu_() if after is nn.ReLU else z.tanh_() if after is nn.Tanh else z)
        if self.classification:
            d = _softmax_(hidden[-1])
            d.scatter_add_(-1, targets.unsqueeze(-1), self.less_one.to(d).expand(*targets.shape, 1))
        else:
            d = (hidden[-1] - targets).mul_(2 / targets.shape[-1])
        d.mul_(weights.unsqueeze(-1))
        for layer in range(len(layers) - 1, -1, -1):
            weight, _ = layers[layer]
            below = torch.bmm(d, weight) if layer else None  # before the caller changes the weights in place
            yield d, hidden[layer]
            if below is not None:
                h = hidden[layer]
                d = below.mul_(h > 0) if self.after[layer - 1] is nn.ReLU else below.mul_(1 - h.square())


def gradient_kernel(module: nn.Module, settings: LocalTraining, device: str) -> type[GradientKernel]:
    """The kernel for a model on a device. auto: dense stacks in float32 are stacked; anything else is looped on a CPU and vmapped on a
    GPU."""
    dense, gpu = DenseGradient.fits(module) and settings.precision == "float32", torch.device(device).type == "cuda"
    if settings.execution == "looped" or (settings.execution == "auto" and not dense and not gpu):
        return LoopedGradient
    return DenseGradient if dense else VmappedGradient


def clients_per_call(module: nn.Module, settings: LocalTraining, device: str) -> int:
    """Clients trained in one call of the kernel, at most."""
    kernel = gradient_kernel(module, settings, device)
    if settings.clients_per_batch is not None or kernel is LoopedGradient:
        return settings.clients_per_batch or 1
    if kernel is VmappedGradient:
        return VMAP_CLIENTS
    least, most, together = DENSE_CLIENTS[torch.device(device).type]
    return min(max(together // sum(p.numel() for p in module.parameters()), least), most)
