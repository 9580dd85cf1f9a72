"""Arenas: private and shared arrays, sparse rows, full memory and what a killed process leaves."""

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fedsim.engine import arena as arena_file
from fedsim.engine.arena import Arena, ArraySpec, SharedArena
from tests.paths import REPOSITORY

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="shared memory is used on Linux")
SPECS = {
    "models/0": ArraySpec((3, 5)),
    "models/1": ArraySpec((9, 37), block=16),
    "message/model": ArraySpec((2000, 1030), sparse=True, block=512),  # 12 MB
    "partial/update": ArraySpec((2, 4), "float64"),
    "client/dual": ArraySpec((1000, 4096), sparse=True),  # 16 MB
    "client/local.momentum": ArraySpec((2, 2), sparse=True),
    "client_seen": ArraySpec((7,), "uint8"),
}


@pytest.fixture
def memory(tmp_path, monkeypatch) -> Path:
    """A folder in place of shared memory, so that no other run's arenas are in sight."""
    monkeypatch.setattr(arena_file, "SHARED_MEMORY", tmp_path)
    return tmp_path


@pytest.fixture(params=["private", "shared"])
def arena(request, memory):
    made = Arena(SPECS) if request.param == "private" else SharedArena(SPECS)
    yield made
    made.close()


def taken(path: Path) -> int:
    """Bytes a file takes."""
    return path.stat().st_blocks * 512


def test_arrays_have_their_shapes_and_start_at_zero(arena):
    for name, spec in SPECS.items():
        assert (arena[name].shape, arena[name].dtype) == (
            spec.stored,
            np.dtype(spec.dtype),
        ) and name in arena
        assert not arena[name][:5].any() and arena[name].flags.writeable
    assert "models/2" not in arena
    named = arena.named("client/")
    assert list(named) == ["dual", "local.momentum"]
    named["dual"][4] = 2
    assert arena["client/dual"][4].sum() == 2 * 4096


def test_rows_travel_between_arenas(arena):
    rows = {"client/dual": np.array([7, 2]), "models/0": slice(None), "partial/update": slice(1, 2)}
    arena["client/dual"][[2, 7]] = [[2], [7]]
    arena["models/0"][:] = 1
    arena["partial/update"][:] = [[3], [4]]
    values = arena.take(rows)
    arena["client/dual"][7] = 0  # what was taken is a copy
    other = Arena(SPECS)
    other.put(rows, values)
    assert (
        other["client/dual"][7, 0] == 7
        and other["client/dual"][2, 0] == 2
        and not other["client/dual"][3].any()
    )
    assert (other["models/0"] == 1).all()
    assert other["partial/update"][:, 0].tolist() == [0, 4]


@pytest.mark.parametrize("at", [[0, 1, 2, 3], [8], [7, 2, 5], [], list(range(9))], ids=str)
def test_rows_of_an_array_in_blocks_are_written_and_read_as_those_of_any_other(arena, at):
    values = np.random.default_rng(0).random((9, 37), np.float32)
    everyone, at = np.arange(9), np.array(at, np.int64)
    arena.write("models/1", everyone, values)
    assert arena["models/1"].shape == (3, 9, 16) and np.array_equal(
        arena["models/1"][2, :, :5], values[:, 32:]
    )
    assert np.array_equal(arena.rows("models/1", at), values[at])
    arena.write("models/1", at, -values[at])
    values[at] *= -1
    assert np.array_equal(arena.whole("models/1"), values)
    other = Arena(SPECS)
    for rows in (at, slice(2, 4)):
        other.put({"models/1": rows}, arena.take({"models/1": rows}))
        assert np.array_equal(other.whole("models/1")[rows], values[rows])
    part = {"models/1": (slice(1, 2), at, slice(0, 16))}
    other.put(part, {"models/1": np.ones((1, len(at), 16), np.float32)})
    assert (other.whole("models/1")[at, 16:32] == 1).all() and np.array_equal(
        other.whole("models/1")[at, :16], values[at, :16]
    )


def test_private_arrays_take_memory_only_where_they_are_touched():
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    before = resident()
    arena = Arena({"client/dual": ArraySpec((2_000_000, 1000), sparse=True)})  # 8 GB
    arena["client/dual"][[0, 1_999_999]] = 1
    assert arena["client/dual"][[0, 7, 1_999_999], 999].tolist() == [1, 0, 1]
    assert resident() - before < 50e6


def test_what_one_attached_writes_the_other_sees(memory):
    owner = SharedArena(SPECS)
    (folder,) = memory.iterdir()
    attached = SharedArena(SPECS, owner.folder)
    assert attached.folder == owner.folder == folder
    attached["client/dual"][999] = 3
    owner["models/0"][1] = 4
    assert owner["client/dual"][999].sum() == 3 * 4096 and attached["models/0"][1, 0] == 4
    attached.close()
    assert folder.is_dir()
    owner.close()
    assert not folder.exists()


def test_another_process_attaches(memory):
    arena = SharedArena({"models/0": ArraySpec((2, 3))})
    arena["models/0"][0] = 5
    code = """
import pathlib, sys
from fedsim.engine.arena import ArraySpec, SharedArena
models = SharedArena({"models/0": ArraySpec((2, 3))}, pathlib.Path(sys.argv[1]))["models/0"]
assert models[0].tolist() == [5, 5, 5]
models[1] = 6
"""
    subprocess.run([sys.executable, "-c", code, str(arena.folder)], check=True, cwd=REPOSITORY)
    assert arena["models/0"][1].tolist() == [6, 6, 6]
    arena.close()


def test_sparse_arrays_take_memory_for_reserved_rows_only(memory):
    arena = SharedArena(SPECS)
    dual = arena.folder / "client.dual"
    assert dual.stat().st_size == 1000 * 4096 * 4 and taken(dual) == 0
    assert taken(arena.folder / "models.0") > 0
    arena.reserve(["client/dual"], np.array([3, 998]))
    assert 2 * 16384 <= taken(dual) <= 4 * 16384
    arena["client/dual"][998] = 1
    arena.reserve(["client/dual"], np.array([998]))
    # What is there stays
    assert arena["client/dual"][998].all() and not arena["client/dual"][3].any()
    model = arena.folder / "message.model"
    arena.reserve(["message/model"], np.arange(8, 16))
    assert 3 * 8 * 2048 == taken(model)  # of each of the three blocks
    arena.write("message/model", np.arange(8, 16), np.ones((8, 1030), np.float32))
    assert 3 * 8 * 2048 == taken(model)
    arena.close()


def test_arenas_of_dead_processes_are_removed_and_no_others(memory):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    names = [
        f"fedsim-{ended.pid}-abc",
        f"fedsim-{os.getpid()}-def",
        "fedsim-x-abc",
        f"other-{ended.pid}-abc",
    ]
    for name in names:
        (memory / name).mkdir()
        (memory / name / "models.0").write_bytes(b"0" * 100)
    arena = SharedArena(SPECS)
    assert sorted(path.name for path in memory.iterdir()) == sorted([*names[1:], arena.folder.name])
    arena.close()


def test_the_lock_and_not_the_number_of_a_process_tells_whether_it_lives(memory):
    """Process numbers are used again, and are others in another container."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    abandoned, working = memory / f"fedsim-{os.getpid()}-abc", memory / f"fedsim-{ended.pid}-abc"
    for folder in (abandoned, working):
        folder.mkdir()
        (folder / "lock").touch()
    with open(working / "lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        first = SharedArena(SPECS)
        second = SharedArena(SPECS)
        assert sorted(memory.iterdir()) == sorted([working, first.folder, second.folder])
        first.close()
        second.close()


@pytest.fixture
def small_memory(tmp_path, monkeypatch):
    """One megabyte of shared memory. It is detached at once, so that it goes with this process,
    however that ends."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(tmp_path)]
    try:
        mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("mounting a small tmpfs needs root")
    descriptor = os.open(tmp_path, os.O_RDONLY)
    subprocess.run(["umount", "--lazy", str(tmp_path)], check=True)
    folder = Path("/proc/self/fd", str(descriptor))
    monkeypatch.setattr(arena_file, "SHARED_MEMORY", folder)
    yield folder
    os.close(descriptor)


def test_full_memory_is_said_with_sizes_and_leaves_nothing(small_memory):
    specs = {"models/0": ArraySpec((100_000,)), "models/1": ArraySpec((200_000,))}  # 0.4 and 0.8 MB
    with pytest.raises(
        MemoryError,
        match=r"shared memory is full: models/1 needs .* MB, .* MB are free; use engine=inprocess",
    ):
        SharedArena(specs)
    assert not list(small_memory.iterdir())


def test_memory_that_fills_up_later_is_an_error_and_no_crash(small_memory):
    arena = SharedArena({"client/dual": ArraySpec((100, 100_000), sparse=True)})  # rows of 0.4 MB
    arena.reserve(["client/dual"], np.array([1, 5]))
    arena["client/dual"][[1, 5]] = 1
    with pytest.raises(MemoryError, match="client/dual needs .* MB, .* MB are free"):
        arena.reserve(["client/dual"], np.array([6]))
    arena.close()
    assert not list(small_memory.iterdir())
