"""A disk that is full, or a folder that cannot be written, for a while or to the end: real faults,
on a small file system of their own."""

import contextlib
import os
import resource
import subprocess

import pytest

from fedsim.errors import ConfigError
from fedsim.evaluation.evaluator import Evaluation
from fedsim.recording import Logger, read_table
from fedsim.recording.checkpoints import Checkpoint
from fedsim.simulation.interruption import Interrupted
from tests.helpers import blobs_simulation
from tests.recording.test_checkpoint_resume import SignalIn, checkpoints, hashes, status

ROUNDS = 9
SPACE = 2**20  # bytes


@pytest.fixture(autouse=True)
def no_picture(monkeypatch):
    monkeypatch.setattr("fedsim.analysis.curves.run_curves", lambda *_: None)


@pytest.fixture
def small_disk(tmp_path):
    """A folder that is a file system of its own, of 1 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={SPACE}", "tmpfs", disk],
        capture_output=True,
        text=True,
    )
    if made.returncode:
        pytest.skip(f"a file system cannot be mounted here: {made.stderr.strip()}")
    yield disk
    subprocess.run(["umount", "--lazy", disk], check=True)


class Trouble(Logger):
    """A fault that begins while the rows of one round are recorded and ends in another."""

    def __init__(self, begin, end, rounds: tuple[int, int]) -> None:
        self.at = dict(zip(rounds, (begin, end), strict=True))

    def rows(self, rows):
        self.at.pop(rows[0]["round"], lambda: None)()


def full(disk, *rounds: int) -> Trouble:
    """Somebody else fills the disk, and makes space."""

    def fill() -> None:
        with contextlib.suppress(OSError), open(disk / "filler", "ab", buffering=0) as filler:
            while True:
                filler.write(b"\0" * 512)

    return Trouble(fill, lambda: (disk / "filler").unlink(), rounds)


def simulation(folder, *loggers, **parts):
    # More rows than one page of memory holds
    parts = {"checkpoint": Checkpoint(every=2), "evaluation": Evaluation(every=1), **parts}
    return blobs_simulation(ROUNDS, folder=folder, loggers=loggers, **parts)


@pytest.fixture(scope="module")
def whole():
    return simulation(None).run()


def test_where_space_returns_nothing_is_lost(small_disk, capsys, whole):
    run = small_disk / "run"
    result = simulation(run, full(small_disk, 3, 7)).run()
    assert hashes(result) == hashes(whole) and read_table(run).equals(result.metrics)
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("fedsim: ")]
    assert all(
        any(name in line for line in said)
        for name in ("metrics.jsonl", "round_000004", "round_000006")
    )
    assert any("(No space left on device); that of round 2 stays" in line for line in said)
    assert said[-1].endswith("metrics.jsonl is written again, with all its rows")
    assert checkpoints(run) == ["round_000002.safetensors", "round_000008.safetensors"]
    assert not list(small_disk.rglob("*.tmp"))


def test_a_disk_that_stays_full_ends_the_run_in_one_line_and_resume_goes_on(
    small_disk, capsys, whole
):
    run = small_disk / "run"
    with pytest.raises(
        ConfigError,
        match=(
            r"the results cannot be written \(No space left on device\); make space, then go on"
            r" with: "
        ),
    ) as end:
        simulation(run, full(small_disk, 5, 99)).run()
    assert "\n" not in str(end.value) and str(end.value).endswith(f"fedsim run resume={run}")
    assert checkpoints(run) == [
        "round_000002.safetensors",
        "round_000004.safetensors",
    ] and not list(run.rglob("*.tmp"))
    (small_disk / "filler").unlink()
    result = simulation(run).run(resume=True)
    assert hashes(result) == hashes(whole) and read_table(run).equals(result.metrics)


def test_a_run_that_is_interrupted_on_a_full_disk_names_the_checkpoint_there_is(small_disk, whole):
    run = small_disk / "run"
    with pytest.raises(
        Interrupted, match=r"^interrupted; go on after round 4 with: fedsim run resume="
    ):
        simulation(run, full(small_disk, 5, 99), SignalIn(6)).run()
    (small_disk / "filler").unlink()
    assert hashes(simulation(run).run(resume=True)) == hashes(whole)


def test_a_disk_that_is_full_before_the_start_is_refused_with_nothing_left(small_disk):
    full(small_disk, 0, 99).rows([{"round": 0}])
    with pytest.raises(
        ConfigError,
        match=r"^folder=.*: a folder that can be made and written \(No space left on device\)$",
    ):
        simulation(small_disk / "run").run()
    assert os.listdir(small_disk) == ["filler"]


def test_a_finished_run_is_not_lost_to_one_that_finds_no_space(small_disk, whole):
    simulation(small_disk / "run").run()
    full(small_disk, 0, 99).rows([{"round": 0}])
    with pytest.raises(ConfigError, match="No space left on device"):
        simulation(small_disk / "run").run()
    assert hashes(simulation(small_disk / "run").run(resume=True)) == hashes(whole)


def test_files_that_may_not_grow_are_a_full_disk_too(tmp_path, capsys, whole):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(most: int):
        return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))

    try:
        result = simulation(tmp_path, Trouble(limit(1), limit(before[0]), (3, 5))).run()
    finally:
        limit(before[0])()
    assert hashes(result) == hashes(whole) and read_table(tmp_path).equals(result.metrics)
    assert (
        "round_000004.safetensors cannot be written (File too large); that of round 2 stays"
        in capsys.readouterr().err
    )
    assert checkpoints(tmp_path) == ["round_000006.safetensors", "round_000008.safetensors"]


def test_a_folder_that_may_not_be_written_for_a_while(tmp_path, capsys, whole):
    run, root = tmp_path / "run", os.geteuid() == 0

    def forbid() -> None:
        (run / "checkpoints").chmod(0o500)
        os.seteuid(65534) if root else None  # root may write anywhere

    def allow() -> None:
        os.seteuid(0) if root else None
        (run / "checkpoints").chmod(0o700)

    try:
        result = simulation(run, Trouble(forbid, allow, (3, 5))).run()
    finally:
        allow()
    assert hashes(result) == hashes(whole) and status(run)["status"] == "done"
    assert (
        "round_000004.safetensors cannot be written (Permission denied); that of round 2 stays; the"
        " run goes on" in capsys.readouterr().err
    )
    assert checkpoints(run) == ["round_000006.safetensors", "round_000008.safetensors"]
