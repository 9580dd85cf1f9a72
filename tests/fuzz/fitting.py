"""Values of the kind that a setting asks for, and still odd: what gets past a check of types."""

from __future__ import annotations

import types
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from hypothesis import strategies as st

from tests.fuzz.values import NAMES, SHORT_NAMES

_INTEGERS = [
    0,
    1,
    1,
    2,
    2,
    3,
    4,
    5,
    6,
    7,
    8,
    16,
    47,
    48,
    1000,
    10**12,
    2**31 - 1,
    2**31,
    2**62,
    2**63 - 1,
    2**63,
    10**30,
    -1,
]
_REALS = [0.0, 0.1, 0.3, 0.5, 0.9, 1.0, 2.0, 10.0, 1e-3, -1.0]
_REALS += [5e-324, 1e-320, 1e-300, 1e-45, 1e-17, 0.9999999999999999, 1e17, 3.5e38, 1e300, 1.7e308]


def values_for(annotation: Any, default: Any = None) -> st.SearchStrategy:
    """A strategy of values that fit a setting's annotation, or else the kind of its default."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return values_for(arguments[0])
    if origin is Literal:
        return st.sampled_from(arguments)
    if origin in (Union, types.UnionType):
        return st.one_of([values_for(each) for each in arguments])
    if origin in (list, tuple) and arguments:
        return st.lists(values_for(arguments[0]), max_size=4)
    if origin is dict:
        return st.dictionaries(st.sampled_from(NAMES[:12]), values_for(arguments[1]), max_size=2)
    kinds = {
        bool: st.booleans(),
        int: st.sampled_from(_INTEGERS),
        float: st.sampled_from(_REALS) | st.floats(0, 1),
        str: st.sampled_from(SHORT_NAMES),
        type(None): st.none(),
        None: st.none(),
    }
    if annotation in kinds:
        return kinds[annotation]
    if isinstance(default, list | tuple):
        return st.lists(kinds[int], max_size=3)
    return kinds.get(type(default), st.sampled_from(_INTEGERS))


def settings_for(target: Any, defaults: dict[str, Any], most: int = 4) -> st.SearchStrategy:
    """Some settings of a class, by name. defaults: as `defaults_of` tells them."""
    fields = getattr(target, "__pydantic_fields__", {})
    known = {
        name: values_for(fields[name].annotation if name in fields else None, default)
        for name, default in defaults.items()
    }
    needed = {name: values for name, values in known.items() if defaults[name] == "???"}
    some = st.sets(st.sampled_from(sorted(known)), max_size=most) if known else st.just(set())
    return some.flatmap(
        lambda names: st.fixed_dictionaries(
            {name: known[name] for name in sorted(names | set(needed))}
        )
    )
