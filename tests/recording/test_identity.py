"""Which run is which: keys of settings, old names of classes, and folders that versions before have
written."""

import functools
import json
import os
import shutil
from dataclasses import fields
from pathlib import Path

import pytest
import yaml

import fedsim
from fedsim.algorithms import Krum
from fedsim.cli.main import main
from fedsim.config.building import Settings, build
from fedsim.config.composition import compose
from fedsim.config.sweeps import _LOOKED_INTO
from fedsim.data import Digits, Dirichlet
from fedsim.errors import ConfigError
from fedsim.models import MLP
from fedsim.recording.files import read_json, read_yaml
from fedsim.recording.identity import (
    DEFAULTS,
    FORMAT,
    canonical_name,
    first_key,
    settings_key,
    telling,
)
from tests.paths import REPOSITORY

# Made before there were rooms: `fedsim.topology.Ring` and the like
OLD = REPOSITORY / "tests" / "recording" / "old_runs"
HASHES = {  # of models and metric rows, as the version that wrote these folders ended them
    "interrupted_server": ("83327a23a6a28b69", "09dd36625adaf361"),
    "interrupted_graph": ("2e5f0779af9c151c", "f826fc0e96bb2c7c"),
    "interrupted_objects": ("d7d3d51b8dd9b339", "00c867dc6fb8235c"),
}
SWEEP = [
    "participation.cohort=3",
    "partition.clients=6",
    "model.hidden=[4]",
    "rounds=4",
    "evaluation.every=2",
    "progress=false",
]


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """A folder with copies of the old runs, to work in."""
    shutil.copytree(OLD, tmp_path / "old")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", HASHES)
def test_an_old_run_goes_on_to_the_bytes_that_it_would_have_had(here, name, capsys):
    assert main(["run", f"resume=old/{name}"]) == 0
    assert "done" in capsys.readouterr().out
    summary = read_json(here / "old" / name / "summary.json")
    assert (summary["model_sha256"][:16], summary["metrics_sha256"][:16]) == HASHES[name]
    recorded = (here / "old" / name / "config.yaml").read_text()
    assert (
        "fedsim.topology" not in recorded
        and read_json(here / "old" / name / "status.json")["format"] == FORMAT
    )


def test_an_old_finished_run_is_read_back_and_not_run_again(here, capsys):
    before = (here / "old" / "finished" / "status.json").read_bytes()
    assert main(["run", "resume=old/finished"]) == 0
    assert "done before" in capsys.readouterr().out
    assert (here / "old" / "finished" / "status.json").read_bytes() == before


def test_old_runs_are_compared_with_new_ones(here):
    overrides = [
        line
        for line in read_yaml(here / "old" / "finished" / "overrides.yaml")
        if not line.startswith("progress")
    ]
    new = fedsim.simulate(overrides, folder=here / "old" / "again")
    table = fedsim.load_runs([here / "old" / "finished", here / "old" / "again"])
    values = table[table.metric == "accuracy"].groupby("run")["value"].last()
    assert len(values) == 2 and set(values) == {new.accuracy}
    assert not [column for column in table.columns if "_target_" in column]


def test_an_old_sweep_repeats_nothing(here, capsys):
    (here / "multirun").mkdir()
    shutil.move(here / "old" / "sweep", here / "multirun" / "old")
    before = {
        path: path.stat().st_mtime_ns for path in (here / "multirun" / "old").glob("*/status.json")
    }
    assert len(before) == 4
    assert main(["run", "-m", "sweep=old", "algorithm=fedavg,gossip", "seed=0,1,2", *SWEEP]) == 0
    assert capsys.readouterr().out.count("done before") == 4
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert len(list((here / "multirun" / "old").glob("*/status.json"))) == 6


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("fedsim.topology.Ring", "fedsim.network.Ring"),
        ("fedsim.mixing.Uniform", "fedsim.network.Uniform"),
        ("fedsim.directed.RandomOut", "fedsim.network.RandomOut"),
        ("fedsim.local.settings.LocalTraining", "fedsim.training.LocalTraining"),
        ("fedsim.metrics.Objective", "fedsim.evaluation.Objective"),
        ("fedsim.evaluation.Evaluation", "fedsim.evaluation.Evaluation"),
        ("fedsim.failures.Failures", "fedsim.rounds.Failures"),
        ("fedsim.data.user.Npz", "fedsim.data.Npz"),
        ("fedsim.engine.ray.Ray", "fedsim.engine.Ray"),
        ("fedsim.algorithms.fedau.FedAU", "fedsim.algorithms.FedAU"),
        ("my_module.Ring", "my_module.Ring"),
        ("fedsim.cli.os.system", "fedsim.cli.os.system"),
        (None, None),
    ],
)
def test_present_names(old, new):
    assert canonical_name(old) == new


def test_every_name_that_an_old_option_had_leads_to_a_class():
    """All `_target_`s of the options of the version before."""
    old = [
        line.partition("_target_: ")[2]
        for path in OLD.rglob("config.yaml")
        for line in path.read_text().splitlines()
    ]
    names = {canonical_name(name) for name in old if name}
    assert len(names) > 20
    for name in names:
        package, _, cls = name.rpartition(".")
        assert package.count(".") == 1 and hasattr(__import__(package, fromlist=[cls]), cls), name


def test_an_old_run_that_is_killed_after_it_was_resumed_goes_on_once_more(here, monkeypatch):
    """Its settings are recorded under present names by then: so are its checkpoints."""
    folder = here / "old" / "interrupted_server"
    with monkeypatch.context() as patch:

        def killed(*_: object) -> None:
            raise SystemExit(9)  # neither a failure nor a signal: nothing is written after it

        patch.setattr("fedsim.rounds.round.Rounds.run", killed)
        patch.setattr("fedsim.recording.recorder.Recorder.fail", lambda self, error: None)
        assert main(["run", "resume=old/interrupted_server"]) == 9
    assert read_json(folder / "status.json")["format"] == FORMAT
    assert main(["run", "resume=old/interrupted_server"]) == 0
    found = read_json(folder / "summary.json")
    assert found["model_sha256"][:16] == HASHES["interrupted_server"][0]


def test_a_run_of_an_old_sweep_that_this_version_has_ended_is_not_repeated(here, capsys):
    sweep = here / "multirun" / "old"
    shutil.move(here / "old" / "sweep", sweep)
    (begun,) = sweep.glob("*gossip,seed=1*")
    (begun / "status.json").write_text('{"status": "interrupted"}')
    command = ["run", "-m", "sweep=old", "algorithm=fedavg,gossip", "seed=0,1", *SWEEP]
    assert main(command) == 0
    monitored = {path: path.stat().st_mtime_ns for path in sweep.glob("*/status.json")}
    assert len(monitored) == 4 and read_json(begun / "status.json")["format"] == FORMAT
    capsys.readouterr()
    monkey = dict(_LOOKED_INTO)
    _LOOKED_INTO.clear()  # as in another process
    assert main(command) == 0 and monkey
    assert capsys.readouterr().out.count("done before") == 4
    assert {path: path.stat().st_mtime_ns for path in sweep.glob("*/status.json")} == monitored


@pytest.mark.parametrize("given", [(None, 1), (1, None)])
def test_null_is_another_setting_than_the_default(tmp_path, given):
    """Krum's `selected` is 1 by default, and null chooses another way."""
    first, second = (
        fedsim.Simulation(
            data=Digits(),
            partition=Dirichlet(clients=6),
            model=functools.partial(MLP, hidden=[4]),
            aggregator=Krum(attackers=1, selected=selected),
            rounds=1,
            folder=tmp_path,
            progress=False,
        )
        for selected in given
    )
    first.run()
    with pytest.raises(ConfigError, match=r"^aggregator\.selected="):
        second.run(resume=True)


def test_a_name_that_no_file_can_have_is_no_package():
    assert canonical_name(name := f"fedsim.{'x' * 5000}.Ring") == name


def test_the_order_of_metrics_does_not_tell_and_a_missing_one_is_named(tmp_path):
    first = ["metrics=[objective,client_spread]", "rounds=1", "partition.clients=12"]
    assert key(*first) == key("metrics=[client_spread,objective]", *first[1:])
    assert key(*first) != key("metrics=[objective]", *first[1:])


def test_users_yaml_with_old_names_works():
    overrides = [
        "protocol=gossip",
        "topology=ring",
        "participation=full",
        "partition.clients=6",
        "rounds=1",
    ]
    result = fedsim.simulate(
        [
            *overrides,
            "topology._target_=fedsim.topology.Ring",
            "mixing._target_=fedsim.mixing.OwnShare",
        ]
    )
    assert (
        result.summary["model_sha256"]
        == fedsim.simulate([*overrides, "mixing=own_share"]).summary["model_sha256"]
    )


def key(*overrides: str) -> str:
    return settings_key(compose(overrides).recorded)


def test_a_key_is_of_what_differs_from_the_defaults():
    plain = compose(["algorithm=fedau"]).recorded
    assert key(
        "algorithm=fedau",
        "seed=0",
        "aggregator.rate=1",
        "local.momentum=0.0",
        "engine=ray",
        "name=x",
    ) == settings_key(plain)
    others = [
        key("algorithm=fedau", changed)
        for changed in (
            "seed=1",
            "aggregator.rate=2",
            "aggregator.cutoff=3",
            "rounds=99",
            "metrics=[objective]",
        )
    ]
    assert len({settings_key(plain), *others}) == 6
    added = {**plain, "compression": None, "devices": {}}
    moved = json.loads(
        json.dumps(plain).replace("fedsim.algorithms.FedAU", "fedsim.algorithms.fedau.FedAU")
    )
    assert settings_key(added) == settings_key(moved) == settings_key(plain)


def test_settings_of_a_class_of_the_users_own_all_tell():
    mine = {"model": {"_target_": "my_module.Net", "width": 4, "depth": None}, "rounds": 100}
    assert telling(mine) == {
        "model._target_": "my_module.Net",
        "model.width": 4,
        "model.depth": None,
    }


def test_a_run_from_objects_and_the_same_from_settings_have_one_key():
    objects = fedsim.Simulation(
        data=Digits(), partition=Dirichlet(), model=functools.partial(MLP, hidden=[5]), metrics=[]
    )
    config = compose(["participation=full", "model.hidden=[5]", "aggregator.weighting=size"]).config
    assert telling(objects.describe()) == telling(build(Settings(config)).describe())


def test_the_defaults_of_keys_are_those_of_a_simulation():
    made = fedsim.Simulation(data=Digits(), partition=Dirichlet(), model=MLP)
    described = made.describe()
    for field in fields(made):
        if field.name in DEFAULTS:
            value = described[field.name]
            assert DEFAULTS[field.name] == (value["_target_"] if isinstance(value, dict) else value)
    assert telling({name: described[name] for name in DEFAULTS}) == {}


@pytest.mark.parametrize("number", [FORMAT + 1, 10**9])
def test_a_folder_of_a_later_format_is_compared_and_not_resumed(here, number, capsys):
    status = here / "old" / "interrupted_server" / "status.json"
    status.write_text(json.dumps({**json.loads(status.read_text()), "format": number}))
    before = {path: path.read_bytes() for path in status.parent.rglob("*") if path.is_file()}
    assert main(["run", "resume=old/interrupted_server"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("resume=") and f"it is of format {number}" in error
    assert {
        path: path.read_bytes() for path in status.parent.rglob("*") if path.is_file()
    } == before
    assert len(fedsim.load_runs(status.parent)) > 0


def test_a_checkpoint_of_format_1_of_other_settings_is_not_taken(here, capsys):
    config = here / "old" / "interrupted_server" / "config.yaml"
    recorded = yaml.safe_load(config.read_text())
    recorded["local"]["rate"] = 0.123
    config.write_text(yaml.safe_dump(recorded))
    assert main(["run", "resume=old/interrupted_server"]) == 2
    assert "it is of a run with other settings" in capsys.readouterr().err


def test_the_first_key_is_the_one_that_the_version_before_wrote():
    for folder in OLD.glob("interrupted_*"):
        (checkpoint,) = (folder / "checkpoints").iterdir()
        head = checkpoint.read_bytes()
        assert (
            first_key(read_yaml(folder / "config.yaml")).encode()
            in head[: int.from_bytes(head[:8], "little")]
        )
    assert os.path.isdir(OLD / "finished")
