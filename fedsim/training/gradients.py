"""Mini-batch gradients of a stack of models by differentiation of its module, one client at a time;
`vmapped.py` has many at once.

Each kernel is called as `kernel(x, inputs, targets, weights) -> gradients`, for c clients at once:
x: [c, P]; inputs: [c, B, ...]; targets: [c, B] or [c, B, outputs]; weights: [c, B], 1/count for the
examples that count and 0 for padding; gradients: [c, P], of mixed precision where the kernel was
made so. The loss of a client is sum_b weights[b] * loss[b].

Each also has `hvp(x, vector, inputs, targets, weights)`, the Hessian times a vector [c, P] of each
client, `descent(x, form, rate)`, which gives a function of a mini-batch that takes a step of plain
SGD in place, and `outputs(x, inputs)` of all models on the same examples.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedsim.algorithms.directions import TINY, Affine, norm
from fedsim.parameters import Layout


def example_losses(outputs: Tensor, targets: Tensor, classification: bool) -> Tensor:
    """Loss of each example [n] or [m, n]: cross-entropy of logits [..., classes], or squared error
    averaged over targets [..., outputs]."""
    if classification:
        return F.cross_entropy(outputs.movedim(-1, 1), targets, reduction="none")
    return (outputs - targets).square().mean(dim=-1)


def client_loss(module: nn.Module, classification: bool):
    """The loss of one client as a function of its parameters by name, inputs [B, ...], targets and
    weights [B]."""

    def loss(
        parameters: dict[str, Tensor], inputs: Tensor, targets: Tensor, weights: Tensor
    ) -> Tensor:
        outputs = torch.func.functional_call(module, parameters, (inputs,))
        return (example_losses(outputs, targets, classification) * weights).sum()

    return loss


Descent = Callable[[Tensor, Tensor, Tensor], None]  # of inputs, targets, weights


class GradientKernel:
    """What kernels have in common."""

    @classmethod
    def fits(cls, module: nn.Module, gpu: bool) -> bool:
        """Whether this kernel knows how to train a module in float32, on a GPU or a CPU."""
        return False

    @classmethod
    def clients_per_call(cls, module: nn.Module) -> int | None:
        """Clients of a module in one call at most; None: as many as its size suggests."""
        return None

    def independent_of_place(self, batch: int) -> bool:
        """Whether a client's bits do not depend on who is trained beside it in a call, with batches
        of so many examples; then clients of several runs may share calls."""
        return False

    def __init__(
        self, module: nn.Module, layout: Layout, classification: bool, mixed: bool = False
    ) -> None:
        self.module, self.layout, self.classification, self.mixed = (
            module,
            layout,
            classification,
            mixed,
        )

    def __call__(self, x: Tensor, inputs: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        raise NotImplementedError("a kernel gives gradients")

    def descent(self, x: Tensor, form: Affine, rate: float) -> Descent:
        """Steps x <- x - rate * direction, in place. form: of the direction, its offset [c, P] or
        [1, P]."""

        def step(*batch: Tensor) -> None:
            g = self(x, *batch)
            if form.radius:
                g = self(torch.addcmul(x, g, form.radius / (norm(g) + TINY), out=g), *batch)
            _descend(x, form, rate, lambda: x.add_(g, alpha=-rate * form.scale))

        return step

    def copied(self, x: Tensor) -> Tensor:
        """A copy of models [c, P], to be trained."""
        return x.clone()

    def outputs(self, x: Tensor, inputs: Tensor) -> Tensor:
        """[c, n, outputs], of each model on the same inputs [n, ...], without autograd and in full
        precision."""
        return torch.stack(
            [
                torch.func.functional_call(self.module, self.layout.views(row), (inputs,))
                for row in x
            ]
        )

    def hvp(
        self, x: Tensor, vector: Tensor, inputs: Tensor, targets: Tensor, weights: Tensor
    ) -> Tensor:
        gradient = torch.func.grad(client_loss(self.module, self.classification))

        def slope(
            parameters: dict[str, Tensor], along: dict[str, Tensor], *batch: Tensor
        ) -> Tensor:
            found = gradient(parameters, *batch)
            return torch.stack([(found[name] * along[name]).sum() for name in found]).sum()

        return flat_gradients(
            torch.func.vmap(torch.func.grad(slope)),
            self.layout,
            x,
            self.layout.views(vector),
            inputs,
            targets,
            weights,
        )


def flat_gradients(function, layout: Layout, x: Tensor, *arguments) -> Tensor:
    """`function(parameters by name, ...)` of a stack x [c, P], its results by name as one stack [c,
    P]."""
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


class LoopedGradient(GradientKernel):
    """One client at a time, by autograd, for which the parameters of a copy of the module become
    views of the client's."""

    def __init__(
        self, module: nn.Module, layout: Layout, classification: bool, mixed: bool = False
    ) -> None:
        super().__init__(module, layout, classification, mixed)
        # `functional_call` may leave a module of tied layers with other parameters than it had
        self.net = copy.deepcopy(module)
        self.parameters = [self.net.get_parameter(name) for name in layout.names]

    def hvp(
        self, x: Tensor, vector: Tensor, inputs: Tensor, targets: Tensor, weights: Tensor
    ) -> Tensor:
        batch = vector, inputs, targets, weights
        return torch.cat(
            [
                super(LoopedGradient, self).hvp(x[c : c + 1], *(part[c : c + 1] for part in batch))
                for c in range(len(x))
            ]
        )

    def __call__(self, x: Tensor, inputs: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        gradients = torch.empty_like(x)
        for c in range(len(x)):
            found = self._gradient(
                list(self.layout.views(x[c]).values()), inputs[c], targets[c], weights[c]
            )
            for view, gradient in zip(self.layout.views(gradients[c]).values(), found, strict=True):
                view.copy_(gradient)
        return gradients

    def descent(self, x: Tensor, form: Affine, rate: float) -> Descent:
        views, peaks = (
            [list(self.layout.views(row).values()) for row in rows]
            for rows in (x, torch.empty_like(x) if form.radius else ())
        )

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
                _descend(
                    x[c : c + 1],
                    rows[c],
                    rate,
                    lambda p=point, g=found: torch._foreach_add_(p, g, alpha=-rate * form.scale),
                )

        return step

    def _gradient(
        self, point: list[Tensor], inputs: Tensor, targets: Tensor, weights: Tensor
    ) -> tuple[Tensor, ...]:
        for parameter, view in zip(self.parameters, point, strict=True):
            parameter.data = view
        precision = (
            torch.autocast(inputs.device.type, torch.bfloat16) if self.mixed else nullcontext()
        )
        with torch.enable_grad(), precision:
            loss = (example_losses(self.net(inputs), targets, self.classification) * weights).sum()
        return torch.autograd.grad(loss, self.parameters, allow_unused=True, materialize_grads=True)
