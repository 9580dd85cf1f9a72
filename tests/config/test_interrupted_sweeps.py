"""Sweeps whose process is killed or interrupted: started again, they end as if nothing had been.

The long version is experiments/faults/kill_sweep.py."""

import importlib.util
import signal
import sys
from pathlib import Path

import pytest

import fedsim
from fedsim.cli.main import main
from tests.paths import REPOSITORY

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/environ").exists(), reason="looks for processes in /proc"
)
_FILE = REPOSITORY / "experiments" / "faults" / "kill_sweep.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("kill_sweep_of_a_test", _FILE)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.fixture(scope="module")
def expected(script, tmp_path_factory) -> dict:
    """The results of an undisturbed sweep."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("undisturbed"))
        sweep = script.Sweep(Path.cwd(), "whole", [])
        assert main(["run", *sweep.arguments]) == 0
        results = sweep.results()
    assert len(results) == script.RUNS
    return results


@pytest.mark.parametrize(
    ("launcher", "how", "code", "said"),
    [
        ("basic", signal.SIGTERM, 143, "the same command goes on with what is missing"),
        pytest.param("joblib", signal.SIGKILL, -9, "", marks=pytest.mark.long),
        pytest.param(
            "joblib",
            signal.SIGINT,
            130,
            "interrupted; the same command goes on with what is missing",
            marks=pytest.mark.long,
        ),
    ],
)
def test_a_sweep_that_is_ended_and_started_again_gives_the_same_bytes(
    script, expected, tmp_path, monkeypatch, launcher, how, code, said
):
    monkeypatch.chdir(tmp_path)
    sweep = script.Sweep(tmp_path, "ended", script.LAUNCHERS[launcher])
    process = sweep.start()
    script.wait_for(
        lambda: (
            process.poll() is not None
            or sweep.finished()
            and sweep.files("*/checkpoints/*.safetensors")
        )
    )
    sweep.end(process, how)
    output, _ = process.communicate(timeout=script.PATIENCE)
    assert process.returncode == code, output
    assert said in output and "Traceback" not in output
    assert sweep.left() == []
    done = sweep.finished()
    assert 1 <= len(done) < script.RUNS
    ended = fedsim.load_runs(sweep.folder)[["run", "status"]].drop_duplicates()
    assert {path.parent.name for path in done} == set(ended["run"][ended["status"] == "done"])
    assert len(
        fedsim.compare(sweep.folder, panel=None).curves.query("counted")["run"].unique()
    ) == len(done)

    # Any launcher completes it
    assert main(["run", *script.Sweep(tmp_path, "ended", []).arguments]) == 0
    assert sweep.results() == expected
    assert done.items() <= sweep.finished().items()
