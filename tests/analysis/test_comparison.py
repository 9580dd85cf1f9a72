from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
from rich.console import Console
from scipy import stats

from fedsim.analysis import compare, load_runs
from fedsim.analysis.comparison import t_interval
from fedsim.errors import ConfigError

A, B = [0.70, 0.74, 0.71, 0.69], [0.73, 0.75, 0.74, 0.70]


@pytest.fixture
def two_methods(tmp_path, write_run, config_of):
    """fedavg ends at A and fedau at B, in seeds 0 to 3; fedau has a seed 9 besides."""
    for name, finals in {"fedavg": A, "fedau": B}.items():
        for seed, final in enumerate(finals):
            write_run(
                tmp_path / f"{name}{seed}",
                config_of(name, "markov", seed),
                [0.1, final, final, final],
            )
    write_run(tmp_path / "fedau9", config_of("fedau", "markov", 9), [0.1, 0.9, 0.9, 0.9])
    return tmp_path


def text_of(comparison) -> str:
    console = Console(record=True, width=80, file=open("/dev/null", "w"))
    comparison.print(console)
    return console.export_text()


def test_final_values_cost_and_rounds(two_methods):
    table = compare(two_methods, target=0.70).table.set_index("method")
    fedavg = table.loc["fedavg"]
    assert fedavg["mean"] == pytest.approx(statistics.mean(A)) and fedavg["std"] == pytest.approx(
        statistics.stdev(A)
    )
    assert fedavg["n"] == 4 and table.loc["fedau", "n"] == 5
    # Running totals, of which the last counts
    assert fedavg["bytes"] == 3e6 * 30 and fedavg["seconds"] == pytest.approx(3.0)
    assert fedavg["rounds_to_target"] == 30 and fedavg["reached"] == 3


def test_paired_differences_are_over_common_seeds(two_methods):
    row = compare(two_methods).differences.iloc[0]
    expected = stats.ttest_rel(A, B).confidence_interval(0.95)
    assert {row["method"], row["baseline"]} == {"fedavg", "fedau"} and row["n"] == 4
    sign = 1 if row["method"] == "fedavg" else -1
    assert sign * row["difference"] == pytest.approx(np.mean(A) - np.mean(B))
    assert sorted((row["low"], row["high"])) == pytest.approx(
        sorted((sign * expected.low, sign * expected.high))
    )


def test_interval_by_hand():
    # t(0.975, 2) = 4.302653, standard error 1 / sqrt(3)
    mean, low, high = t_interval(np.array([1.0, 2.0, 3.0]))
    assert (mean, low, high) == pytest.approx(
        (2.0, 2 - 4.302653 / math.sqrt(3), 2 + 4.302653 / math.sqrt(3)), rel=1e-6
    )


def test_one_seed_has_a_difference_without_interval(tmp_path, write_run, config_of):
    write_run(tmp_path / "0", config_of("fedavg", "markov", 0), [0.5])
    write_run(tmp_path / "1", config_of("fedau", "markov", 0), [0.6])
    found = compare(tmp_path, baseline="fedavg")
    row = found.differences.iloc[0]
    assert row["difference"] == pytest.approx(0.1) and math.isnan(row["low"]) and row["n"] == 1
    assert math.isnan(found.table["std"][0])
    assert (
        "| fedau - fedavg | +0.1000 | - | 1 |" in found.to_markdown()
        and "0.5000 ± -" in found.to_markdown()
    )


def test_median_of_rounds_counts_runs_that_never_reach(tmp_path, write_run, config_of):
    curves = [[0.8] * 5, [0.1, 0.8, 0.8, 0.8, 0.8], [0.1] * 5]
    for seed, curve in enumerate(curves):
        write_run(tmp_path / str(seed), config_of("fedavg", "full", seed), curve)
    # Of 20, 30, never
    assert compare(tmp_path, target=0.8).table["rounds_to_target"].tolist() == [30]
    for seed in (3, 4):
        write_run(tmp_path / str(seed), config_of("fedavg", "full", seed), curves[2])
    found = compare(tmp_path, target=0.8)
    assert found.table["rounds_to_target"].tolist() == [math.inf] and found.table[
        "reached"
    ].tolist() == [2]
    assert "not reached (2/5)" in text_of(found) and "not reached (2/5)" in found.to_markdown()
    found.to_csv(tmp_path / "t.csv")
    assert ",not reached,2," in (tmp_path / "t.csv").read_text()


def test_last_evaluations_as_a_number_or_a_share(tmp_path, write_run, config_of):
    write_run(tmp_path / "0", config_of("fedavg", "full", 0), [0.0, 0.1, 0.2, 0.4])
    for last, expected in {1: 0.4, 2: 0.3, 0.5: 0.3, 0.75: 0.7 / 3, 100: 0.175}.items():
        assert compare(tmp_path, last=last).table["mean"][0] == pytest.approx(expected)
    with pytest.raises(ConfigError, match="last=0"):
        compare(tmp_path, last=0)


def test_server_and_graph_runs_stand_side_by_side(tmp_path, write_run, config_of):
    write_run(tmp_path / "0", config_of("fedavg", "full", 0), [0.5])
    write_run(tmp_path / "1", config_of("gossip", "full", 0), [0.6], scope="nodes")
    assert compare(tmp_path).table.set_index("method")["mean"].to_dict() == {
        "fedavg": 0.5,
        "gossip": 0.6,
    }
    assert compare(tmp_path, metric="nodes/accuracy_min").table["method"].tolist() == ["gossip"]
    assert compare(tmp_path, metric="loss", target=1.0).table.set_index("method")[
        "mean"
    ].to_dict() == {"fedavg": 1.0, "gossip": 0.8}


def test_panels_are_compared_apart(tmp_path, write_sweep):
    write_sweep(tmp_path, rounds=20)
    found = compare(tmp_path)
    assert len(found.table) == 9 and (found.table["n"] == 3).all() and len(found.differences) == 9
    text = text_of(found)
    assert all(text.count(f" {pattern} ") == 2 for pattern in ("bernoulli", "markov", "cyclic"))
    assert found.to_markdown().count("| markov | fedau |") == 1
    swapped = compare(tmp_path, panel="algorithm", by="participation").table
    assert set(swapped["panel"]) == {"fedavg", "fedau", "fedspeed"} and set(swapped["method"]) == {
        "bernoulli",
        "markov",
        "cyclic",
    }


def test_swept_number_becomes_part_of_the_label(tmp_path, write_run, config_of):
    for number, cutoff in enumerate((10, 50, 50)):
        settings = {
            "aggregator__cutoff": cutoff,
            "aggregator__memory": cutoff + 1,
            "engine__workers": number,
        }
        write_run(tmp_path / str(number), config_of("fedau", "markov", number, **settings), [0.5])
    write_run(tmp_path / "3", config_of("fedavg", "markov", 0), [0.5])
    found = compare(tmp_path).table.set_index("method")["n"]
    assert found.to_dict() == {"fedau, cutoff=10": 1, "fedau, cutoff=50": 2, "fedavg": 1}
    assert compare(tmp_path, by=["algorithm", "aggregator.memory"]).table["method"].tolist() == [
        "fedau, memory=11",
        "fedau, memory=51",
        "fedavg",
    ]


def test_settings_of_a_panel_are_no_part_of_the_label(tmp_path, write_run, config_of):
    write_run(tmp_path / "0", config_of("fedau", "markov", 0, participation__memory=3), [0.5])
    write_run(tmp_path / "1", config_of("fedau", "cyclic", 0, participation__period=9), [0.5])
    assert compare(tmp_path).table["method"].tolist() == ["fedau", "fedau"]
    assert compare(tmp_path, panel=None).table["method"].tolist() == [
        "fedau, markov",
        "fedau, cyclic",
    ]


def test_engine_is_no_difference(tmp_path, write_run, config_of):
    for seed in (0, 1):
        config = config_of("fedau", "markov", seed, choices__engine=("inprocess", "ray")[seed])
        write_run(tmp_path / str(seed), config, [0.5])
    assert compare(tmp_path).table["n"].tolist() == [2]


def test_different_runs_of_one_seed_are_refused_unless_told_apart(tmp_path, write_run, config_of):
    for cutoff in (10, 50):
        write_run(
            tmp_path / str(cutoff),
            config_of("fedau", "markov", 0, aggregator__cutoff=cutoff),
            [0.5],
        )
    with pytest.raises(ConfigError, match="by='algorithm'.*aggregator.cutoff"):
        compare(tmp_path, by="algorithm")


def test_repeated_run_counts_once_and_a_finished_one_before_others(tmp_path, write_run, config_of):
    write_run(tmp_path / "0", config_of("fedau", "markov", 0), [0.1], end="failed")
    write_run(tmp_path / "1", config_of("fedau", "markov", 0), [0.2])
    write_run(tmp_path / "2", config_of("fedau", "markov", 0), [0.3])
    write_run(tmp_path / "3", config_of("fedau", "markov", 0), [0.4], end="killed")
    found = compare(tmp_path)
    assert found.table[["mean", "n", "unfinished"]].to_numpy().tolist() == [[0.3, 1, 0]]
    assert found.notes == [f"{run} repeats 2: left out" for run in (0, 1, 3)]


def test_unfinished_runs_are_left_out_and_told(tmp_path, write_run, config_of):
    for seed, end in enumerate(("done", "diverged", "killed")):
        write_run(tmp_path / str(seed), config_of("fedau", "markov", seed), [0.5 + seed], end=end)
    write_run(tmp_path / "3", config_of("fedau", "markov", 3), [], end="failed")
    found = compare(tmp_path)
    assert found.table[["mean", "n", "unfinished"]].to_numpy().tolist() == [[0.5, 1, 2]]
    text = text_of(found)
    assert (
        "1 of 3" in text
        and "1 (markov, fedau, seed 1) is diverged" in text
        and "3 has no evaluation and is failed" in text
    )
    assert compare(tmp_path, statuses=("done", "diverged")).table["n"].tolist() == [2]


def test_nothing_finished_gives_dashes(tmp_path, write_run, config_of):
    write_run(tmp_path / "0", config_of("fedau", "markov", 0), [0.5], end="killed")
    assert "| fedau | - | 0 of 1 | - | - | - |" in compare(tmp_path, target=0.5).to_markdown()


def test_diverged_value_is_not_skipped_by_the_mean(tmp_path, write_run, config_of):
    for seed, value in enumerate((0.5, math.nan)):
        write_run(tmp_path / str(seed), config_of("fedau", "markov", seed), [value])
    assert math.isnan(compare(tmp_path).table["mean"][0])


def test_runs_without_seed_are_not_paired(tmp_path, write_run):
    for number, name in enumerate(("Sgd", "Sgd", "Prox")):
        write_run(tmp_path / str(number), {"client": {"_target_": f"fedsim.{name}"}}, [0.5])
    found = compare(tmp_path)
    assert found.table["n"].tolist() == [2, 1] and found.differences.empty


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"metric": "f1"}, "metric='f1': .*server/accuracy"),
        ({"by": "cutoff"}, "by='cutoff': .*algorithm"),
        ({"panel": "partition.alpha"}, "panel='partition.alpha': .*algorithm"),
        ({"baseline": "fedprox"}, "baseline='fedprox': .*fedavg"),
    ],
)
def test_names_that_are_not_there_are_refused(two_methods, settings, message):
    with pytest.raises(ConfigError, match=message):
        compare(load_runs(two_methods), **settings)


def test_csv_where_it_cannot_be_written(two_methods):
    with pytest.raises(ConfigError, match="path=.*can be written"):
        compare(two_methods).to_csv(two_methods / "absent" / "t.csv")
