"""A GPU that is pretended: tensors say that they are on cuda:0, and are computed with on the CPU.

Like a GPU it refuses to compute with tensors of both devices, and its tensors do not turn into
NumPy's. So what fedsim does on a GPU runs where there is none, and fails for want of a
`.to(device)` as it would there. It tells nothing of a GPU's kernels, their rounding or speed.
Torch's tracer does not see through it, so a kernel must be called less than `TRACED_AFTER` times.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

aten = torch.ops.aten
GPU = torch.device("cuda:0")
ACROSS = {aten.copy_.default, aten._to_copy.default}  # take tensors of both devices
# Of what is there, also by indices that are not
INDEXING = {aten.index.Tensor, aten.index_put_.default, aten.index_put.default}
ASKED = {  # anew each time, since what works in place may change shapes
    aten.sym_size.default: lambda here: here.shape,
    aten.sym_stride.default: lambda here: here.stride(),
    aten.sym_numel.default: lambda here: here.numel(),
    aten.sym_storage_offset.default: lambda here: here.storage_offset(),
    aten.dim.default: lambda here: here.dim(),
    aten.size.default: lambda here: here.shape,
    aten.is_contiguous.default: lambda here: here.is_contiguous(),
    aten.is_contiguous.memory_format: lambda here, format: here.is_contiguous(memory_format=format),
}


class OnGpu(torch.Tensor):
    """here: the numbers, on the CPU. Torch's own code takes it for a tensor without numbers (on
    "meta"), which needs no GPU's library."""

    here: torch.Tensor

    @staticmethod
    def __new__(cls, here: torch.Tensor) -> OnGpu:
        kept = {
            "strides": here.stride(),
            "storage_offset": here.storage_offset(),
            "dtype": here.dtype,
            "device": "meta",
        }
        return torch.Tensor._make_wrapper_subclass(
            cls, here.shape, **kept, dispatch_sizes_strides_policy="sizes"
        )

    def __init__(self, here: torch.Tensor) -> None:
        self.here = here

    @property
    def device(self) -> torch.device:
        return GPU

    @property
    def data(self) -> OnGpu:
        return self.detach()

    @data.setter
    def data(self, other: OnGpu) -> None:
        torch.Tensor.data.__set__(self, other)
        self.here = other.here

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None) -> Any:
        return compute(function, args, kwargs or {})


class OnEither(TorchDispatchMode):
    """Where tensors can be made on the pretended GPU. operations: done there."""

    operations = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None) -> Any:
        found = compute(function, args, kwargs or {})
        self.operations += any(isinstance(each, OnGpu) for each in tree_flatten(found)[0])
        return found


def refuse_both_devices(function, given: list) -> None:
    """RuntimeError if there are tensors of both devices; single numbers may be on the CPU."""
    tensors = [
        each
        for each in given
        if isinstance(each, torch.Tensor) and (each.dim() or isinstance(each, OnGpu))
    ]
    if len({isinstance(each, OnGpu) for each in tensors}) > 1:
        raise RuntimeError(
            f"{function}: expected all tensors to be on the same device, but found at least two"
            " devices, cuda:0 and cpu!"
        )


def compute(function, args: tuple, kwargs: dict) -> Any:
    """What an operation of torch gives: done on the CPU, its tensors placed where a GPU would have
    them."""
    if function in ASKED and isinstance(args[0], OnGpu):
        return ASKED[function](args[0].here, *args[1:], **kwargs)
    given, form = tree_flatten((args, kwargs))
    there = [each for each in given if isinstance(each, OnGpu)]
    if function in INDEXING and isinstance(args[0], OnGpu):
        # What is indexed and what is put there, not the indices
        refuse_both_devices(function, tree_flatten(args[::2])[0])
    elif function not in ACROSS:
        refuse_both_devices(function, given)
    device = kwargs.get("device")
    if function is aten.copy_.default:
        goes_there = isinstance(args[0], OnGpu)
    else:
        goes_there = (
            bool(there) if device is None else torch.device(device).type in ("cuda", "meta")
        )
    here = [each.here if isinstance(each, OnGpu) else each for each in given]
    args, kwargs = tree_unflatten(here, form)
    if device is not None:
        kwargs["device"] = torch.device("cpu")
    found = function(*args, **kwargs)
    # Worked on in place
    same = {
        id(inner): each for inner, each in zip(here, given, strict=True) if isinstance(each, OnGpu)
    }

    def placed(value: Any) -> Any:
        if not isinstance(value, torch.Tensor) or not goes_there:
            return value
        return same[id(value)] if id(value) in same else OnGpu(value)

    return tree_map(placed, found)


@contextmanager
def pretended_gpu() -> Iterator[OnEither]:
    """`engine.device="cuda:0"` works inside."""
    overwrites = torch.__future__.get_overwrite_module_params_on_conversion()
    # Parameters are moved as such, not by their data
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    there = {"is_available": lambda: True, "device_count": lambda: 1, "_lazy_init": lambda: None}
    try:
        with patch.multiple(torch.cuda, **there), OnEither() as mode:
            yield mode
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(overwrites)
