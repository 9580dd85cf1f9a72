"""Imports of what is large, without looks for garbage."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def without_collections() -> Iterator[None]:
    """Do not look for garbage meanwhile, and take all that there is for old afterwards, which is looked through rarely: for once in a
    process. A million objects come with torch and stay; Python would go through them again and again, which is a seventh of the time until
    a first round."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        if not gc.get_freeze_count():  # else somebody froze objects that are to stay so
            gc.freeze()
            gc.unfreeze()
        gc.enable()
