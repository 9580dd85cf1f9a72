"""Folders in places where everybody may write: what others put there is left alone, stops nobody
and leads nowhere."""

import fcntl
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from fedsim.engine import arena as arena_file, own_folders
from fedsim.engine.own_folders import OwnFolder, is_own, remove_abandoned

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such places")
PREFIX = "fedsim-"
SECONDS = 10  # within which a look is over, on a machine that is busy too
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root makes files of other users")


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """In place of shared memory, where everybody may write; beside it, what nobody may touch."""
    (tmp_path / "treasure").mkdir()
    (tmp_path / "treasure" / "gold").write_text("gold")
    (tmp_path / "place").mkdir(mode=0o1777)
    monkeypatch.setattr(arena_file, "SHARED_MEMORY", tmp_path / "place")
    return tmp_path / "place"


@pytest.fixture(scope="module")
def dead() -> int:
    """The number of a process that has ended."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    return ended.pid


def look(place: Path) -> list[str]:
    """What is left after abandoned arenas were removed, in a thread that may hang for ever."""
    looking = threading.Thread(target=arena_file.remove_abandoned, daemon=True)
    looking.start()
    looking.join(SECONDS)
    assert not looking.is_alive(), "it hangs"
    return sorted(path.name for path in place.iterdir())


def abandoned(place: Path, number: int, name: str = "abc") -> Path:
    """A folder whose process was killed."""
    folder = place / f"{PREFIX}{number}-{name}"
    folder.mkdir(mode=0o700)
    (folder / "lock").touch()
    (folder / "models").mkdir()
    (folder / "models" / "0").write_bytes(b"0" * 100)
    return folder


def test_abandoned_folders_are_removed_and_what_they_link_to_stays(place, dead):
    folder = abandoned(place, dead)
    (folder / "link").symlink_to(place.parent / "treasure")
    (folder / "models" / "link").symlink_to(place.parent / "treasure")
    assert look(place) == []
    assert (place.parent / "treasure" / "gold").read_text() == "gold"


def test_a_named_pipe_in_place_of_a_lock_stops_nobody(place, dead):
    folder = abandoned(place, dead)
    (folder / "lock").unlink()
    os.mkfifo(folder / "lock")
    abandoned(place, dead, "xyz")
    assert look(place) == [folder.name]
    assert (folder / "models" / "0").exists()


def test_a_named_pipe_in_place_of_a_folder_stops_nobody(place, dead):
    os.mkfifo(place / f"{PREFIX}{dead}-abc")
    abandoned(place, dead, "xyz")
    assert look(place) == [f"{PREFIX}{dead}-abc"]


def test_a_link_to_a_folder_is_not_followed(place, dead):
    treasure = place.parent / "treasure"
    (treasure / "lock").touch()
    (place / f"{PREFIX}{dead}-abc").symlink_to(treasure)
    assert look(place) == [f"{PREFIX}{dead}-abc"]
    assert sorted(path.name for path in treasure.iterdir()) == ["gold", "lock"]


def test_a_lock_that_is_a_link_is_not_followed(place, dead):
    folder = abandoned(place, dead)
    (folder / "lock").unlink()
    (folder / "lock").symlink_to(place.parent / "treasure" / "gold")
    assert look(place) == [folder.name]
    (folder / "lock").unlink()
    (folder / "lock").symlink_to("nowhere")  # not taken for one that is missing, either
    assert look(place) == [folder.name]


@as_root
@pytest.mark.parametrize("what", ["folder", "lock"])
def test_what_belongs_to_another_user_is_left_alone(place, dead, what):
    folder = abandoned(place, dead)
    os.chown(folder if what == "folder" else folder / "lock", 12345, 12345)
    before = folder.stat().st_atime_ns
    assert look(place) == [folder.name]
    assert (folder / "models" / "0").exists()
    assert what == "lock" or folder.stat().st_atime_ns == before  # not even opened


@as_root
def test_a_folder_exchanged_while_it_is_looked_at_is_left_alone(place, dead, monkeypatch):
    folder, foreign = abandoned(place, dead), abandoned(place, dead, "foreign")
    os.chown(foreign, 12345, 12345)
    seen = os.stat

    def exchange(path, **how):
        found = seen(path, **how)
        if path == folder.name and foreign.exists():
            folder.rename(place / "aside")
            foreign.rename(folder)
        return found

    monkeypatch.setattr(own_folders.os, "stat", exchange)
    remove_abandoned(place, PREFIX)
    assert (folder / "models" / "0").exists() and (place / "aside" / "models" / "0").exists()


def test_a_folder_at_work_is_left_alone(place, dead):
    folder = abandoned(place, dead)
    with open(folder / "lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert look(place) == [folder.name]
    assert look(place) == []


def test_one_in_the_making_is_left_alone_until_its_process_is_dead(place, dead):
    (place / f"{PREFIX}{os.getpid()}-abc").mkdir(mode=0o700)
    (place / f"{PREFIX}{dead}-abc").mkdir(mode=0o700)
    (place / f"{PREFIX}{dead}-abc" / own_folders.NEW_LOCK).touch()
    assert look(place) == [f"{PREFIX}{os.getpid()}-abc"]


def test_a_lock_is_seen_when_it_is_held_and_not_before(place, monkeypatch):
    seen = []
    flock = fcntl.flock

    def looking(lock, how):
        seen.append(sorted(path.name for path in place.glob("*/*")))
        flock(lock, how)

    monkeypatch.setattr(own_folders.fcntl, "flock", looking)
    folder = OwnFolder(place, PREFIX)
    assert seen == [[own_folders.NEW_LOCK]]
    assert [path.name for path in folder.path.iterdir()] == [own_folders.LOCK]
    folder.remove()


def test_names_of_others_are_left_alone(place, dead):
    names = ["fedsim-results", "fedsim-x-abc", "fedsim--1-abc"]
    names += [f"fedsim-{dead}", f"other-{dead}-abc"]
    for name in names:
        (place / name).mkdir()
    assert look(place) == sorted(names)


def test_a_place_that_is_missing_has_nothing(tmp_path):
    remove_abandoned(tmp_path / "missing", PREFIX)


def test_a_new_folder_is_closed_locked_and_removed_with_all_in_it(place):
    folder = OwnFolder(place, PREFIX)
    assert folder.path.stat().st_mode & 0o777 == 0o700
    assert look(place) == [folder.path.name]
    (folder.path / "link").symlink_to(place.parent / "treasure")
    (folder.path / "models").mkdir()
    folder.remove()
    folder.remove()  # nothing is left to do
    assert look(place) == [] and (place.parent / "treasure" / "gold").exists()


def test_a_forked_process_does_not_remove_what_is_not_its_own(place):
    folder = OwnFolder(place, PREFIX)
    folder.owner += 1  # as a child sees it
    folder.remove()
    assert folder.path.exists()


def test_folders_of_ray_are_looked_for_in_the_temporary_folder(place, dead, monkeypatch):
    monkeypatch.setenv("RAY_TMPDIR", str(place))
    hidden = abandoned(place, dead).rename(place / f".fedsim-{dead}-abc")
    mine = place / f"fedsim-{os.getpid()}-abc"
    mine.mkdir()
    arena_file.remove_abandoned()
    assert mine.exists() and not hidden.exists()


def test_only_a_folder_of_ones_own_is_own(place, dead):
    folder = abandoned(place, dead)
    assert is_own(folder) and not is_own(place / "missing") and not is_own(folder / "lock")
    link = place / "link"
    link.symlink_to(folder)
    assert not is_own(link)
    if os.geteuid() == 0:
        os.chown(folder, 12345, 12345)
        assert not is_own(folder)
