"""Named arrays that outlive a round. In process they are private memory; on one machine's workers they are files in shared memory that all
map."""

from __future__ import annotations

import fcntl
import math
import mmap
import os
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedsim.errors import within_memory

SHARED_MEMORY = Path("/dev/shm")
Rows = slice | np.ndarray | tuple[slice | np.ndarray, slice]  # or some columns of them


@dataclass(frozen=True)
class ArraySpec:
    """shape and dtype of an array; sparse: rows are touched one by one, so memory is taken only for those in use."""

    shape: tuple[int, ...]
    dtype: str = "float32"
    sparse: bool = False

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


class Arena:
    """Arrays by name, private to this process; untouched pages take no memory."""

    def __init__(self, specs: dict[str, ArraySpec]) -> None:
        self.specs = specs
        self.arrays = {name: self._make(name, spec) for name, spec in specs.items()}

    @within_memory()
    def _make(self, name: str, spec: ArraySpec) -> np.ndarray:
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0)
        return np.frombuffer(mmap.mmap(-1, max(spec.bytes, 1), flags=flags), spec.dtype, math.prod(spec.shape)).reshape(spec.shape)

    def __getitem__(self, name: str) -> np.ndarray:
        return self.arrays[name]

    def __contains__(self, name: str) -> bool:
        return name in self.specs

    def named(self, prefix: str) -> dict[str, np.ndarray]:
        """Arrays whose name starts with `prefix`, by the rest of their name."""
        return {name.removeprefix(prefix): self.arrays[name] for name in self.specs if name.startswith(prefix)}

    def reserve(self, names: Iterable[str], rows: np.ndarray) -> None:
        """Make sure that these rows (sorted, at least one) can be written."""

    def take(self, rows: dict[str, Rows]) -> dict[str, np.ndarray]:
        """Copies of rows of arrays, to send to a worker that does not map this arena."""
        return {name: np.array(self.arrays[name][at]) for name, at in rows.items()}

    def put(self, rows: dict[str, Rows], values: dict[str, np.ndarray]) -> None:
        """Write what `take` gave there."""
        for name, at in rows.items():
            self.arrays[name][at] = values[name]

    def close(self) -> None:
        self.arrays = {}


class SharedArena(Arena):
    """Arrays in files in shared memory. The process that makes it removes it; others attach by `folder`.

    Raises MemoryError with the sizes when shared memory is too small.
    """

    def __init__(self, specs: dict[str, ArraySpec], folder: Path | None = None) -> None:
        self.owner = folder is None
        if folder is None:
            remove_abandoned()
            folder = Path(tempfile.mkdtemp(prefix=f"fedsim-{os.getpid()}-", dir=SHARED_MEMORY))
            self.lock = open(folder / "lock", "w")  # held until this process ends, however it ends
            fcntl.flock(self.lock, fcntl.LOCK_EX)
        self.folder = folder
        try:
            super().__init__(specs)
        except BaseException:
            self.close()
            raise

    def _path(self, name: str) -> Path:
        return self.folder / name.replace("/", ".")

    def _make(self, name: str, spec: ArraySpec) -> np.ndarray:
        if self.owner:
            with open(self._path(name), "wb") as file:
                os.truncate(file.fileno(), max(spec.bytes, 1))
                if not spec.sparse:
                    self._allocate(file.fileno(), 0, spec.bytes, name)
        with open(self._path(name), "r+b") as file:
            memory = mmap.mmap(file.fileno(), 0)
        return np.frombuffer(memory, spec.dtype, math.prod(spec.shape)).reshape(spec.shape)

    def _allocate(self, descriptor: int, start: int, length: int, name: str) -> None:
        if not length:
            return
        try:  # writing to a page that shared memory cannot back would kill the process; allocating says so instead
            os.posix_fallocate(descriptor, start, length)
        except OSError as error:
            free = shutil.disk_usage(self.folder).free
            sizes = f"{name} needs {length / 1e6:.0f} MB, {free / 1e6:.0f} MB are free"
            raise MemoryError(f"shared memory is full: {sizes}; use engine=inprocess or a smaller model") from error

    def reserve(self, names: Iterable[str], rows: np.ndarray) -> None:
        for name in names:
            width = self.specs[name].bytes // max(self.specs[name].shape[0], 1)
            breaks = np.flatnonzero(np.diff(rows) != 1) + 1
            with open(self._path(name), "r+b") as file:
                for part in np.split(rows, breaks):  # neighbouring rows at once
                    self._allocate(file.fileno(), int(part[0]) * width, len(part) * width, name)

    def close(self) -> None:
        super().close()
        if self.owner:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.lock.close()


def remove_abandoned() -> None:
    """Remove arenas whose process was killed: nobody holds their lock."""
    for folder in SHARED_MEMORY.glob("fedsim-*-*"):
        try:
            with open(folder / "lock") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except FileNotFoundError:
            pid = folder.name.split("-")[1]
            if not pid.isdigit() or Path("/proc", pid).exists():  # being made at this moment
                continue
        except OSError:  # at work
            continue
        shutil.rmtree(folder, ignore_errors=True)
