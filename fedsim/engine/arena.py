"""Named arrays that outlive a round. In process they are private memory; on one machine's workers
they are files in shared memory that all map."""

from __future__ import annotations

import math
import mmap
import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedsim.engine import own_folders
from fedsim.errors import within_memory

SHARED_MEMORY = Path("/dev/shm")
PREFIX = "fedsim-"  # of the names of arenas
# or, of an array in blocks: blocks, rows and columns of each
Rows = slice | np.ndarray | tuple[slice, slice | np.ndarray, slice]


@dataclass(frozen=True)
class ArraySpec:
    """shape and dtype of an array; sparse: rows are touched one by one, so memory is taken only for
    those in use; block: so many columns of all rows lie together, and the array is stored as
    [blocks, rows, block] (None: as [rows, ...])."""

    shape: tuple[int, ...]
    dtype: str = "float32"
    sparse: bool = False
    block: int | None = None

    @property
    def stored(self) -> tuple[int, ...]:
        return (
            self.shape
            if self.block is None
            else (-(-self.shape[1] // self.block), self.shape[0], self.block)
        )

    @property
    def bytes(self) -> int:
        return math.prod(self.stored) * np.dtype(self.dtype).itemsize

    def places(self, rows: np.ndarray) -> Iterator[tuple[int, int]]:
        """Start and length in bytes of the memory of these rows (sorted, at least one),
        neighbouring rows together."""
        blocks = 1 if self.block is None else self.stored[0]
        width = self.bytes // (blocks * max(self.shape[0], 1))
        parts = np.split(rows, np.flatnonzero(np.diff(rows) != 1) + 1)
        for first in range(0, blocks * self.shape[0], self.shape[0]):
            yield from (((first + int(part[0])) * width, len(part) * width) for part in parts)


class Arena:
    """Arrays by name, private to this process; untouched pages take no memory."""

    def __init__(self, specs: dict[str, ArraySpec]) -> None:
        self.specs = specs
        self.arrays = {name: self._make(name, spec) for name, spec in specs.items()}

    @within_memory()
    def _make(self, name: str, spec: ArraySpec) -> np.ndarray:
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0)
        return np.frombuffer(
            mmap.mmap(-1, max(spec.bytes, 1), flags=flags), spec.dtype, math.prod(spec.stored)
        ).reshape(spec.stored)

    def __getitem__(self, name: str) -> np.ndarray:
        """The array as it is stored."""
        return self.arrays[name]

    def rows(self, name: str, at: np.ndarray) -> np.ndarray:
        """Copies of rows of an array [k, ...], however it is stored."""
        spec, array = self.specs[name], self.arrays[name]
        if spec.block is None:
            return array[at]
        found, at = np.empty((len(at), spec.shape[1]), spec.dtype), _together(at)
        for part, blocks, columns in _in_blocks(found, spec.block):
            part[:] = array[blocks, at, columns]
        return found

    def write(self, name: str, at: np.ndarray, values: np.ndarray) -> None:
        """Write rows [k, ...] of an array, however it is stored."""
        spec, array = self.specs[name], self.arrays[name]
        if spec.block is None:
            array[at] = values
            return
        at = _together(at)
        for part, blocks, columns in _in_blocks(values, spec.block):
            array[blocks, at, columns] = part

    def whole(self, name: str) -> np.ndarray:
        """All rows of an array: itself, or a copy where it is stored in blocks."""
        spec = self.specs[name]
        return (
            self.arrays[name] if spec.block is None else self.rows(name, np.arange(spec.shape[0]))
        )

    def at(self, name: str, rows: Rows) -> Rows:
        """Where rows lie in an array as it is stored."""
        return (
            rows
            if isinstance(rows, tuple) or self.specs[name].block is None
            else (slice(None), rows, slice(None))
        )

    def __contains__(self, name: str) -> bool:
        return name in self.specs

    def named(self, prefix: str) -> dict[str, np.ndarray]:
        """Arrays whose name starts with `prefix`, by the rest of their name."""
        return {
            name.removeprefix(prefix): self.arrays[name]
            for name in self.specs
            if name.startswith(prefix)
        }

    def reserve(self, names: Iterable[str], rows: np.ndarray) -> None:
        """Make sure that these rows (sorted, at least one) can be written."""

    def take(self, rows: dict[str, Rows]) -> dict[str, np.ndarray]:
        """Copies of rows of arrays, to send to a worker that does not map this arena."""
        return {name: np.array(self.arrays[name][self.at(name, at)]) for name, at in rows.items()}

    def put(self, rows: dict[str, Rows], values: dict[str, np.ndarray]) -> None:
        """Write what `take` gave there."""
        for name, at in rows.items():
            self.arrays[name][self.at(name, at)] = values[name]

    def close(self) -> None:
        self.arrays = {}


class SharedArena(Arena):
    """Arrays in files in shared memory. The process that makes it removes it; others attach by
    `folder`.

    Raises MemoryError with the sizes when shared memory is too small.
    """

    def __init__(self, specs: dict[str, ArraySpec], folder: Path | None = None) -> None:
        self.owner = folder is None
        if folder is None:
            remove_abandoned()
            self.own = own_folders.OwnFolder(SHARED_MEMORY, PREFIX)
            folder = self.own.path
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
        return np.frombuffer(memory, spec.dtype, math.prod(spec.stored)).reshape(spec.stored)

    def _allocate(self, descriptor: int, start: int, length: int, name: str) -> None:
        if not length:
            return
        # Writing to a page that shared memory cannot back would kill the process; allocating says
        # so instead
        try:
            os.posix_fallocate(descriptor, start, length)
        except OSError as error:
            free = shutil.disk_usage(self.folder).free
            sizes = f"{name} needs {length / 1e6:.0f} MB, {free / 1e6:.0f} MB are free"
            raise MemoryError(
                f"shared memory is full: {sizes}; use engine=inprocess or a smaller model"
            ) from error

    def reserve(self, names: Iterable[str], rows: np.ndarray) -> None:
        for name in names:
            with open(self._path(name), "r+b") as file:
                for start, length in self.specs[name].places(rows):
                    self._allocate(file.fileno(), start, length, name)

    def close(self) -> None:
        super().close()
        if self.owner:
            self.own.remove()


def _together(at: np.ndarray) -> slice | np.ndarray:
    """Rows that follow one another as a slice, for which indexing copies nothing."""
    return slice(int(at[0]), int(at[0]) + len(at)) if len(at) and (np.diff(at) == 1).all() else at


def _in_blocks(values: np.ndarray, block: int) -> Iterator[tuple[np.ndarray, slice, slice]]:
    """Views of values [k, P] by blocks of columns [blocks, k, columns], with which blocks and
    columns of each these are: all whole blocks, and one that is not."""
    count, rest = divmod(values.shape[1], block)
    whole = count * block
    if count:
        yield (
            values[:, :whole].reshape(len(values), count, block).swapaxes(0, 1),
            slice(0, count),
            slice(0, block),
        )
    if rest:
        yield values[None, :, whole:], slice(count, count + 1), slice(0, rest)


def remove_abandoned() -> None:
    """Remove what runs of this user's left that were killed: arenas, and temporary folders of
    Ray."""
    own_folders.remove_abandoned(SHARED_MEMORY, PREFIX)
    for place in own_folders.temporary_places():
        own_folders.remove_abandoned(place, own_folders.TEMPORARY_PREFIX)
