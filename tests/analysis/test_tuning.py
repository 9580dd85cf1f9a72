"""Tuning: which points are tried, how runs are scored, that the test split is never looked at, and
the command."""

import math
import os
from pathlib import Path

import pandas as pd
import pytest
import yaml

import fedsim
from fedsim.analysis.tuning import Range, Search, final_value, step_size, tune as tune_with
from fedsim.cli.main import main
from fedsim.cli.tune import RUNNER, table_of
from fedsim.config.composition import compose
from fedsim.errors import ConfigError

TINY = [
    "data=synthetic",
    "data.samples=300",
    "data.test=50",
    "data.shape=[4]",
    "data.classes=3",
    "partition.clients=6",
    "model.hidden=[4]",
]
TINY += [
    "participation=bernoulli",
    "participation.probability=0.6",
    "rounds=4",
    "evaluation.every=1",
]
ALONE = {"processes": 1, "widen": 0}


def tune(overrides, algorithms, ranges, **settings):
    """As `fedsim tune` does it."""
    return tune_with(overrides, algorithms, ranges, RUNNER, **settings)


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """An empty folder to work in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def searched(score, ranges, search="grid", start=None, widen=0) -> Search:
    """A search that has ended, with the function `score` of the point."""
    found = Search(ranges, search, start or {}, widen)
    while points := found.asked():
        for point in points:
            assert point not in found.scores
            found.told(point, score(*point))
    return found


def peak(*quarters: float):
    """A score whose best point is at these quarter decades."""
    return lambda *rates: (
        -sum(
            (4 * math.log10(rate) - quarter) ** 2
            for rate, quarter in zip(rates, quarters, strict=True)
        )
    )


# ------------------------------------------------------------------------------------------------
# which points


def test_step_sizes_are_the_authors_quarter_decades():
    assert Range.parse("-1.25:0.25", "x").rates == [
        0.0562341,
        0.1,
        0.177828,
        0.316228,
        0.562341,
        1.0,
        1.77828,
    ]
    assert Range.parse("-2", "x").rates == [0.01]
    assert step_size(4) == 10.0


@pytest.mark.parametrize(
    "text", ["", "x", "0:-1", "-2:0.1", "-2:0:1", "nan", "inf", "-inf:0", "0:11", "-1;0", "1e400:0"]
)
def test_ranges_that_cannot_be_used_are_refused(text):
    with pytest.raises(ConfigError, match=r"^--client-rates=.*LOW:HIGH"):
        Range.parse(text, "--client-rates")


def test_a_grid_is_all_pairs_and_its_best_is_found():
    found = searched(peak(-3, 1), {"client": Range(-5, 0), "server": Range(-1, 3)})
    assert len(found.scores) == 6 * 5
    assert found.best == (step_size(-3), step_size(1)) and found.at_edge == []


def test_coordinates_search_the_client_first_then_the_server():
    start = {"client": 0.1, "server": 1.0}
    found = searched(
        peak(-3, 2), {"client": Range(-5, 0), "server": Range(-1, 3)}, "coordinates", start
    )
    tried = list(found.scores)
    assert tried[:6] == [(step_size(quarter), 1.0) for quarter in range(-5, 1)]
    # At 1 it was before
    assert tried[6:] == [(step_size(-3), step_size(quarter)) for quarter in (-1, 1, 2, 3)]
    assert found.best == (step_size(-3), step_size(2))


def test_the_axis_that_waits_is_held_within_its_range():
    found = Search(
        {"client": Range(-4, -2), "server": Range(3, 4)},
        "coordinates",
        {"client": 0.1, "server": 1.0},
        0,
    )
    assert {server for _, server in found.asked()} == {step_size(3)}


def test_a_best_point_at_the_end_widens_the_range_step_by_step_up_to_the_limit():
    ranges = {"client": Range(-2, 0), "server": Range(0, 1)}
    found = searched(peak(2, 0), ranges, widen=3)
    assert found.ranges == {"client": Range(-2, 3), "server": Range(-1, 1)}
    assert found.best == (step_size(2), step_size(0)) and found.at_edge == []
    assert len(found.scores) == 6 * 3
    found = searched(peak(9, 0), ranges, widen=2)
    assert (
        found.ranges["client"] == Range(-2, 2)
        and found.best[0] == step_size(2)
        and found.at_edge == ["client"]
    )
    assert searched(peak(9, 0), ranges, widen=0).ranges == ranges


def test_coordinates_widen_too():
    found = searched(
        peak(2, -3),
        {"client": Range(-2, 0), "server": Range(-1, 1)},
        "coordinates",
        {"client": 1, "server": 1.0},
        widen=3,
    )
    assert found.best == (step_size(2), step_size(-3)) and found.at_edge == []


def test_a_single_step_size_is_no_range_to_widen():
    found = searched(peak(3, 0), {"client": Range(0, 0), "server": Range(-1, 1)}, widen=5)
    assert (
        list(found.scores) == [(1.0, step_size(-1)), (1.0, 1.0), (1.0, step_size(1))]
        and found.at_edge == []
    )


def test_of_equal_points_the_smaller_step_sizes_win_and_divergence_never_does():
    assert searched(lambda client: 0.5, {"client": Range(-2, 0)}).best == (step_size(-2),)
    found = searched(lambda client: -math.inf if client > 0.2 else client, {"client": Range(-4, 4)})
    assert found.best == (step_size(-3),)
    assert searched(lambda client: -math.inf, {"client": Range(-2, 0)}, widen=2).ranges[
        "client"
    ] == Range(-4, 0)


# ------------------------------------------------------------------------------------------------
# runs


def test_the_best_mean_over_seeds_of_the_last_evaluations_is_chosen_and_everything_is_recorded(
    tmp_path,
):
    ranges = {"client": Range(-3, -2), "server": Range(0, 1)}
    (found,) = tune(TINY, ["fedavg"], ranges, folder=tmp_path, last=2, **ALONE)
    assert len(found.values) == 4
    for point, values in found.values.items():
        expected = []
        for seed in (0, 1):
            rates = [f"local.rate={point[0]}", f"aggregator.rate={point[1]}", f"seed={seed}"]
            run = fedsim.simulate(
                [*TINY, "algorithm=fedavg", "evaluation=validation", "evaluation.every=1", *rates]
            ).metrics
            accuracy = run[(run.scope == "server") & (run.metric == "accuracy")].value
            expected.append(accuracy.to_numpy()[-2:].mean())
        assert values == pytest.approx(expected)
    means = {point: sum(values) / 2 for point, values in found.values.items()}
    assert means[found.search.best] == max(means.values())
    recorded = [yaml.safe_load(path.read_text()) for path in tmp_path.glob("*/config.yaml")]
    assert len(recorded) == 8 and all(
        config["evaluation"]["split"] == "validation" for config in recorded
    )
    table = table_of([found])
    assert table["chosen"].sum() == 1 and table.loc[
        table["chosen"], "mean"
    ].item() == pytest.approx(max(means.values()))


def test_the_test_split_has_no_say(tmp_path):
    """Another test split, the same training and validation examples: the same values."""
    found = [
        tune(
            [*TINY, f"data.test={examples}"],
            ["fedavg"],
            {"client": Range(-3, -3)},
            folder=tmp_path,
            seeds=[0],
            **ALONE,
        )[0]
        for examples in (50, 90)
    ]
    tests = [
        fedsim.simulate([*TINY, f"data.test={examples}", "local.rate=0.177828"]).accuracy
        for examples in (50, 90)
    ]
    assert found[0].values == found[1].values and tests[0] != tests[1]


def test_what_was_run_is_not_run_again(tmp_path):
    """Two at once, in processes."""
    (first,) = tune(TINY, ["fedavg"], {"client": Range(-3, -3)}, folder=tmp_path, processes=2)
    ended = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/status.json")}
    (second,) = tune(TINY, ["fedavg"], {"client": Range(-3, -2)}, folder=tmp_path, **ALONE)
    assert {path: path.stat().st_mtime_ns for path in ended} == ended and len(ended) == 2
    assert len(list(tmp_path.glob("*/status.json"))) == 4
    assert {point: second.values[point] for point in first.values} == first.values


def test_a_diverged_run_makes_a_point_unusable(tmp_path):
    """With weight decay 1 the weights are multiplied by 1 - rate in every step: at a rate above 2
    they grow without end."""
    overrides = [*TINY, "model=logistic_regression", "local.weight_decay=1"]
    overrides = [each for each in overrides if not each.startswith("model.hidden")]
    overrides += ["rounds=60", "evaluation.every=20"]
    (found,) = tune(
        overrides, ["fedavg"], {"client": Range(1, 3)}, folder=tmp_path, seeds=[0], **ALONE
    )
    assert [math.isnan(found.mean((step_size(quarter),))) for quarter in (1, 2, 3)] == [
        False,
        True,
        True,
    ]
    assert found.found and found.chosen == {"client": step_size(1)}
    (nothing,) = tune(
        overrides, ["fedavg"], {"client": Range(2, 3)}, folder=tmp_path, seeds=[0], **ALONE
    )
    assert not nothing.found and "no step size can be used" in nothing.notes[-1]


def test_rates_that_a_method_refuses_are_left_out_with_the_reason(tmp_path):
    ranges = {"client": Range(-1, 1)}
    (found,) = tune(
        [*TINY, "client.prox=0.4"], ["fedspeed"], ranges, folder=tmp_path, seeds=[0], **ALONE
    )
    assert [math.isnan(values[0]) for values in found.values.values()] == [False, True, True]
    assert any(
        "local.rate=1 is refused: client.prox=0.4: more than half" in note for note in found.notes
    )
    assert len(list(tmp_path.glob("*/status.json"))) == 1


def test_regression_is_judged_by_its_loss(tmp_path):
    overrides = [each for each in TINY if not each.startswith("partition")] + [
        "data.task=regression",
        "partition=iid",
    ]
    (found,) = tune(
        overrides, ["fedavg"], {"client": Range(-8, -6)}, folder=tmp_path, seeds=[0], **ALONE
    )
    assert found.metric == "loss"
    assert found.mean(found.search.best) == min(found.mean(point) for point in found.values)


def test_a_diverged_run_has_no_value_and_the_first_models_do_not_count():
    result = fedsim.simulate([*TINY, "rounds=3", "evaluation.every=2"])
    run = result.metrics[(result.metrics.scope == "server") & (result.metrics.metric == "accuracy")]
    assert run["round"].tolist() == [0, 2, 3]
    assert final_value(result.status, result.metrics, "accuracy", last=10) == pytest.approx(
        run["value"].to_numpy()[1:].mean()
    )


# ------------------------------------------------------------------------------------------------
# the command


def test_the_command_shows_and_writes_what_runs_take_up(here, capsys):
    typed = [
        *TINY,
        "algorithm=average_participating,fedau",
        "--client-rates",
        "-0.5:-0.25",
        "--server-rates",
        "0",
        "--seeds",
        "1",
    ]
    assert main(["tune", *typed, "--widen", "0", "--processes", "1", "--folder", "tuned"]) == 0
    shown = capsys.readouterr().out
    assert "fedau: accuracy on the validation split" in shown and shown.count("*") >= 2
    table = pd.read_csv(here / "tuned" / "tuning.csv")
    assert len(table) == 2 * 2 and table.groupby("algorithm")["chosen"].sum().tolist() == [1, 1]
    for name in ("average_participating", "fedau"):
        chosen = table[table["chosen"] & (table["algorithm"] == name)].iloc[0]
        config = compose([*TINY, f"algorithm={name}"], here / "tuned").config
        assert (config["local"]["rate"], config["aggregator"]["rate"]) == (
            chosen["local.rate"],
            chosen["aggregator.rate"],
        )
        assert name in (here / "tuned" / "tuning.md").read_text()
    # typed
    assert (
        compose([*TINY, "algorithm=fedau", "local.rate=0.3"], here / "tuned").config["local"][
            "rate"
        ]
        == 0.3
    )
    # Not tuned
    assert compose([*TINY, "algorithm=known_prob"], here / "tuned").config["local"]["rate"] == 0.1
    assert (
        main(["run", *TINY, "algorithm=fedau", "--config-dir", "tuned", "hydra.run.dir=run"]) == 0
    )
    recorded = yaml.safe_load((here / "run" / "config.yaml").read_text())
    assert (
        recorded["evaluation"]["split"] == "test"
        and recorded["local"]["rate"] == config["local"]["rate"]
    )


def test_where_nothing_can_be_used_nothing_is_chosen(here, capsys):
    typed = [*TINY, "client=fedspeed", "client.prox=0.01", "local.rate=0.01"]
    with pytest.raises(ConfigError, match="local.rate"):
        tune(typed, ["fedavg"], {"client": Range(0, 0)}, folder=here / "x")
    typed = [
        *TINY,
        "algorithm=fedspeed",
        "client.prox=0.1",
        "--client-rates",
        "0",
        "--seeds",
        "1",
        "--folder",
        "tuned",
    ]
    assert main(["tune", *typed]) == 1
    assert "no step size can be used" in " ".join(capsys.readouterr().out.split())
    assert not list((here / "tuned").glob("tuned/*")) and not list(
        (here / "tuned").rglob("status.json")
    )


@pytest.mark.parametrize(
    ("typed", "line"),
    [
        ([], "--client-rates=None: give --client-rates, --server-rates, or both"),
        (["--client-rates", "-2:0.1"], "--client-rates='-2:0.1': accepted is LOW:HIGH"),
        (["--server-rates"], "argument --server-rates: expected one argument"),
        (["--client-rates=-1", "--seeds", "0"], "--seeds='0': accepted is a number"),
        (["--client-rates=-1", "--seeds", "1,1"], "--seeds=[1, 1]: accepted are different seeds"),
        (["--client-rates=-1", "--last", "0"], "--last=0: accepted is"),
        (["--client-rates=-1", "--widen", "-1"], "--widen=-1: accepted is"),
        (["--client-rates=-1", "--processes", "0"], "processes=0: accepted is"),
        (["--client-rates=-1", "--serch", "grid"], "unrecognized arguments: --serch"),
        (["--client-rates=-1", "local.rate=0.5"], "local.rate='0.5': tuning sets it by itself"),
        (["--client-rates=-1", "seed=3"], "seed='3': tuning sets it by itself"),
        (["--client-rates=-1", "algorithm=fedavg,fedavg"], "accepted are different algorithms"),
        (
            ["--client-rates=-1", "algorithm=fedav"],
            "algorithm='fedav': unknown option; did you mean fedavg?",
        ),
        (
            ["--client-rates=-1", "evaluation.split=test"],
            "evaluation.split='test': step sizes are chosen on the validation split",
        ),
        (
            ["--client-rates=-1", "evaluation=standard", "data.validation=0"],
            "data.validation=0: step sizes are chosen on the validation",
        ),
        (
            ["--client-rates=-1", "experiment=fedau_fashion_mnist"],
            "data.validation=0.0: step sizes are chosen",
        ),
        (["--client-rates=-1", "rounds=0"], "rounds=0: input should be greater"),
        (
            ["--client-rates=-1", "experiment=../experiment/digits_server"],
            "experiment='../experiment/digits_server': accepted is a name",
        ),
    ],
)
def test_what_cannot_be_used_is_one_line_before_anything_starts(here, capsys, typed, line):
    assert main(["tune", *typed]) == 2
    captured = capsys.readouterr()
    assert (
        line in captured.err and captured.err.count("\n") == 1 and "Traceback" not in captured.err
    )
    assert os.listdir(here) == []
