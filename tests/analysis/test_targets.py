from __future__ import annotations

import math

import pandas as pd
import pytest

from fedsim.analysis import rounds_per_node, rounds_to_target
from fedsim.errors import ConfigError

# Means over three: 0.5, 0.7, 0.7, 0.6
CURVE = [(0, 0.1), (10, 0.9), (20, 0.5), (30, 0.7), (40, 0.9), (50, 0.2)]


@pytest.mark.parametrize("target, expected", [(0.5, 20), (0.5001, 30), (0.69, 30), (0.71, None)])
def test_first_round_whose_mean_over_three_evaluations_reaches_it(target, expected):
    assert rounds_to_target(CURVE, target) == expected


def test_one_evaluation_alone_and_other_forms_of_a_curve():
    assert rounds_to_target(CURVE, 0.9, window=1) == 10
    assert (
        rounds_to_target(pd.Series(dict(CURVE)), 0.69) == rounds_to_target(dict(CURVE), 0.69) == 30
    )


def test_rounding_does_not_miss_a_target_that_is_met():
    # The sum of three 0.7 is below 2.1 in binary
    assert rounds_to_target([(0, 0.7), (1, 0.7), (2, 0.7)], 0.7) == 2


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


def node_table(
    curves: dict[tuple[str, int], list[float]], metric: str = "accuracy"
) -> pd.DataFrame:
    """Rows of runs evaluated at rounds 0, 10, 20, ..., the latest first. curves: (run, node) ->
    values."""
    rows = [
        {
            "run": run,
            "round": 10 * at,
            "scope": "node",
            "node": node,
            "metric": metric,
            "value": value,
        }
        for (run, node), values in curves.items()
        for at, value in reversed(list(enumerate(values)))
    ]
    return pd.DataFrame(
        [
            *rows,
            {
                "run": "a",
                "round": 0,
                "scope": "nodes",
                "node": -1,
                "metric": f"{metric}_mean",
                "value": 1.0,
            },
        ]
    )


NODES = {
    ("b", 0): [0.1, 0.9, 0.2, 0.9, 0.9],  # falls back once: stays from 30
    ("a", 2): [0.1, 0.2, 0.8, 0.9, 0.8],
    ("a", 0): [0.9, 0.9, 0.9, 0.9, 0.9],
    ("a", 1): [0.1, 0.9, 0.9, 0.9, 0.7],
    ("b", 1): [0.1, 0.9, math.nan, 0.9, 0.9],
}


def test_rounds_from_which_each_node_stays_at_the_target():
    found = rounds_per_node(node_table(NODES), 0.8)
    assert list(zip(found["run"], found["node"], found["round"], strict=True)) == [
        ("a", 0, 0), ("a", 1, math.inf), ("a", 2, 20), ("b", 0, 30), ("b", 1, 30),
    ]  # fmt: skip


def test_nodes_whose_loss_falls_to_the_target_in_the_table_of_one_result():
    table = node_table(
        {("a", 0): [2.0, 1.0, 1.5, 0.9], ("a", 1): [0.5, 1.1, 0.9, 1.0]}, "loss"
    ).drop(columns="run")
    found = rounds_per_node(table, 1.0, "loss")
    assert found.columns.tolist() == ["node", "round"] and found["round"].tolist() == [30, 20]


def test_nodes_recorded_at_the_end_alone_are_refused():
    ends = node_table(NODES)
    with pytest.raises(ConfigError, match="per_node"):
        rounds_per_node(ends[(ends["round"] == 40) | (ends["scope"] == "nodes")], 0.8)
    with pytest.raises(ConfigError, match="per_node"):
        rounds_per_node(ends, 0.8, "loss")
