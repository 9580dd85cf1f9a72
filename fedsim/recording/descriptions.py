"""The settings of objects as plain data, so that a run built in Python is recorded like one from
the command line."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

from fedsim.recording.identity import canonical_name


def describe(part: Any) -> Any:
    """A component as {"_target_": its class, setting: value}, a partial as its function and
    arguments, anything else as it is."""
    if dataclasses.is_dataclass(part) and not isinstance(part, type):
        settings = {
            field.name: describe(getattr(part, field.name))
            for field in dataclasses.fields(part)
            if field.init
        }
        return {"_target_": _name(type(part)), **settings}
    if isinstance(part, functools.partial):
        return {
            "_target_": _name(part.func),
            **{name: describe(value) for name, value in part.keywords.items()},
        }
    if isinstance(part, list | tuple):
        return [describe(each) for each in part]
    if part is None or isinstance(part, str | int | float | bool | dict):
        return part
    return {"_target_": _name(part if callable(part) else type(part))}


def _name(thing: Any) -> str:
    return canonical_name(
        f"{thing.__module__}.{getattr(thing, '__qualname__', type(thing).__qualname__)}"
    )
