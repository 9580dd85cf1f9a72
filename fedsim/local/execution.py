"""Which kernel trains a model on a device, and how many clients in one call: fixed rules of model and device, never a timing, so that
results do not depend on noise."""

from __future__ import annotations

import math

import torch
from torch import nn

from fedsim.local.convolutions import LibraryConvolution
from fedsim.local.gradients import GradientKernel, LoopedGradient
from fedsim.local.layers import layers_of
from fedsim.local.settings import LocalTraining
from fedsim.local.vmapped import VmappedGradient, VmappedOrLooped
from fedsim.local.written import WrittenGradient

VMAP_CLIENTS = 32  # of models whose gradients are not written out, and may keep much for them
SMALL = 1 << 19  # parameters of modules of dense layers, up to which stacking pays on a CPU
CONVOLUTION_CLIENTS = 4  # of models with convolutions, none of them by the library; more fall out of the cache
STACKED_CLIENTS = {"cpu": (8, 32, 1 << 21), "cuda": (32, 1024, 1 << 26)}  # at least and at most, and parameters of all together
WORTH_A_CALL = {"cpu": 1 << 26, "cuda": 1 << 33}  # parameters times examples, some 10 ms: with less, a call's own time counts


def gradient_kernel(module: nn.Module, settings: LocalTraining, device: str) -> type[GradientKernel]:
    """The kernel for a model on a device. Plain sequences in float32 have written-out gradients, those with convolutions on a CPU only. Of
    other models, auto stacks clients on a GPU, and on a CPU where a model is small and has none but dense layers; else it loops."""
    gpu, single = torch.device(device).type == "cuda", settings.precision == "float32"
    if settings.execution == "looped":
        return LoopedGradient
    if layers_of(module) is not None and single and not (gpu and _convolutional(module)):
        return WrittenGradient
    if settings.execution == "stacked":
        return VmappedGradient
    return VmappedOrLooped if gpu or (single and _small_and_dense(module)) else LoopedGradient


def clients_per_call(module: nn.Module, settings: LocalTraining, device: str) -> int:
    """Clients trained in one call of the kernel, at most."""
    kernel = gradient_kernel(module, settings, device)
    if settings.clients_per_batch is not None or kernel is LoopedGradient:
        return settings.clients_per_batch or 1
    kind = torch.device(device).type
    if kernel is not WrittenGradient and (kind == "cuda" or not _small_and_dense(module)):
        return VMAP_CLIENTS
    if _convolutional(module):
        layers = layers_of(module) or ()
        return 1 if any(layer.kind is LibraryConvolution for layer in layers) else CONVOLUTION_CLIENTS
    least, most, together = STACKED_CLIENTS[kind]
    return min(max(together // sum(p.numel() for p in module.parameters()), least), most)


def _small_and_dense(module: nn.Module) -> bool:
    shapes = [parameter.shape for parameter in module.parameters()]
    recurrent = any(isinstance(part, (nn.RNNBase, nn.RNNCellBase)) for part in module.modules())
    return not recurrent and all(len(shape) <= 2 for shape in shapes) and sum(map(math.prod, shapes)) <= SMALL


def _convolutional(module: nn.Module) -> bool:
    return any(isinstance(part, nn.Conv2d) for part in module.modules())
