"""The command line: its commands, single runs, multiruns with failures, and use from anywhere."""

import json
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest
import yaml

from fedsim.cli.main import main

TINY = [
    "data=synthetic",
    "data.samples=100",
    "data.test=50",
    "data.shape=[4]",
    "data.classes=3",
    "partition.clients=6",
    "model.hidden=[4]",
]
TINY += [
    "participation=bernoulli",
    "participation.probability=0.5",
    "rounds=4",
    "evaluation.every=2",
]

RULES = """
from fedsim.algorithms import FedAvg

class Broken(FedAvg):
    def step(self, base, mixed, state, info):
        raise ZeroDivisionError("of the rule's own")
"""


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """An empty folder to work in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [part for part in sys.path if part])
    yield tmp_path
    sys.modules.pop("broken_rules", None)


def run_folders(top: Path) -> list[Path]:
    return sorted(path.parent for path in top.rglob("status.json"))


def status(folder: Path) -> str:
    return json.loads((folder / "status.json").read_text())["status"]


# ------------------------------------------------------------------------------------------------
# the commands


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"], ["help"]])
def test_alone_it_says_what_there_is(arguments, capsys):
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    assert len(shown.splitlines()) < 14
    assert all(
        f"fedsim {command}" in shown for command in ("run", "list", "compare", "tune", "demo")
    )


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.split() == ["fedsim", "0.1.0"]


def test_an_unknown_command_is_one_line(capsys):
    assert main(["runn"]) == 2
    commands = "run, list, compare, tune, check, demo"
    assert (
        capsys.readouterr().err
        == f"command='runn': unknown command; did you mean run? accepted are {commands}\n"
    )


def test_demo_is_handed_its_arguments(monkeypatch):
    import fedsim

    given = []
    module = types.ModuleType("fedsim.cli.demo")
    module.main = lambda arguments: given.append(arguments) or 0
    monkeypatch.setitem(sys.modules, "fedsim.cli.demo", module)
    monkeypatch.setattr(fedsim, "demo", module, raising=False)
    assert main(["demo", "--seeds", "1"]) == 0
    assert given == [["--seeds", "1"]]


def test_hydra_s_own_flags(here, capsys):
    assert main(["run", "--help"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("fedsim run") and "resume=FOLDER" in shown and "sweep=NAME" in shown
    groups = dict(line.split(": ", 1) for line in shown.splitlines() if ": " in line)
    assert {"fedau", "fedavg", "known_prob"} <= set(groups["aggregator"].split(", "))
    assert main(["run", "algorithm=fedau", "aggregator.cutoff=7", "--cfg", "job"]) == 0
    config = yaml.safe_load(capsys.readouterr().out)
    assert config["aggregator"] == {"_target_": "fedsim.algorithms.FedAU", "cutoff": 7, "rate": 1.0}
    assert main(["run", "--cfg", "job", "--package", "local", "local.groups=3"]) == 0
    assert "groups: 3" in capsys.readouterr().out
    assert main(["run", "--info", "defaults"]) == 0
    assert "protocol/server" in capsys.readouterr().out
    assert list(here.iterdir()) == []


def test_list_shows_every_option_with_its_line(here, capsys):
    assert main(["list"]) == 0
    shown = capsys.readouterr().out
    for text in (
        "algorithm",
        "vc_gossip",
        "FedAU: each update times its client's mean gap",
        "handwritten digits of 8 x 8",
        "experiment",
    ):
        assert text in shown
    assert "@package" not in shown


def test_list_of_a_group_shows_settings_also_those_its_file_leaves_out(here, capsys):
    assert main(["list", "local"]) == 0
    shown = capsys.readouterr().out
    assert "groups=16" in shown and "rate=0.1" in shown
    assert main(["list", "algorithm"]) == 0
    assert "client=fedspeed aggregator=average_participating" in capsys.readouterr().out
    assert main(["list", "agregator"]) == 2
    assert "did you mean aggregator?" in capsys.readouterr().err


def test_list_shows_own_options(here, capsys):
    (here / "mine" / "client").mkdir(parents=True)
    (here / "mine" / "client" / "special.yaml").write_text(
        "# a rule of my own\n_target_: fedsim.algorithms.Sgd\n"
    )
    assert main(["list", "client", "--config-dir", "mine"]) == 0
    shown = capsys.readouterr().out
    assert "a rule of my own" in shown and "special.yaml" in shown


# ------------------------------------------------------------------------------------------------
# single runs


def test_a_run_records_and_says_how_it_ended(here, capsys):
    assert main(["run", *TINY, "algorithm=fedau", "aggregator.cutoff=3", "local.groups=5"]) == 0
    (folder,) = run_folders(here / "outputs" / "fedau")
    shown = capsys.readouterr()
    summary = json.loads((folder / "summary.json").read_text())
    assert shown.out.startswith(f"fedau: accuracy {summary['accuracy']:.4g} after 4 rounds in ")
    assert shown.out.endswith(f"done: {folder.relative_to(here)}\n") and shown.err == ""
    assert yaml.safe_load((folder / "overrides.yaml").read_text())[-3:] == [
        "algorithm=fedau",
        "aggregator.cutoff=3",
        "local.groups=5",
    ]
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert (
        config["choices"]["aggregator"],
        config["aggregator"]["cutoff"],
        config["local"]["groups"],
    ) == ("fedau", 3, 5)
    assert not (folder / ".hydra").exists() and not list(folder.glob("*.log"))


def test_the_name_names_the_folder_and_hydra_s_keys_choose_another(here):
    assert main(["run", *TINY, "name=first"]) == 0
    assert len(run_folders(here / "outputs" / "first")) == 1
    assert main(["run", *TINY, "hydra.run.dir=elsewhere"]) == 0
    assert run_folders(here / "elsewhere") == [here / "elsewhere"]


def test_an_error_inside_a_run_shows_its_traceback_and_is_recorded(here, capsys):
    (here / "broken_rules.py").write_text(RULES)
    assert main(["run", *TINY, "aggregator._target_=broken_rules.Broken"]) == 1
    shown = capsys.readouterr().err
    assert shown.startswith("Traceback") and shown.endswith(
        "ZeroDivisionError: of the rule's own\n"
    )
    (folder,) = run_folders(here)
    assert status(folder) == "failed"


def test_an_interrupted_run_ends_with_130(here, monkeypatch, capsys):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("fedsim.rounds.round.Rounds.run", interrupt)
    assert main(["run", *TINY]) == 130
    assert capsys.readouterr().err == "interrupted\n"
    (folder,) = run_folders(here)
    assert status(folder) == "failed"


def test_argv_environment_and_logging_are_left_as_they_were(here):
    import logging

    before = (
        list(sys.argv),
        os.environ.get("HYDRA_FULL_ERROR"),
        logging.getLogger().level,
        list(logging.getLogger().handlers),
    )
    main(["run", *TINY])
    main(["run", "nonsense=1"])
    assert before == (
        sys.argv,
        os.environ.get("HYDRA_FULL_ERROR"),
        logging.getLogger().level,
        logging.getLogger().handlers,
    )


# ------------------------------------------------------------------------------------------------
# compare


def test_compare_shows_failed_runs_first_and_writes_table_and_picture(here, capsys):
    assert (
        main(["run", "-m", *TINY, "algorithm=fedavg,fedau", "seed=0,1", "hydra.sweep.dir=sweep"])
        == 0
    )
    assert main(["run", "-m", *TINY, "partition.min_size=99", "hydra.sweep.dir=sweep/more"]) == 2
    capsys.readouterr()
    assert main(["compare", "sweep", "--target", "0.1", "--panel", "none"]) == 0
    shown = capsys.readouterr().out
    assert (
        shown.startswith("failed: more/")
        and "ConfigError: partition.min_size=99" in shown.splitlines()[0]
    )
    assert "rounds to 0.1" in shown and "fedau" in shown
    assert (here / "sweep" / "comparison.png").read_bytes()[:4] == b"\x89PNG"
    assert "| fedau" in (here / "sweep" / "comparison.md").read_text()
    assert (here / "sweep" / "comparison.csv").exists() and (
        here / "sweep" / "comparison-differences.csv"
    ).exists()
    assert (
        main(
            [
                "compare",
                "sweep",
                "--out",
                "pictures",
                "--metric",
                "loss",
                "--by",
                "algorithm",
                "--last",
                "2",
            ]
        )
        == 0
    )
    assert (here / "pictures" / "comparison.png").exists()


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["nowhere"], "runs='nowhere': an existing folder"),
        (["."], "runs=["),
        ([], "fedsim compare: the following arguments are required: FOLDER"),
        ([".", "--last", "x"], "fedsim compare: argument --last: invalid float value: 'x'"),
    ],
)
def test_compare_refuses_in_one_line(arguments, line, here, capsys):
    assert main(["compare", *arguments]) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith(line) and shown.err.count("\n") == 1 and shown.out == ""


# ------------------------------------------------------------------------------------------------
# from anywhere


def test_python_m_fedsim_in_another_folder_with_a_rule_of_one_s_own(here):
    """As an installed package is used: the current folder has the rule's module, a folder beside it
    the options."""
    (here / "halving_rule_of_a_test.py").write_text(
        "from fedsim.algorithms import FedAvg\n\nclass Halving(FedAvg):\n    def step(self, base,"
        " mixed, state, info):\n        return base + 0.5 * mixed, state\n"
    )
    (here / "mine" / "aggregator").mkdir(parents=True)
    (here / "mine" / "aggregator" / "halving.yaml").write_text(
        "# half steps\n_target_: halving_rule_of_a_test.Halving\n"
    )
    package = Path(main.__code__.co_filename).parents[1]
    environment = {
        **os.environ,
        "FEDSIM_CONFIG_DIR": str(here / "mine"),
        "PYTHONPATH": str(package),
        "OMP_NUM_THREADS": "1",
    }
    command = [
        sys.executable,
        "-m",
        "fedsim",
        "run",
        *TINY,
        "aggregator=halving",
        "hydra.run.dir=run",
    ]
    done = subprocess.run(command, cwd=here, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("done: run\n")
    assert (
        yaml.safe_load((here / "run" / "config.yaml").read_text())["aggregator"]["_target_"]
        == "halving_rule_of_a_test.Halving"
    )


def test_check_tells_a_run_that_moved_from_one_that_did_not(tmp_path, capsys):
    tiny = [
        "partition.clients=8",
        "participation.cohort=3",
        "rounds=4",
        "evaluation.every=2",
        "progress=false",
    ]
    folders = {
        name: str(tmp_path / name) for name in ("one", "looped", "other_seed", "again", "slower")
    }
    more = {
        "one": [],
        "looped": ["local.execution=looped"],
        "other_seed": ["seed=1"],
        "again": [],
        "slower": ["local.rate=0.1001"],
    }
    for name, folder in folders.items():
        assert main(["run", *tiny, *more[name], f"hydra.run.dir={folder}"]) == 0
    golden = str(tmp_path / "golden.json")
    assert (
        main(["check", folders["one"], folders["looped"], folders["other_seed"], "--write", golden])
        == 0
    )
    capsys.readouterr()
    assert main(["check", folders["again"], "--against", golden]) == 0
    assert "the same bytes" in capsys.readouterr().out
    assert main(["check", folders["looped"], "--against", golden]) == 0
    assert "within tolerance" in capsys.readouterr().out
    assert main(["check", folders["slower"], "--against", golden]) == 2
    assert capsys.readouterr().err == "local.rate=0.1001: the golden run has 0.1\n"
    text = Path(golden).read_text()
    Path(golden).write_text(text.replace('"settings": {', '"settings": {"local.rate": 0.1001,'))
    assert main(["check", folders["slower"], "--against", golden]) == 1
    assert "run/update_norm" in capsys.readouterr().out
    for wrong in (
        [folders["one"]],
        [str(tmp_path), "--against", golden],
        [folders["one"], "--against", str(tmp_path / "none.json")],
    ):
        assert main(["check", *wrong]) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1
