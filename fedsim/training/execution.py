"""Which kernel trains a model on a device, and how many clients in one call: fixed rules of model
and device, never a timing, so that results do not depend on noise."""

from __future__ import annotations

import math

import torch
from torch import nn

from fedsim.training.gradients import GradientKernel, LoopedGradient
from fedsim.training.settings import LocalTraining
from fedsim.training.vectorised import VmappedGradient, VmappedOrLooped

VMAP_CLIENTS = 32  # of models that may keep much for their backward pass
SMALL = 1 << 19  # parameters of modules of dense layers, up to which stacking pays on a CPU
# Clients of a small model in one call: at least, at most, and parameters of all together
STACKED_CLIENTS = {"cpu": (8, 32, 1 << 21), "cuda": (32, 1024, 1 << 26)}
# Parameters times examples, some 10 ms: with less, a call's own time counts
WORTH_A_CALL = {"cpu": 1 << 26, "cuda": 1 << 33}

FASTER: list[type[GradientKernel]] = []  # asked in this order, see `register`


def register(kernel: type[GradientKernel]) -> None:
    """Prefer a kernel to those of this package wherever its `fits` says so; once each.

    `fedsim.kernels` registers its own when it is imported: nothing here knows that they exist.
    """
    if kernel not in FASTER:
        FASTER.append(kernel)


def gradient_kernel(
    module: nn.Module, settings: LocalTraining, device: str
) -> type[GradientKernel]:
    """The kernel for a model on a device: a registered one that fits the model; else auto stacks
    clients on a GPU, and on a CPU where a model is small and has dense layers alone, and loops
    over all others."""
    gpu, single = torch.device(device).type == "cuda", settings.precision == "float32"
    if settings.execution == "looped":
        return LoopedGradient
    for kernel in FASTER if single else ():
        if kernel.fits(module, gpu):
            return kernel
    if settings.execution == "stacked":
        return VmappedGradient
    return VmappedOrLooped if gpu or (single and small_and_dense(module)) else LoopedGradient


def clients_per_call(module: nn.Module, settings: LocalTraining, device: str) -> int:
    """Clients trained in one call of the kernel, at most."""
    kernel = gradient_kernel(module, settings, device)
    if settings.clients_per_batch is not None or kernel is LoopedGradient:
        return settings.clients_per_batch or 1
    kind = torch.device(device).type
    if (own := kernel.clients_per_call(module)) is not None:
        return own
    if kernel not in FASTER and (kind == "cuda" or not small_and_dense(module)):
        return VMAP_CLIENTS
    least, most, together = STACKED_CLIENTS[kind]
    return min(max(together // sum(p.numel() for p in module.parameters()), least), most)


def small_and_dense(module: nn.Module) -> bool:
    """Whether a module has vectors and matrices alone, few parameters, and no recurrent layer."""
    shapes = [parameter.shape for parameter in module.parameters()]
    recurrent = any(isinstance(part, (nn.RNNBase, nn.RNNCellBase)) for part in module.modules())
    dense = not recurrent and all(len(shape) <= 2 for shape in shapes)
    return dense and sum(map(math.prod, shapes)) <= SMALL
