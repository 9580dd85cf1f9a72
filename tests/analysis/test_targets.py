from __future__ import annotations

import math

import pandas as pd
import pytest

from fedsim.analysis import rounds_to_target
from fedsim.errors import ConfigError

CURVE = [(0, 0.1), (10, 0.9), (20, 0.5), (30, 0.7), (40, 0.9), (50, 0.2)]  # means over three: 0.5, 0.7, 0.7, 0.6


@pytest.mark.parametrize("target, expected", [(0.5, 20), (0.5001, 30), (0.69, 30), (0.71, None)])
def test_first_round_whose_mean_over_three_evaluations_reaches_it(target, expected):
    assert rounds_to_target(CURVE, target) == expected


def test_one_evaluation_alone_and_other_forms_of_a_curve():
    assert rounds_to_target(CURVE, 0.9, window=1) == 10
    assert rounds_to_target(pd.Series(dict(CURVE)), 0.69) == rounds_to_target(dict(CURVE), 0.69) == 30


def test_rounding_does_not_miss_a_target_that_is_met():
    assert rounds_to_target([(0, 0.7), (1, 0.7), (2, 0.7)], 0.7) == 2  # the sum of three 0.7 is below 2.1 in binary


def test_fewer_evaluations_than_the_window_never_reach():
    assert rounds_to_target(CURVE[:2], 0.0) is None
    assert rounds_to_target([], 0.0) is None


def test_nan_does_not_reach_and_spoils_its_window_only():
    curve = [(0, 1.0), (1, math.nan), (2, 1.0), (3, 1.0), (4, 1.0)]
    assert rounds_to_target(curve, 0.5) == 4


def test_loss_falls_to_its_target():
    assert rounds_to_target([(0, 3.0), (1, 2.0), (2, 1.0), (3, 0.9)], 1.5, lower=True) == 3


def test_window_of_zero_is_refused():
    with pytest.raises(ConfigError, match="window=0"):
        rounds_to_target(CURVE, 0.5, window=0)
