"""Which kernel trains a model on a device, and how many clients in one call: fixed rules of model and device, never a timing, so that
results do not depend on noise."""

from __future__ import annotations

import torch
from torch import nn

from fedsim.local.gradients import GradientKernel, LoopedGradient, VmappedGradient
from fedsim.local.layers import LibraryConvolution, layers_of
from fedsim.local.settings import LocalTraining
from fedsim.local.written import WrittenGradient

VMAP_CLIENTS = 32  # in a stacked call
COLUMN_CLIENTS = 4  # of models whose convolutions are all products with columns; more fall out of the cache
STACKED_CLIENTS = {"cpu": (8, 32, 1 << 21), "cuda": (32, 1024, 1 << 26)}  # at least and at most, and parameters of all together
WORTH_A_CALL = {"cpu": 1 << 26, "cuda": 1 << 33}  # parameters times examples, some 10 ms: with less, a call's own time counts


def gradient_kernel(module: nn.Module, settings: LocalTraining, device: str) -> type[GradientKernel]:
    """The kernel for a model on a device. Plain sequences in float32 have written-out gradients, those with convolutions on a CPU only; of
    other models, auto loops over clients on a CPU and stacks them on a GPU."""
    gpu = torch.device(device).type == "cuda"
    written = layers_of(module) is not None and settings.precision == "float32" and not (gpu and _convolutional(module))
    if settings.execution == "looped" or (settings.execution == "auto" and not written and not gpu):
        return LoopedGradient
    return WrittenGradient if written else VmappedGradient


def clients_per_call(module: nn.Module, settings: LocalTraining, device: str) -> int:
    """Clients trained in one call of the kernel, at most."""
    kernel = gradient_kernel(module, settings, device)
    if settings.clients_per_batch is not None or kernel is LoopedGradient:
        return settings.clients_per_batch or 1
    if kernel is VmappedGradient:
        return VMAP_CLIENTS
    if _convolutional(module):
        layers = layers_of(module) or ()
        return 1 if any(layer.kind is LibraryConvolution for layer in layers) else COLUMN_CLIENTS
    least, most, together = STACKED_CLIENTS[torch.device(device).type]
    return min(max(together // sum(p.numel() for p in module.parameters()), least), most)


def _convolutional(module: nn.Module) -> bool:
    return any(isinstance(part, nn.Conv2d) for part in module.modules())
