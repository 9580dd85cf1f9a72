"""Checks of the bundled models' settings. `key` is "Model.setting"."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fedsim.errors import require


def positive_int(key: str, value: Any) -> int:
    """`value`, an integer of at least 1."""
    require(_is_positive_int(value), key, value, "accepted is an integer of at least 1")
    return value


def layer_sizes(key: str, value: Any) -> list[int]:
    """`value` as a list of layer sizes; an empty one means no such layers."""
    whole = (
        isinstance(value, Sequence)
        and not isinstance(value, str)
        and all(_is_positive_int(size) for size in value)
    )
    require(whole, key, value, "accepted is a list of integers of at least 1, such as [128, 64]")
    return list(value)


def flag(key: str, value: Any) -> bool:
    """`value`, true or false."""
    require(isinstance(value, bool), key, value, "accepted is true or false")
    return value


def one_of(key: str, value: Any, choices: Sequence[str]) -> str:
    """`value`, one of `choices`."""
    require(
        isinstance(value, str) and value in choices,
        key,
        value,
        f"accepted is {' or '.join(choices)}",
    )
    return value


def image_shape(model: str, input_shape: Sequence[int], least: int = 1) -> tuple[int, int, int]:
    """Channels, height and width of images of at least `least` x `least` pixels. Raises ConfigError
    for other inputs."""
    shape = tuple(input_shape)
    require(
        len(shape) == 3,
        "model",
        model,
        f"takes images [channels, height, width], and the data's inputs have shape {list(shape)};"
        " use mlp",
    )
    large = min(shape[1:]) >= least
    require(
        large,
        "model",
        model,
        f"takes images of at least {least} x {least} pixels, and the data's are {shape[1]} x"
        f" {shape[2]}; use mlp",
    )
    return shape[0], shape[1], shape[2]


def _is_positive_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
