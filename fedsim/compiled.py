"""The compiled parts, None where they could not be built: without torch, so that what only records can ask for them."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType


def _optional(name: str) -> ModuleType | None:
    try:
        return import_module(f"fedsim.{name}")
    except ImportError:
        return None


def processors(part: ModuleType | None) -> tuple[str, ...]:
    """Those with a kernel of this part that this one can run, the fastest first."""
    return part.PROCESSORS if part else ()


products, convolutions = _optional("_products"), _optional("_convolutions")
