"""A run folder as data: somebody may have sent it, so no link in it is followed."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from fedsim.reading import ARRAYS, READ, bound_of, check_regular, check_size, read_open


class LinkError(OSError):
    """A link in a run folder."""

    def __init__(self, name: str) -> None:
        text = f"{name} is a link, and links in a run folder are not followed"
        super().__init__(errno.ELOOP, text)


class Folder:
    """A folder held open: what is done in it by name is done in this one, whatever takes its
    place meanwhile.

    path: may be a link, since the user typed it; inner: names of folders in it, one in the other,
    which may not. Raises OSError.
    """

    def __init__(self, path: Path | str, *inner: str) -> None:
        self.path = Path(path)
        self.handle = os.open(path, READ | os.O_DIRECTORY)
        for name in inner:
            with self:  # the outer one is closed
                handle = self.open(name, READ | os.O_DIRECTORY)
            self.path, self.handle = self.path / name, handle

    def __enter__(self) -> Folder:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.handle)

    def open(self, name: str, flags: int = READ) -> int:
        """A descriptor of what has this name. Raises OSError, for a link LinkError."""
        try:
            return os.open(name, flags | os.O_NOFOLLOW, dir_fd=self.handle)
        except OSError:  # a link fails with another number on each system
            if self.is_link(name):
                raise LinkError(name) from None
            raise

    def is_link(self, name: str) -> bool:
        """Whether a link has this name."""
        try:
            return stat.S_ISLNK(os.stat(name, dir_fd=self.handle, follow_symlinks=False).st_mode)
        except OSError:
            return False

    def read(self, name: str, bound: int | None = None) -> bytes:
        """The contents of a regular file (see `fedsim.reading.read_file`). Raises OSError."""
        return read_open(self.open(name), self.path / name, bound)

    @contextlib.contextmanager
    def mapped(self, name: str) -> Iterator[str]:
        """A path of the regular file of this name, for a library that opens and maps it by itself;
        it leads to this very file, which may fill half of the free memory. Raises OSError."""
        handle = self.open(name)
        try:
            found = os.fstat(handle)
            check_regular(found, self.path / name)
            check_size(found.st_size, bound_of(ARRAYS))
            place = "/proc/self/fd" if os.path.isdir("/proc/self/fd") else "/dev/fd"
            yield f"{place}/{handle}"
        finally:
            os.close(handle)

    def names(self) -> list[str]:
        """All names in it, sorted."""
        return sorted(os.listdir(self.handle))

    def create(self, name: str) -> int:
        """A descriptor of a new file to write; FileExistsError where there is one, or a link."""
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        return os.open(name, flags, 0o666, dir_fd=self.handle)

    def replace(self, name: str, by: str) -> None:
        """Give the file `by` the name `name`; a link of that name goes, its target stays."""
        os.replace(by, name, src_dir_fd=self.handle, dst_dir_fd=self.handle)

    def remove(self, name: str) -> None:
        """Remove the name of a file, or of a link, where it is there."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self.handle)

    def sync(self) -> None:
        """Have its names on the disk: a new file is safe only then. Raises OSError."""
        os.fsync(self.handle)


def read_inside(path: Path | str, bound: int | None = None) -> bytes:
    """The contents of a regular file in a run folder, which may not be a link. Raises OSError."""
    path = Path(path)
    with Folder(path.parent) as folder:
        return folder.read(path.name, bound)
