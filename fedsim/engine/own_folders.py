"""Folders of this user's alone in places where everybody may write, such as shared memory.

Anybody can put anything there under any name: a link, a named pipe, a folder with a lock that is
never let go. So whatever is found is looked at without following links and without waiting, it is
left alone unless it belongs to this user, and it is removed by descriptors, not by paths, which
others could exchange in between.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

TEMPORARY_PREFIX = ".fedsim-"  # of names in temporary folders, where users' own names are too
LOCK = "lock"
NEW_LOCK = "lock.new"
REMOVALS = 3  # a process that is ending may have put something there during the removal
FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_NONBLOCK
LOCK_FLAGS = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK


class OwnFolder:
    """A new folder, mode 0700, locked until it is removed or this process ends, however it ends.

    place: in which it is made; prefix: of its name, followed by the number of the process.
    """

    def __init__(self, place: Path, prefix: str) -> None:
        self.path = Path(tempfile.mkdtemp(prefix=f"{prefix}{os.getpid()}-", dir=place))
        self.owner = os.getpid()
        # Whoever sees the lock sees it held: it gets its name afterwards
        self.lock = open(self.path / NEW_LOCK, "w")
        fcntl.flock(self.lock, fcntl.LOCK_EX)
        os.rename(self.path / NEW_LOCK, self.path / LOCK)

    def remove(self) -> None:
        """Remove it with all that is in it; not from a process that was forked from its owner."""
        if os.getpid() != self.owner:
            return
        for _ in range(REMOVALS):
            with contextlib.suppress(OSError), _opened(self.path.parent) as place:
                with _own_folder(self.path.name, place) as folder:
                    _remove(self.path.name, place, folder)
        self.lock.close()


def remove_abandoned(place: Path, prefix: str) -> None:
    """Remove folders of this user's whose process was killed: nobody holds their lock.

    Args:
        place: where they are; nothing is done if it does not exist.
        prefix: of their names.
    """
    with contextlib.suppress(OSError), _opened(place) as there:
        for name in os.listdir(there):
            found = re.fullmatch(rf"{re.escape(prefix)}([0-9]{{1,9}})-.+", name)
            if found:
                with contextlib.suppress(OSError), _own_folder(name, there) as folder:
                    with _claimed(folder, found[1]) as abandoned:
                        if abandoned:
                            _remove(name, there, folder)


def temporary_places() -> list[Path]:
    """Existing folders for temporary files, the one that is wanted first."""
    wanted = [os.environ.get("RAY_TMPDIR"), tempfile.gettempdir(), "/tmp"]
    return [Path(place) for place in dict.fromkeys(wanted) if place and os.path.isdir(place)]


def is_own(folder: Path) -> bool:
    """Whether this is a folder (not a link to one) that belongs to this user."""
    try:
        return _belongs(folder.lstat(), stat.S_IFDIR)
    except OSError:
        return False


def _belongs(found: os.stat_result, kind: int) -> bool:
    return stat.S_IFMT(found.st_mode) == kind and found.st_uid == os.geteuid()


@contextlib.contextmanager
def _opened(place: Path) -> Iterator[int]:
    descriptor = os.open(place, os.O_RDONLY | os.O_DIRECTORY)  # the place itself may be a link
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _own_folder(name: str, place: int) -> Iterator[int]:
    """A descriptor of a folder of this user's. Raises OSError for anything else."""
    if not _belongs(os.stat(name, dir_fd=place, follow_symlinks=False), stat.S_IFDIR):
        raise PermissionError(name)
    folder = os.open(name, FOLDER_FLAGS, dir_fd=place)
    try:
        if not _belongs(os.fstat(folder), stat.S_IFDIR):  # another one by now
            raise PermissionError(name)
        yield folder
    finally:
        os.close(folder)


@contextlib.contextmanager
def _claimed(folder: int, process: str) -> Iterator[bool]:
    """Whether nobody is at work in it; its lock is held meanwhile. Raises OSError if it is held by
    another, or is none."""
    try:
        found = os.stat(LOCK, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:  # it may be in the making at this moment
        yield not _lives(int(process))
        return
    if not _belongs(found, stat.S_IFREG):
        raise PermissionError(LOCK)
    lock = os.open(LOCK, LOCK_FLAGS, dir_fd=folder)
    try:
        if not _belongs(os.fstat(lock), stat.S_IFREG):
            raise PermissionError(LOCK)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield True
    finally:
        os.close(lock)


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)  # sends nothing
    except ProcessLookupError:
        return False
    except OSError:  # of another user
        pass
    return True


def _remove(name: str, place: int, folder: int) -> None:
    """Remove a folder that is open: all in it by its descriptor, the lock last, then its name."""
    for entry in sorted(os.listdir(folder), key=lambda entry: entry == LOCK):
        with contextlib.suppress(OSError):
            kind = os.stat(entry, dir_fd=folder, follow_symlinks=False).st_mode
            if stat.S_ISDIR(kind):
                shutil.rmtree(entry, ignore_errors=True, dir_fd=folder)
            else:
                os.unlink(entry, dir_fd=folder)
    os.rmdir(name, dir_fd=place)
