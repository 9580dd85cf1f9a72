"""Mini-batch gradients of any module for a stack of clients in one call."""

from __future__ import annotations

import copy
import warnings
from collections import Counter
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

from fedsim.errors import wants_memory
from fedsim.parameters import Layout
from fedsim.training.gradients import GradientKernel, LoopedGradient, client_loss, flat_gradients

TRACED_AFTER = 40  # calls of one shape: about as much work as tracing
MOST_TRACED = 32  # shapes, since what is written down of one takes megabytes
# Bytes that a client's forward pass keeps, at most, for stacking to pay
KEPT = {"cpu": 1 << 23, "cuda": 1 << 28}


class VmappedGradient(GradientKernel):
    """All clients in one call, by torch.func. What that does at each call is found out anew each
    time, until calls of a shape have come often: then their operations are written down once, and
    those same ones run from there on, which changes no bit."""

    def __init__(
        self, module: nn.Module, layout: Layout, classification: bool, mixed: bool = False
    ) -> None:
        super().__init__(module, layout, classification, mixed)
        # Torch tells, line after line, of operations that it runs one client at a time, which is no
        # slower than a loop
        warnings.filterwarnings(
            "ignore",
            "There is a performance drop because we have not yet implemented the batching rule",
        )
        self.gradient = torch.func.vmap(torch.func.grad(client_loss(module, classification)))
        self.calls: Counter = Counter()  # by shape
        self.traced: dict[tuple, Callable[..., Tensor]] = {}

    def __call__(self, x: Tensor, inputs: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        batch = x, inputs, targets, weights
        if self.mixed:
            with torch.autocast(x.device.type, torch.bfloat16):
                return self._untraced(*batch)
        shape = tuple((part.shape, part.stride(), part.dtype) for part in batch)
        if shape not in self.traced:
            self.calls[shape] += 1
            if self.calls[shape] < TRACED_AFTER or len(self.traced) == MOST_TRACED:
                return self._untraced(*batch)
            self.traced[shape] = self._trace(*batch)
        return self.traced[shape](*batch)

    def _trace(self, *batch: Tensor) -> Callable[..., Tensor]:
        try:
            return make_fx(self._untraced)(*batch)
        # A module that torch.func can run and its tracer cannot: it goes on as before
        except Exception:
            return self._untraced

    def _untraced(self, x: Tensor, *batch: Tensor) -> Tensor:
        return flat_gradients(self.gradient, self.layout, x, *batch)


class VmappedOrLooped(GradientKernel):
    """All clients in one call where the module allows it, else one after the other: a forward pass
    that branches on its values or changes its module cannot be stacked, and one that keeps much for
    its backward pass should not be. Found out once for each shape of a client's batch, on a module
    that nothing has run, so that it depends on nothing that came before."""

    def __init__(
        self, module: nn.Module, layout: Layout, classification: bool, mixed: bool = False
    ) -> None:
        super().__init__(module, layout, classification, mixed)
        self.fresh = copy.deepcopy(module)
        self.looped = LoopedGradient(module, layout, classification, mixed)
        self.vmapped = VmappedGradient(copy.deepcopy(module), layout, classification, mixed)
        self.chosen: dict[torch.Size, GradientKernel] = {}

    def __call__(self, x: Tensor, inputs: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        return self._kernel(x, inputs, targets, weights)(x, inputs, targets, weights)

    def hvp(
        self, x: Tensor, vector: Tensor, inputs: Tensor, targets: Tensor, weights: Tensor
    ) -> Tensor:
        return self._kernel(x, inputs, targets, weights).hvp(x, vector, inputs, targets, weights)

    def _kernel(self, *batch: Tensor) -> GradientKernel:
        shape = batch[1].shape[1:]
        if shape not in self.chosen:
            self.chosen[shape] = (
                self.vmapped if self._stacks([part[:1].clone() for part in batch]) else self.looped
            )
        return self.chosen[shape]

    def _stacks(self, one: list[Tensor]) -> bool:
        """Whether a client's batch may be stacked with others'."""
        kept = 0

        def count(tensor: Tensor) -> Tensor:
            nonlocal kept
            kept += tensor.numel() * tensor.element_size()
            return tensor

        of = self.layout, self.classification, self.mixed
        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            LoopedGradient(self.fresh, *of)(*one)
        if kept > KEPT[one[0].device.type]:
            return False
        module = copy.deepcopy(self.fresh)
        before = _attributes(module)
        try:
            VmappedGradient(module, *of)(*one)
        except RuntimeError as error:
            if wants_memory(error):
                raise
            return False
        after = _attributes(module)
        return before.keys() == after.keys() and all(
            value is after[name] for name, value in before.items()
        )


def _attributes(module: nn.Module) -> dict[tuple[str, str], object]:
    """The attributes of all submodules by path and name, but for parameters, which torch.func puts
    others in place of."""
    found = (
        (path, part, (vars(part) | part._buffers).items()) for path, part in module.named_modules()
    )
    apart = ("_parameters", "_buffers", "_modules")
    return {
        (path, name): value
        for path, _, values in found
        for name, value in values
        if name not in apart
    }
