"""Sweeps: what they and their runs are called, what is found again, failures, and the launchers."""

import json
import os
import re
import sys
from pathlib import Path

import pytest
import yaml

import fedsim
from fedsim.cli.main import main
from fedsim.config.composition import compose
from fedsim.config.processes import THREADS
from fedsim.config.sweeps import (
    Typed,
    check_name,
    claimed,
    file_name,
    job_folder,
    job_key,
    sweep_name,
    swept_keys,
)
from fedsim.errors import ConfigError

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
JOBLIB = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]

RULES = """
from pathlib import Path

from fedsim.algorithms import FedAvg

class Broken(FedAvg):
    def step(self, base, mixed, state, info):
        raise ZeroDivisionError("of the rule's own")

class Counted(FedAvg):
    def step(self, base, mixed, state, info):
        with open("steps", "a") as file:
            file.write(".")
        return super().step(base, mixed, state, info)

class Repaired(FedAvg):
    def step(self, base, mixed, state, info):
        if not Path("repaired").exists():
            raise ZeroDivisionError("not repaired yet")
        return super().step(base, mixed, state, info)
"""


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """An empty folder to work in, with a module of rules."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [part for part in sys.path if part])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (tmp_path / "rules_of_a_test.py").write_text(RULES)
    yield tmp_path
    sys.modules.pop("rules_of_a_test", None)


def sweep(*typed: str) -> int:
    return main(["run", "-m", *TINY, *typed])


def jobs(folder: Path) -> dict[str, str]:
    """What the runs of a sweep are called, less the key -> their status."""
    found = {
        path.parent: json.loads(path.read_text())["status"]
        for path in sorted(folder.glob("*/status.json"))
    }
    assert all(re.fullmatch(r"(.+-)?[0-9a-f]{10}", path.name) for path in found)
    return {path.name[:-11]: status for path, status in found.items()}


def summaries(folder: Path) -> dict[str, str]:
    """Key of a run -> SHA-256 of its models."""
    found = {
        path.parent.name[-10:]: json.loads(path.read_text())
        for path in folder.glob("*/summary.json")
    }
    return {
        key: summary["model_sha256"] for key, summary in found.items() if "model_sha256" in summary
    }


def steps(folder: Path) -> int:
    return len((folder / "steps").read_text()) if (folder / "steps").exists() else 0


# ------------------------------------------------------------------------------------------------
# names and keys


def test_a_sweep_is_named_by_its_experiment_what_it_sweeps_over_and_what_is_fixed():
    typed = [
        Typed("seed", "0,1", True),
        Typed("experiment", "digits_server"),
        Typed("rounds", "20"),
        Typed("algorithm", "a,b", True),
    ]
    assert sweep_name(typed) == "digits_server-algorithm-seed-rounds_20"
    assert swept_keys(typed) == ["seed", "algorithm"]
    elsewhere = [
        Typed("engine", "ray"),
        Typed("engine.workers", "2"),
        Typed("name", "x"),
        Typed("data.root", "/far"),
    ]
    assert sweep_name(
        [*reversed(typed), *elsewhere, Typed("hydra/launcher", "joblib")]
    ) == sweep_name(typed)
    larger = [Typed("seed", "range(9)", True) if each.key == "seed" else each for each in typed]
    assert sweep_name(larger) == sweep_name(typed) != sweep_name(typed[:2])
    assert sweep_name([]) == "all"
    assert swept_keys([Typed("rounds", "20"), Typed("engine", "ray")]) == ["rounds"]


@pytest.mark.parametrize(
    "text",
    [
        "model.hidden=[64, 32]",
        "../../etc/passwd",
        "data.file=/a/b c.npz",
        "x" * 5000,
        "ä=ö\n\0",
        "...",
        "-rf",
    ],
)
def test_any_text_gives_a_name_that_a_file_can_have(text, tmp_path):
    name = file_name(text)
    assert "/" not in name and not name.startswith((".", "-")) and len(name.encode()) <= 80
    (tmp_path / f"{name}-0123456789").mkdir()
    assert file_name("x" * 5000) != file_name("x" * 5001)


@pytest.mark.parametrize(
    "value",
    ["", ".", "..", "../x", "a/../../x", "/x", "a//b", "a/", "a\\b", "a\nb", "a\0", "x" * 201],
)
def test_a_name_cannot_leave_its_folder(value):
    with pytest.raises(ConfigError, match="^sweep="):
        check_name("sweep", value)


def test_the_key_is_of_what_changes_results_alone():
    def key(*typed: str) -> str:
        return job_key(compose(typed).config)

    same = [
        "engine=ray",
        "engine.workers=3",
        "logger=tensorboard",
        "progress=false",
        "plots=true",
        "name=x",
        "data.root=/elsewhere",
    ]
    assert {key(typed) for typed in same} == {key()}
    assert key("algorithm=fedavg", "participation=uniform", "seed=0") == key()
    other = [
        "seed=1",
        "rounds=7",
        "algorithm=fedau",
        "local.rate=0.2",
        "data.limit=100",
        "evaluation.every=3",
        "metrics=[objective]",
    ]
    assert len({key(typed) for typed in other} | {key()}) == len(other) + 1
    recorded = yaml.safe_load(yaml.safe_dump(compose(["local.rate=1e-3", "seed=5"]).recorded))
    assert job_key(recorded) == key("seed=5", "local.rate=0.001")
    assert key("local.rate=1") == key("local.rate=1.0") != key("local.rate=1.5")


def test_a_folder_is_found_by_its_key_whatever_it_was_called(tmp_path):
    assert job_folder(tmp_path, {"seed": "1", "engine": "ray"}, "0123456789") == "seed=1-0123456789"
    assert job_folder(tmp_path, {}, "0123456789") == "0123456789"
    (tmp_path / "algorithm=fedau,seed=1-0123456789").mkdir()
    assert job_folder(tmp_path, {"seed": "1"}, "0123456789") == "algorithm=fedau,seed=1-0123456789"
    assert job_folder(tmp_path, {"seed": "1"}, "123456789a") == "seed=1-123456789a"


def test_a_folder_in_which_another_process_is_at_work_is_refused_or_waited_for(tmp_path):
    import subprocess

    code = (
        "import fcntl, os, sys\nfcntl.flock(os.open(sys.argv[1], os.O_RDONLY),"
        " fcntl.LOCK_EX)\nprint('mine', flush=True)\nsys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout.readline() == "mine\n"
        with (
            pytest.raises(ConfigError, match="another process is at work on this run"),
            claimed(tmp_path),
        ):
            pass
        other.kill()
        with claimed(tmp_path, wait=True):
            assert other.wait() != 0
    with claimed(tmp_path / "new" / "run"):
        assert (tmp_path / "new" / "run").is_dir()
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------------------------
# nothing twice


def test_a_sweep_started_again_repeats_nothing_and_a_larger_one_does_what_is_new(here, capsys):
    counted = "aggregator._target_=rules_of_a_test.Counted"
    assert sweep(counted, "seed=0,1", "local.rate=0.1") == 0
    (folder,) = (here / "multirun").iterdir()
    assert folder.name.startswith("seed-aggregator._target__rules_of_a_test.Counted-")
    assert jobs(folder) == {"seed=0": "done", "seed=1": "done"}
    first, done = summaries(folder), steps(here)
    assert done == 8
    capsys.readouterr()

    assert sweep(counted, "seed=0,1", "local.rate=0.1", "name=other", "progress=false") == 0
    assert capsys.readouterr().out.count("done before: multirun/") == 2
    assert (steps(here), summaries(folder)) == (done, first)

    assert sweep(counted, "seed=0,2,1", "local.rate=0.1") == 0
    assert jobs(folder) == {"seed=0": "done", "seed=1": "done", "seed=2": "done"}
    assert steps(here) == done + 4

    assert sweep(counted, "seed=0,1", "local.rate=0.1,0.2", f"sweep={folder.name}") == 0
    assert set(jobs(folder)) == {
        "seed=0",
        "seed=1",
        "seed=2",
        "seed=0,local.rate=0.2",
        "seed=1,local.rate=0.2",
    }
    assert list((here / "multirun").iterdir()) == [folder]


def test_a_sweep_has_the_name_that_it_is_given(here, capsys):
    assert sweep("seed=3", "sweep=mine/first") == 0
    assert "fedsim compare multirun/mine/first" in capsys.readouterr().out
    (run,) = (here / "multirun" / "mine" / "first").glob("*/config.yaml")
    assert "sweep" not in yaml.safe_load(run.read_text())


@pytest.mark.parametrize(
    ("typed", "line"),
    [
        ("-m sweep=../x", "sweep='../x': accepted is a name"),
        ("-m sweep=/x", "sweep='/x': accepted is a name"),
        ("-m sweep=a,b", "sweep='a,b': accepted is one name"),
        ("sweep=a", "sweep='a': names the folder of several runs; add -m"),
        ("name=../x", "name='../x': accepted is a name"),
        ("name=/x", "name='/x': accepted is a name"),
        ("--foo", "arguments='--foo': unknown flag"),
        ("--cfg jobs", "arguments='--cfg jobs': argument --cfg/-c: invalid choice"),
        ("--experimental-rerun=x.pickle", "--experimental-rerun='x.pickle': unpickles a file"),
        ("--config-path=x", "--config-path='x': use --config-dir"),
        ("--config-name=../x", "--config-name='../x': accepted is the name"),
        (
            "aggregator=../aggregator/fedau",
            "aggregator='../aggregator/fedau': accepted is the name of an option",
        ),
        (
            "-m aggregator=fedavg,/algorithm/fedau",
            "aggregator='fedavg,/algorithm/fedau': accepted is the name of an option",
        ),
        (
            "-m seed=0,1 engine=inprocess,ray hydra/launcher=joblib",
            "engine='ray': hydra/launcher=joblib would start a Ray session in each",
        ),
        (
            "-m seed=0,1 engine=ray hydra/launcher=joblib hydra.launcher.n_jobs=2",
            "engine='ray': hydra/launcher=joblib would start",
        ),
    ],
)
def test_refused_in_one_line_before_anything_starts(typed, line, here, capfd):
    before = sorted(here.iterdir())
    assert main(["run", *typed.split()]) == 2
    shown = capfd.readouterr()
    assert shown.err.startswith(line) and shown.err.count("\n") == 1 and shown.out == ""
    assert sorted(here.iterdir()) == before


# ------------------------------------------------------------------------------------------------
# failures


def test_a_failing_job_leaves_the_others_running_is_listed_and_is_run_again(here, capsys):
    typed = ["aggregator._target_=rules_of_a_test.Repaired,fedsim.algorithms.FedAU", "sweep=s"]
    assert sweep(*typed) == 1
    shown = capsys.readouterr()
    assert list(jobs(here / "multirun" / "s").values()) == ["done", "failed"]
    lines = shown.err.splitlines()
    assert (
        lines[0] == "1 failed:"
        and lines[1].endswith(": ZeroDivisionError: not repaired yet")
        and len(lines) == 2
    )
    assert lines[1].strip().startswith("multirun/s/aggregator._target_=rules_of_a_test.Repaired-")
    assert "fedsim compare multirun/s" in shown.out
    (failed,) = [path for path in (here / "multirun" / "s").glob("*Repaired*")]
    assert "rules_of_a_test.py" in json.loads((failed / "status.json").read_text())["traceback"]

    (here / "repaired").touch()
    assert sweep(*typed) == 0
    shown = capsys.readouterr()
    assert shown.err == "" and shown.out.count("done before") == 1
    assert list(jobs(here / "multirun" / "s").values()) == ["done", "done"]


def test_refused_jobs_are_listed_and_only_those_of_this_start(here, capsys):
    assert sweep("algorithm=fedavg,fedau", "partition.min_size=1,99", "sweep=s") == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "2 failed:"
    assert all(
        "partition.min_size=99: " in line and "ConfigError" not in line for line in lines[1:]
    )
    table = fedsim.load_runs(here / "multirun" / "s")
    assert set(table["algorithm"]) == {"fedavg", "fedau"}
    assert [status for _, status in table.attrs["without_rows"]] == ["failed", "failed"]
    # Still refused, and said again
    assert sweep("algorithm=fedavg,fedau", "partition.min_size=1,99", "sweep=s") == 2
    assert capsys.readouterr().err.startswith("2 failed:")
    assert sweep("algorithm=fedavg,fedau", "partition.min_size=1,2", "sweep=s") == 0
    assert capsys.readouterr().err == ""


def test_a_job_that_cannot_be_composed_is_recorded_like_any_other_failure(here, capsys):
    assert sweep("name=${nobody}", "seed=0,1", "sweep=s") == 2
    assert capsys.readouterr().err.startswith("2 failed:")
    assert len(jobs(here / "multirun" / "s")) == 2


def test_a_diverged_run_is_finished(here, capsys):
    assert sweep("local.rate=1e30", "sweep=s") == 0
    assert sweep("local.rate=1e30", "sweep=s") == 0
    assert list(jobs(here / "multirun" / "s").values()) == ["diverged"]
    assert "diverged before: multirun/s/" in capsys.readouterr().out


def test_a_job_in_a_folder_of_another_run_is_not_taken_for_it(here, capsys):
    assert sweep("seed=0", "hydra.sweep.dir=s", "hydra.sweep.subdir=run") == 0
    assert sweep("seed=1", "hydra.sweep.dir=s", "hydra.sweep.subdir=run") == 0
    assert "before" not in capsys.readouterr().out
    assert yaml.safe_load((here / "s" / "run" / "config.yaml").read_text())["seed"] == 1
    assert (
        sweep("seed=1", "hydra.sweep.dir=s", "hydra.sweep.subdir=run", "partition.min_size=99") == 2
    )
    assert json.loads((here / "s" / "run" / "status.json").read_text())["status"] == "failed"


def test_an_experiment_can_be_a_sweep(here):
    (here / "mine" / "experiment").mkdir(parents=True)
    lines = ["# @package _global_", "# a small grid", "sweep: grid", "hydra:", "  mode: MULTIRUN"]
    lines += ["  sweeper: {params: {algorithm: 'fedavg,fedspeed', seed: 'range(2)'}}"]
    (here / "mine" / "experiment" / "grid.yaml").write_text("\n".join(lines))
    assert main(["run", "--config-dir=mine", "experiment=grid", *TINY]) == 0
    names = {
        f"algorithm={algorithm},seed={seed}"
        for algorithm in ("fedavg", "fedspeed")
        for seed in (0, 1)
    }
    assert jobs(here / "multirun" / "grid") == dict.fromkeys(names, "done")


# ------------------------------------------------------------------------------------------------
# launchers


def test_the_joblib_launcher_gives_the_same_models_as_one_process(here, capfd):
    typed = ["aggregator._target_=fedsim.algorithms.FedAU,rules_of_a_test.Broken", "seed=0"]
    before = {name: os.environ.get(name) for name in THREADS}
    assert sweep(*typed, "sweep=one") == 1
    assert sweep(*typed, "sweep=two", *JOBLIB) == 1
    shown = capfd.readouterr().err
    assert shown.count("1 failed:") == 2 and shown.count("ZeroDivisionError") == 2
    one, two = here / "multirun" / "one", here / "multirun" / "two"
    assert jobs(one) == jobs(two) and summaries(one) == summaries(two)
    assert sweep(*typed, "sweep=two") == 1  # the same sweep with another launcher
    assert capfd.readouterr().out.count("done before") == 1
    assert {name: os.environ.get(name) for name in THREADS} == before


@pytest.mark.long
def test_jobs_one_after_the_other_may_run_on_ray(here, ray_session):
    assert sweep("seed=0,1", "sweep=here") == 0
    assert sweep("seed=0", "sweep=ray", "engine=ray") == 0
    assert (
        sweep(
            "seed=0,1",
            "sweep=ray",
            "engine=ray",
            "hydra/launcher=joblib",
            "hydra.launcher.n_jobs=1",
        )
        == 0
    )
    assert summaries(here / "multirun" / "here") == summaries(here / "multirun" / "ray")
