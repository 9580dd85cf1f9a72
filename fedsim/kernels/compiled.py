"""The compiled convolutions, None where they could not be built: without torch, so that what only
records can ask for them."""

from __future__ import annotations

from types import ModuleType

try:
    from fedsim.kernels import _convolutions
except ImportError:
    _convolutions = None

convolutions: ModuleType | None = _convolutions
# What this processor can run of them, the fastest first
PROCESSORS: tuple[str, ...] = convolutions.PROCESSORS if convolutions is not None else ()
