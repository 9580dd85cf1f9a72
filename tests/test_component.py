"""Components: what they accept, and one clear line for what they do not."""

import pickle
from typing import Literal

import pytest
from pydantic import Field

from fedsim.component import (
    Fraction,
    NonNegative,
    OpenProbability,
    Positive,
    PositiveInt,
    Probability,
    component,
    settings_of,
)
from fedsim.errors import ConfigError, require


@component
class Inner:
    size: PositiveInt = 1


@component
class Outer:
    """All kinds of settings."""

    rate: Positive
    share: Probability = 0.5
    steps: PositiveInt | None = None
    mode: Literal["keep", "drop"] = "keep"
    sizes: list[int] = Field(default_factory=list)
    flag: bool = False
    inner: Inner = Field(default_factory=Inner)

    def __post_init__(self) -> None:
        require(
            self.mode == "keep" or self.steps is not None,
            "outer.mode",
            self.mode,
            "drop needs steps",
        )


@component
class Derived(Outer):
    decay: OpenProbability = 1.0


def test_defaults_and_given_values():
    made = Outer(rate=1, sizes=[3, 4], inner=Inner(2))
    assert (made.rate, made.share, made.steps, made.sizes, made.inner.size) == (
        1.0,
        0.5,
        None,
        [3, 4],
        2,
    )
    assert isinstance(made.rate, float)
    assert Outer(1).inner is not Outer(1).inner
    assert Outer(rate=2) == Outer(rate=2) != Outer(rate=3)
    assert settings_of(Derived) == [
        "rate",
        "share",
        "steps",
        "mode",
        "sizes",
        "flag",
        "inner",
        "decay",
    ]
    assert Derived(rate=1, decay=0.5).decay == 0.5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "Outer.rate=None: this setting has no default and must be given"),
        ({"rate": 0}, "Outer.rate=0: input should be greater than 0"),
        (
            {"rate": "fast"},
            "Outer.rate='fast': input should be a valid number, unable to parse string as a number",
        ),
        ({"rate": None}, "Outer.rate=None: input should be a valid number"),
        ({"rate": [1, 2]}, "Outer.rate=[1, 2]: input should be a valid number"),
        ({"rate": float("nan")}, "Outer.rate=nan: input should be a finite number"),
        ({"rate": float("inf")}, "Outer.rate=inf: input should be a finite number"),
        ({"rate": 1, "share": 1.01}, "Outer.share=1.01: input should be less than or equal to 1"),
        ({"rate": 1, "steps": 0}, "Outer.steps=0: input should be greater than or equal to 1"),
        ({"rate": 1, "steps": 2.5}, "Outer.steps=2.5: input should be a valid integer"),
        ({"rate": 1, "mode": "a\nb"}, "Outer.mode='a\\nb': input should be 'keep' or 'drop'"),
        ({"rate": 1, "sizes": 3}, "Outer.sizes=3: input should be a valid list"),
        ({"rate": 1, "sizes": [1, "two"]}, "Outer.sizes='two': input should be a valid integer"),
        ({"rate": 1, "flag": "perhaps"}, "Outer.flag='perhaps': input should be a valid boolean"),
        ({"rate": 1, "inner": 3}, "Outer.inner=3: input should be"),
        (
            {"rate": 1, "rat": 2},
            (
                "Outer.rat=2: unknown setting; accepted are rate, share, steps, mode, sizes, flag,"
                " inner"
            ),
        ),
        ({"rate": 1, "mode": "drop"}, "outer.mode='drop': drop needs steps"),
    ],
)
def test_refusals_name_key_value_and_what_is_accepted(settings, message):
    with pytest.raises(ConfigError) as refusal:
        Outer(**settings)
    assert str(refusal.value).startswith(message)
    assert "\n" not in str(refusal.value) and "pydantic" not in str(refusal.value)


def test_settings_given_by_position_are_named():
    with pytest.raises(ConfigError, match=r"^Outer\.share=3: "):
        Outer(1, 3)


def test_truth_values_are_no_numbers():
    for settings in ({"rate": True}, {"rate": 1, "steps": True}):
        with pytest.raises(ConfigError, match=r"^Outer\.(rate|steps)=True: "):
            Outer(**settings)


def test_a_derived_component_is_checked_under_its_own_name():
    with pytest.raises(ConfigError, match=r"^Derived\.rate=-1: "):
        Derived(rate=-1)
    with pytest.raises(ConfigError, match=r"^Derived\.decay=0: "):
        Derived(rate=1, decay=0)


@pytest.mark.parametrize(
    ("kind", "accepted", "refused"),
    [
        (Positive, [1e-9, 5], [0, -1]),
        (NonNegative, [0, 5], [-1e-9]),
        (Probability, [0, 1], [-0.1, 1.1]),
        (OpenProbability, [0.1, 1], [0]),
        (Fraction, [0, 0.99], [1]),
        (PositiveInt, [1], [0]),
    ],
)
def test_ends_of_the_intervals(kind, accepted, refused):
    @component
    class One:
        value: kind

    assert [One(value).value for value in accepted] == accepted
    for value in refused:
        with pytest.raises(ConfigError):
            One(value=value)


@pytest.mark.parametrize(
    ("key", "group", "shown"),
    [
        ("Dirichlet.alpha", "partition", "partition.alpha"),
        ("Dirichlet", "partition", "partition"),
        ("partition.clients", "partition", "partition.clients"),
        ("alpha", "partition", "partition.alpha"),
        ("schedule.decay", "local", "local.schedule.decay"),
    ],
)
def test_errors_are_put_under_their_group(key, group, shown):
    moved = ConfigError(key, 3, "less").under(group)
    assert (moved.key, moved.value, moved.accepted) == (shown, 3, "less")
    assert str(moved) == f"{shown}=3: less"


def test_messages_are_one_line_of_bounded_length_and_survive_pickling():
    error = ConfigError("data.x", ["value\n"] * 1000, "something\n   that fits")
    assert str(error).startswith("data.x=['value\\n', ") and str(error).endswith(
        "...: something that fits"
    )
    assert len(str(error)) < 160 and "\n" not in str(error)
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
