"""Bad input: one line that names key, value and what is accepted, exit code 2, before Ray starts,
and nothing left behind."""

import gzip
import sys
from pathlib import Path

import numpy as np
import pytest

from fedsim.cli.main import main

MODELS = """
from torch import nn

def normalised(input_shape, outputs):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Linear(8, outputs))

def narrow(input_shape, outputs):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, outputs - 1))

def dropping(input_shape, outputs):
    return nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, outputs))

def no_module(input_shape, outputs):
    return 3
"""

GRAPH, SMALL = "protocol=gossip", "partition=iid partition.clients=5"
NPZ, IDX = "data=npz data.file=", "data=mnist data.url=[] data.root="

CASES = [  # (what is typed, key, value, part of what is said to be accepted)
    # names
    (
        "aggregator=fedauu",
        "aggregator",
        "'fedauu'",
        "did you mean fedau? accepted are average_all,",
    ),
    ("algorithm=fedbest", "algorithm", "'fedbest'", "accepted are average_all,"),
    ("experiment=nothing", "experiment", "'nothing'", "unknown option"),
    ("aggregatr=fedau", "aggregatr", "'fedau'", "did you mean aggregator?"),
    ("round=3", "round", "'3'", "did you mean rounds?"),
    ("+extra=3", "extra", "3", "accepted are data, partition,"),
    ("folder=here", "folder", "'here'", "unknown key"),
    (
        "algorithm=fedau aggregator.cutof=4",
        "aggregator.cutof",
        "4",
        "unknown setting of FedAU; did you mean cutoff? accepted are cutoff, rate",
    ),
    (
        "algorithm=fedavg aggregator.cutoff=4",
        "aggregator.cutoff",
        "4",
        "accepted are weighting, rate",
    ),
    ("client.rate=4", "client.rate", "4", "unknown setting of Sgd; it has none"),
    ("model.hiden=[3]", "model.hiden", "[3]", "did you mean hidden?"),
    ("algorithm.cutoff=4", "algorithm.cutoff", "'4'", "chooses options of other groups"),
    ("rounds.more=4", "rounds.more", "'4'", "plain value"),
    ("hydra.run.folder=x", "hydra.run.folder", "'x'", "unknown key of Hydra"),
    ("hydra/launcher=jobli", "hydra/launcher", "'jobli'", "did you mean joblib?"),
    ("--config-dir=nowhere", "--config-dir", "'nowhere'", "an existing folder"),
    ("--config-name=other", "--config-name", "'other'", "accepted is config"),
    # grammar
    ("rounds", "rounds", "''", "key=value"),
    ("model.hidden=[3", "model.hidden", "'[3'", "a list as [1,2]"),
    ("seed=1,2", "seed", "'1,2'", "several values need -m"),
    ("seed=range(3)", "seed", "'range(3)'", "several values need -m"),
    ("client=[sgd,fedspeed]", "client", "'[sgd,fedspeed]'", "one option"),
    ("client=null", "client", "'null'", "the name of an option"),
    ("~client", "client", "None", "an option must be chosen"),
    ("name=${nobody}", "name", "'${nobody}'", "'nobody' not found"),
    ("data.limit=${nobody}", "data.limit", "'${nobody}'", "'nobody' not found"),
    ("participation=trace", "participation.file", "'???'", "must be given"),
    ("topology.degree=4", "topology.degree", "4", "choose one with topology=OPTION"),
    # types and ranges
    ("seed=one", "seed", "'one'", "valid integer"),
    ("seed=-1", "seed", "-1", "greater than or equal to 0"),
    ("seed=true", "seed", "True", "no value here"),
    ("rounds=0", "rounds", "0", "greater than or equal to 1"),
    ("rounds=2.5", "rounds", "2.5", "valid integer"),
    ("plots=maybe", "plots", "'maybe'", "valid boolean"),
    ("progress=often", "progress", "'often'", "'auto'"),
    ("local.rate=0", "local.rate", "0", "greater than 0"),
    ("local.rate=fast", "local.rate", "'fast'", "valid number"),
    ("local.rate=nan", "local.rate", "nan", "finite"),
    ("local.steps=1.5", "local.steps", "1.5", "valid integer"),
    ("local.momentum=1", "local.momentum", "1", "less than 1"),
    ("local.epochs=2", "local.epochs", "2.0", "either steps or epochs"),
    ("local.keep_optimizer=true", "local.keep_optimizer", "True", "momentum above 0"),
    ("local.last_batch=skip", "local.last_batch", "'skip'", "'keep' or 'drop'"),
    (
        "participation=bernoulli participation.probability=1.2",
        "participation.probability",
        "1.2",
        "less than or equal to 1",
    ),
    (
        "participation=bernoulli participation.given=[0.5,2]",
        "participation.given",
        "2",
        "less than or equal to 1",
    ),
    ("model.hidden=[0]", "model.hidden", "[0]", "integers of at least 1"),
    ("model.activation=gelu", "model.activation", "'gelu'", "relu or tanh"),
    ("partition.alpha=-1", "partition.alpha", "-1", "greater than 0"),
    ("evaluation.every=0", "evaluation.every", "0", "greater than or equal to 1"),
    ("schedule=exponential schedule.decay=0", "schedule.decay", "0", "greater than 0"),
    ("engine=ray engine.workers=0", "engine.workers", "0", "greater than or equal to 1"),
    # parts that do not fit together
    (
        "participation.cohort=101",
        "participation.cohort",
        "101",
        "at most the number of clients that hold data, 100",
    ),
    (
        "participation=bernoulli participation.given=[0.5,0.5]",
        "participation.given",
        "[0.5, 0.5]",
        "one number for each of the 100",
    ),
    (
        "partition=pathological partition.classes_per_client=11",
        "partition.classes_per_client",
        "11",
        "at most 10",
    ),
    ("partition.min_size=50", "partition.min_size", "50", "1294"),
    ("partition=iid partition.clients=2000", "partition.", "1", "1294"),
    ("partition=natural", "partition", "'Natural'", "no client ids"),
    ("data=synthetic data.task=regression", "partition", "'Dirichlet'", "regression"),
    (
        "data=synthetic data.task=regression partition=iid evaluation.target=0.9",
        "evaluation.target",
        "0.9",
        "use null",
    ),
    (
        "data.validation=0 evaluation.split=validation",
        "evaluation.split",
        "'validation'",
        "data.validation above 0",
    ),
    ("topology=ring", "topology", "'Ring'", "protocol=gossip"),
    (f"{GRAPH} topology=none", "topology", "None", "topology=ring"),
    (
        f"{GRAPH} topology=random_regular topology.degree=100",
        "topology.degree",
        "100",
        "less than the number of clients, 100",
    ),
    (
        f"{GRAPH} {SMALL} participation=full topology.degree=3",
        "topology.degree",
        "3",
        "even degree",
    ),
    (f"{GRAPH} topology=small_world topology.degree=3", "topology.degree", "3", "even number"),
    (
        f"{GRAPH} topology=erdos_renyi topology.probability=0.001",
        "topology.allow_disconnected",
        "False",
        "falls into",
    ),
    (f"{GRAPH} topology=torus topology.rows=7", "topology.rows", "7", "100"),
    (
        f"{GRAPH} client=fedspeed",
        "client.mean_dual",
        "'everyone'",
        "over a graph accepted are none and active",
    ),
    (
        f"{GRAPH} aggregator=fedau topology.per_round=true",
        "aggregator",
        "'FedAU'",
        "use one that stays",
    ),
    ("client=fedspeed client.prox=0.04", "client.prox", "0.04", "more than half the learning rate"),
    ("model=lenet", "model", "'LeNet'", "use mlp"),
    ("model=char_lstm", "model", "", "tokens"),
    # own classes
    ("client._target_=nowhere.Rule", "client._target_", "'nowhere.Rule'", "no module nowhere"),
    (
        "client._target_=fedsim.algorithms.FedSped",
        "client._target_",
        "'fedsim.algorithms.FedSped'",
        "did you mean FedSpeed?",
    ),
    (
        "client._target_=fedsim.algorithms.FedAU",
        "client._target_",
        "'fedsim.algorithms.FedAU'",
        "subclass of fedsim.algorithms.ClientRule",
    ),
    ("model._target_=bad_models.normalised", "model", "'Sequential'", "GroupNorm"),
    ("model._target_=bad_models.narrow", "model", "'Sequential'", "outputs of shape [2, 10]"),
    ("model._target_=bad_models.dropping", "model", "'Sequential'", "dropout"),
    ("model._target_=bad_models.no_module", "model", "'no_module'", "torch.nn.Module"),
    ("model._target_=bad_syntax.net", "model._target_", "'bad_syntax.net'", "SyntaxError"),
    # files
    (f"{IDX}nowhere", "data.root", "'nowhere'", "FEDSIM_DATA"),
    (f"{IDX}truncated", "data.root", "train-images-idx3-ubyte.gz", "truncated"),
    (f"{IDX}garbage", "data.root", "train-images-idx3-ubyte", "IDX file"),
    (f"{IDX}short", "data.root", "train-images-idx3-ubyte", "header promises"),
    (f"{NPZ}absent.npz", "data.file", "'absent.npz'", "existing file"),
    (f"{NPZ}garbage.npz", "data.file", "'garbage.npz'", "numpy.savez"),
    (f"{NPZ}nan.npz", "data.file", "'nan.npz'", "finite"),
    (f"{NPZ}lengths.npz", "data.file", "'lengths.npz'", "one y for each sample"),
    (f"{NPZ}objects.npz", "data.file", "'objects.npz'", "arrays of numbers"),
    (f"{NPZ}no_y.npz", "data.file", "'no_y.npz'", "no array y"),
    (
        f"{GRAPH} topology=graph_file topology.path=absent.txt",
        "topology.path",
        "'absent.txt'",
        "readable graph file",
    ),
    (
        f"{GRAPH} topology=graph_file topology.path=bad.graphml",
        "topology.path",
        "'bad.graphml'",
        "readable graph file",
    ),
    (
        f"{GRAPH} topology=graph_file topology.path=triangle.txt",
        "topology.path",
        "'triangle.txt'",
        "100",
    ),
    (
        "participation=trace participation.file=absent.csv",
        "participation.file",
        "'absent.csv'",
        "columns",
    ),
    (
        "participation=trace participation.file=columns.csv",
        "participation.file",
        "'columns.csv'",
        "client",
    ),
    (
        "participation=trace participation.file=strangers.csv",
        "participation.file",
        "'strangers.csv'",
        "client",
    ),
    ("--config-dir=own experiment=broken", "config", "broken.yaml", "YAML"),
    # machine
    ("engine.device=cuda:7", "engine.device", "'cuda:7'", "engine.device=cpu"),
    ("engine.device=tpu", "engine.device", "'tpu'", "cpu, cuda"),
    ("engine=ray engine.device=cuda:7", "engine.device", "'cuda:7'", "accepted are cpu and cuda"),
    (
        "hydra.run.dir=garbage.npz/run",
        "hydra.run.dir",
        "garbage.npz/run",
        "a folder that can be made and written",
    ),
    (
        "hydra.run.dir=garbage.npz",
        "hydra.run.dir",
        "garbage.npz",
        "a folder that can be made and written",
    ),
    (
        "hydra.run.dir=/proc/run",
        "hydra.run.dir",
        "'/proc/run'",
        "a folder that can be made and written",
    ),
    ("-m seed=1,2 aggregator=fedauu", "aggregator", "'fedauu'", "did you mean fedau?"),
    (
        "-m seed=1,2 hydra.sweep.dir=/proc/run",
        "hydra.sweep.dir",
        "'/proc/run'",
        "a folder that can be made and written",
    ),
]


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """A folder of files that cannot be used, and modules of models that cannot be trained."""
    folder = tmp_path_factory.mktemp("bad")
    (folder / "bad_models.py").write_text(MODELS)
    (folder / "bad_syntax.py").write_text("def net(:\n")
    idx = (
        bytes((0, 0, 8, 3))
        + b"".join(size.to_bytes(4, "big") for size in (60, 28, 28))
        + bytes(60 * 28 * 28)
    )
    for name, content in {
        "truncated": gzip.compress(idx)[:50],
        "garbage": b"garbage" * 99,
        "short": idx[:-9],
    }.items():
        (folder / name / "mnist").mkdir(parents=True)
        (
            folder
            / name
            / "mnist"
            / f"train-images-idx3-ubyte{'.gz' if name == 'truncated' else ''}"
        ).write_bytes(content)
    x, y = np.random.default_rng(0).normal(size=(30, 4)), np.arange(30) % 3
    (folder / "garbage.npz").write_bytes(b"garbage")
    np.savez(folder / "nan.npz", x=np.where(x == x[3, 1], np.nan, x), y=y)
    np.savez(folder / "lengths.npz", x=x, y=y[:-1])
    np.savez(folder / "objects.npz", x=x.astype(object), y=y)
    np.savez(folder / "no_y.npz", x=x)
    (folder / "triangle.txt").write_text("0 1\n1 2\n2 0\n")
    (folder / "bad.graphml").write_text("<graphml><graph>")
    (folder / "columns.csv").write_text("round,node\n0,1\n")
    (folder / "strangers.csv").write_text("round,client\n0,100\n")
    (folder / "own" / "experiment").mkdir(parents=True)
    (folder / "own" / "experiment" / "broken.yaml").write_text("# @package _global_\nrounds: [3\n")
    return folder


def ray_is_up() -> bool:
    return "ray" in sys.modules and sys.modules["ray"].is_initialized()


@pytest.mark.parametrize(
    ("typed", "key", "value", "accepted"), CASES, ids=[case[0] for case in CASES]
)
def test_one_line_and_nothing_left_behind(typed, key, value, accepted, files, monkeypatch, capfd):
    monkeypatch.chdir(files)
    monkeypatch.setattr(sys, "path", [str(files), *sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before, ray_before = sorted(files.rglob("*")), ray_is_up()

    code = main(["run", *typed.split(" ")])

    output, error = capfd.readouterr()
    assert code == 2
    assert output == ""
    assert error.count("\n") == 1 and error.endswith("\n"), error
    assert error.startswith(key) and value in error and accepted in error, error
    assert sorted(files.rglob("*")) == before
    assert ray_is_up() == ray_before


def test_an_unknown_folder_of_options_in_the_environment_is_refused(monkeypatch, tmp_path, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FEDSIM_CONFIG_DIR", "nowhere")
    assert main(["run"]) == 2
    assert capfd.readouterr().err.startswith(
        "FEDSIM_CONFIG_DIR='nowhere': accepted is an existing folder"
    )


def test_a_refused_run_leaves_an_older_run_in_its_folder_alone(monkeypatch, tmp_path, capfd):
    monkeypatch.chdir(tmp_path)
    small = ["run", "hydra.run.dir=kept/run", "rounds=1", "progress=false"]
    assert main(small) == 0
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert main([*small, "participation.cohort=1000"]) == 2
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_an_empty_folder_that_was_there_stays(monkeypatch, tmp_path, capfd):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "kept").mkdir()
    assert main(["run", "hydra.run.dir=kept/new/run", "participation.cohort=1000"]) == 2
    assert list(tmp_path.rglob("*")) == [tmp_path / "kept"]
