"""Want of memory, which Python, NumPy and torch each say in their own way."""

from __future__ import annotations

import torch


def wants_memory(error: BaseException) -> bool:
    """Whether an allocation failed, by Python, NumPy or torch."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and "allocate memory" in str(error)  # torch on CPU has no type of its own
