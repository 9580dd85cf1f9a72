from __future__ import annotations

import math

import pandas as pd
import pytest

from fedsim.analysis import failed_runs, label_of, load_runs
from fedsim.errors import ConfigError
from fedsim.recording import COLUMNS

VALUES = [0.1, 0.4, 0.6]


def test_table_has_the_settings_that_differ_and_every_row(tmp_path, write_run, config_of):
    write_run(tmp_path / "a" / "0", config_of("fedavg", "markov", 0), VALUES)
    write_run(
        tmp_path / "a" / "1",
        config_of("fedau", "markov", 1, aggregator__cutoff=50, model={"hidden": [64, 32]}),
        VALUES,
    )
    table = load_runs(tmp_path)
    settings = [
        "algorithm",
        "participation",
        "seed",
        "aggregator._target_",
        "aggregator.cutoff",
        "model.hidden",
    ]
    assert list(table) == ["run", "status", *settings, *COLUMNS]
    runs = table.drop_duplicates("run").set_index("run")
    assert runs["algorithm"].to_dict() == {"a/0": "fedavg", "a/1": "fedau"} and runs[
        "seed"
    ].to_dict() == {"a/0": 0, "a/1": 1}
    assert math.isnan(runs["aggregator.cutoff"]["a/0"]) and runs["aggregator.cutoff"]["a/1"] == 50
    assert runs["model.hidden"]["a/1"] == "[64, 32]" and (runs["participation"] == "markov").all()
    accuracy = table[(table["run"] == "a/1") & (table["metric"] == "accuracy")]
    assert (
        accuracy["value"].tolist() == VALUES
        and accuracy["round"].tolist() == [0, 10, 20]
        and (accuracy["seed"] == 1).all()
    )
    assert len(table) == 2 * 5 * len(VALUES)


def test_runs_come_in_the_order_of_the_sweep_and_once(tmp_path, write_run, config_of):
    for number in (0, 2, 10):
        write_run(tmp_path / str(number), config_of("fedavg", "full", number), VALUES[:1])
    assert load_runs(tmp_path)["run"].unique().tolist() == ["0", "2", "10"]
    assert load_runs([tmp_path, tmp_path / "10"])["run"].unique().tolist() == ["0", "2", "10"]
    assert load_runs([tmp_path / "10", tmp_path / "2"])["run"].unique().tolist() == ["2", "10"]
    assert load_runs(str(tmp_path / "10"))["run"].unique().tolist() == ["10"]


def test_runs_come_in_the_order_of_the_numbers_in_their_names(tmp_path, write_run, config_of):
    names = [
        "local.rate=0.05,seed=2",
        "local.rate=0.05,seed=10",
        "local.rate=0.1,seed=0",
        "local.rate=0.1,seed=9",
        "local.rate=1,seed=3",
        f"local.rate=1,seed={10**17 - 1}",
        f"local.rate=1,seed={10**17}",
    ]
    for number, name in enumerate(reversed(names)):
        write_run(tmp_path / name, config_of("fedavg", "full", number), VALUES[:1])
    assert load_runs(tmp_path)["run"].unique().tolist() == names


def test_unfinished_runs_keep_their_rows_and_are_listed(tmp_path, write_run, config_of):
    for number, end in enumerate(("done", "failed", "diverged", "killed")):
        write_run(tmp_path / str(number), config_of("fedavg", "full", number), VALUES, end=end)
    write_run(tmp_path / "4", config_of("fedau", "full", 0), [], end="failed")
    killed = tmp_path / "3" / "metrics.jsonl"
    killed.write_bytes(killed.read_bytes()[:-9])
    table = load_runs(tmp_path)
    assert table.groupby("run").size().to_dict() == {"0": 15, "1": 15, "2": 15, "3": 14}
    assert table.groupby("run")["status"].first().to_dict() == {
        "0": "done",
        "1": "failed",
        "2": "diverged",
        "3": "running",
    }
    assert table.attrs["without_rows"] == [("4", "failed")]
    listed = failed_runs(tmp_path).set_index("run")
    assert listed["status"].to_dict() == {
        "1": "failed",
        "2": "diverged",
        "3": "running",
        "4": "failed",
    }
    assert (
        listed["reason"]["1"] == "ValueError: out of luck"
        and listed["reason"]["2"] == "the loss is not finite"
    )
    assert "killed" in listed["reason"]["3"]


def test_only_runs_without_rows_make_an_empty_table(tmp_path, write_run, config_of):
    write_run(tmp_path / "0", config_of("fedavg", "full", 0), [], end="failed")
    table = load_runs(tmp_path)
    assert table.empty and set(COLUMNS) < set(table)


def test_no_runs_is_refused(tmp_path):
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra" / "config.yaml").write_text("a: 1")
    with pytest.raises(ConfigError, match="runs=.*a folder with runs"):
        load_runs(tmp_path)
    with pytest.raises(ConfigError, match="runs=.*absent.*existing folder"):
        load_runs(tmp_path / "absent")
    with pytest.raises(ConfigError, match="a folder with runs"):
        load_runs([])


@pytest.mark.parametrize("content", ["a: [", "- 1", ""])
def test_damaged_configuration_is_named(tmp_path, write_run, config_of, content):
    (write_run(tmp_path / "0", config_of("fedavg", "full", 0), VALUES) / "config.yaml").write_text(
        content
    )
    with pytest.raises(ConfigError, match="config.yaml"):
        load_runs(tmp_path)


def test_run_built_from_objects_is_named_by_its_classes(tmp_path, write_run):
    config = {
        "client": {"_target_": "fedsim.algorithms.Sgd"},
        "aggregator": {"_target_": "mine.Median"},
        "seed": 1,
    }
    write_run(
        tmp_path / "0",
        {**config, "participation": {"_target_": "fedsim.participation.Markov"}},
        VALUES,
    )
    write_run(tmp_path / "1", {}, VALUES)
    runs = load_runs(tmp_path).drop_duplicates("run")
    assert runs["algorithm"].tolist() == ["Sgd+Median", "run"]
    assert runs["participation"].tolist()[0] == "Markov" and pd.isna(
        runs["participation"].tolist()[1]
    )


@pytest.mark.parametrize(
    "overrides, expected",
    [
        (["algorithm=fedau", "seed=3", "aggregator.cutoff=10"], "fedau"),
        (["algorithm=fedau", "client=fedspeed"], "fedau+client=fedspeed"),
        (
            ["correction=variance", "client=fedspeed", "+protocol=gossip"],
            "fedau+client=fedspeed+correction=variance+protocol=gossip",
        ),
        (["client.radius=0.1", "participation=markov"], "fedau"),
    ],
)
def test_label_names_what_was_typed_beside_the_algorithm(overrides, expected):
    choices = {"algorithm": "fedau", "client": "sgd", "correction": "none"}
    typed = dict(override.lstrip("+").split("=") for override in overrides)
    choices |= {group: option for group, option in typed.items() if "." not in group}
    assert label_of({"choices": choices, "overrides": overrides}) == expected


def test_overrides_of_the_folder_are_used(tmp_path, write_run, config_of):
    write_run(tmp_path / "0", config_of("fedavg", "full", 0), VALUES, overrides=["client=fedspeed"])
    assert load_runs(tmp_path)["algorithm"].unique().tolist() == ["fedavg+client=fedspeed"]
