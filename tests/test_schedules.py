"""Schedules: their closed forms, their bounds, and refusals."""

import pytest

from fedsim.errors import ConfigError
from fedsim.schedules import Constant, Exponential, Linear


def test_closed_forms():
    assert [Constant().factor(t, 5) for t in (0, 4)] == [1.0, 1.0]
    assert Exponential().factor(0, 10) == 1.0
    assert Exponential(decay=0.5).factor(3, 10) == 0.125
    assert Exponential().factor(1000, 1001) == pytest.approx(0.998**1000)
    assert [Linear().factor(t, 4) for t in range(4)] == [1.0, 0.75, 0.5, 0.25]


@pytest.mark.parametrize("schedule", [Constant(), Exponential(), Exponential(decay=1.0), Linear()])
@pytest.mark.parametrize("rounds", [1, 7, 3000])
def test_factors_start_at_one_never_rise_and_never_reach_zero(schedule, rounds):
    factors = [schedule.factor(t, rounds) for t in range(rounds)]
    assert factors[0] == 1.0
    assert all(0 < after <= before <= 1 for before, after in zip(factors, factors[1:], strict=False))


@pytest.mark.parametrize("decay", [0, -0.1, 1.01, float("nan"), "fast"])
def test_decay_outside_the_unit_interval_is_refused(decay):
    with pytest.raises(ConfigError, match=r"^Exponential\.decay="):
        Exponential(decay=decay)


def test_unknown_setting_names_what_is_accepted():
    with pytest.raises(ConfigError, match="unknown setting; accepted are decay"):
        Exponential(rate=0.9)
