"""Components: dataclasses whose fields are the settings, checked when they are built.

    @component
    class Bernoulli(Participation):
        probability: Probability = 0.1

A field's annotation is its whole schema; a bad value, an unknown key or a wrong type raises
ConfigError.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any, TypeVar, dataclass_transform, get_args

import pydantic
from pydantic import Field
from pydantic.dataclasses import dataclass as pydantic_dataclass

from fedsim.errors import ConfigError

Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Probability = Annotated[float, Field(ge=0, le=1)]  # closed interval
OpenProbability = Annotated[float, Field(gt=0, le=1)]  # zero excluded
Fraction = Annotated[float, Field(ge=0, lt=1)]  # one excluded
_MOST = 2**31 - 1  # of a count: products of two counts fit the 64 bits of an index
PositiveInt = Annotated[int, Field(ge=1, le=_MOST)]
NonNegativeInt = Annotated[int, Field(ge=0, le=_MOST)]

FROM_DATA = ("input_shape", "outputs", "vocabulary")  # what a model is told of the data

T = TypeVar("T")
_CONFIG = pydantic.ConfigDict(extra="forbid", arbitrary_types_allowed=True, allow_inf_nan=False)


@dataclass_transform()
def component(cls: type[T]) -> type[T]:
    """Make `cls` a checked dataclass. Checks that involve several fields belong in `__post_init__`
    (raise ConfigError)."""
    made = pydantic_dataclass(cls, config=_CONFIG)
    build = made.__init__

    @functools.wraps(build)
    def init(self: Any, *args: Any, **settings: Any) -> None:
        for name, value in [*zip(settings_of(made), args, strict=False), *settings.items()]:
            field = made.__pydantic_fields__.get(name)
            if isinstance(value, bool) and field is not None and not _takes_bool(field.annotation):
                # Python counts them as 1 and 0
                raise ConfigError(
                    f"{made.__name__}.{name}", value, "true and false are no value here"
                )
        try:
            build(self, *args, **settings)
        except pydantic.ValidationError as error:
            raise _explain(made, error) from None

    made.__init__ = init  # type: ignore[method-assign]
    return made


def settings_of(cls: type) -> list[str]:
    """Names of a component's settings."""
    return list(getattr(cls, "__pydantic_fields__", {}))


def defaults_of(target: Callable) -> dict[str, Any] | None:
    """The settings that a class or function takes, those that come from the data left out, with
    their defaults ("???": there is none); None: it takes any, or does not tell."""
    maker = (
        next((cls for cls in target.__mro__ if "__init__" in vars(cls)), object)
        if isinstance(target, type)
        else object
    )
    if "__pydantic_fields__" in vars(maker):
        fields = vars(maker)["__pydantic_fields__"].items()
        return {
            name: "???" if field.is_required() else field.get_default(call_default_factory=True)
            for name, field in fields
        }
    try:
        called: Any = target if maker is object else maker.__init__  # type: ignore[misc]
        parameters = list(inspect.signature(called).parameters.values())
    except (ValueError, TypeError):
        return None
    kinds = inspect.Parameter
    if any(parameter.kind is kinds.VAR_KEYWORD for parameter in parameters):
        return None
    named = [
        each
        for each in parameters[maker is not object :]
        if each.kind is not kinds.VAR_POSITIONAL and each.name not in FROM_DATA
    ]
    return {each.name: "???" if each.default is kinds.empty else each.default for each in named}


def _takes_bool(annotation: Any) -> bool:
    return (
        annotation in (bool, Any, object)
        or isinstance(annotation, bool)
        or any(map(_takes_bool, get_args(annotation)))
    )


def _explain(cls: type, error: pydantic.ValidationError) -> ConfigError:
    first = error.errors(include_url=False, include_context=False)[0]
    known = settings_of(cls)
    location = [str(part) for part in first["loc"]]
    if location and isinstance(first["loc"][0], int) and first["loc"][0] < len(known):
        location[0] = known[first["loc"][0]]  # given by position
    if first["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        return ConfigError(
            f"{cls.__name__}.{location[0]}",
            first["input"],
            f"unknown setting; accepted are {', '.join(known)}",
        )
    if first["type"] in ("missing", "missing_argument"):
        return ConfigError(
            f"{cls.__name__}.{location[0]}", None, "this setting has no default and must be given"
        )
    field = location[0] if location and location[0] in known else ".".join(location)
    messages = {
        e["msg"][0].lower() + e["msg"][1:]
        for e in error.errors()
        if e["loc"] and e["loc"][0] in (field, first["loc"][0])
    }
    return ConfigError(f"{cls.__name__}.{field}", first["input"], " or ".join(sorted(messages)))
