"""Finding and reading data files. Every fault of a file is one ConfigError that names the setting
and the path."""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from fedsim.component import component
from fedsim.data.dataset import DataSource
from fedsim.errors import ConfigError, reason
from fedsim.reading import (
    ARRAYS,
    OBJECTS,
    UNREADABLE,
    TooLargeError,
    bound_of,
    check_size,
    read_unpacked,
)

ROOT_VARIABLE = "FEDSIM_DATA"
_DEFLATE = 1032  # no byte of a zip archive can stand for more


@component
class FileSource(DataSource):
    """Base of the data sets read from files.

    root: the folder that holds the data sets' folders, or the data set's own folder; None: the
    environment variable FEDSIM_DATA, and ~/.cache/fedsim where that is not set.
    """

    root: str | None = None

    def root_folder(self) -> Path:
        """The folder `root` stands for."""
        return Path(self.root or os.environ.get(ROOT_VARIABLE) or "~/.cache/fedsim").expanduser()


def file_error(path: Path, fault: str, key: str = "data.root") -> ConfigError:
    """The error for a file that cannot be used."""
    return ConfigError(key, str(path), f"{path.name} {fault}")


def absent(root: Path, name: str, folders: Iterable[str], note: str = "") -> ConfigError:
    """The error for a file that is nowhere below `root`; `note` is added at its end."""
    places = ", ".join(folder if folder != "." else "the folder itself" for folder in folders)
    accepted = (
        f"the folder that holds {name}, set by data.root or the environment variable"
        f" {ROOT_VARIABLE} (looked in {places})"
    )
    return ConfigError("data.root", str(root), accepted + note)


def find(root: Path, folders: Iterable[str], names: Iterable[str]) -> Path | None:
    """The first file of one of the `names` in one of the `folders` below `root` ("." is root
    itself), or None."""
    names = list(names)
    for folder in folders:
        for name in names:
            path = root / folder / name
            try:
                if path.is_file():
                    return path
            except OSError as error:
                raise file_error(path, f"cannot be looked up: {error.strerror}") from None
    return None


def need(root: Path, folders: Iterable[str], name: str) -> Path:
    """The path of `name` below `root`; raises ConfigError where it is not there."""
    folders = list(folders)
    path = find(root, folders, [name])
    if path is None:
        raise absent(root, name, folders)
    return path


def read_bytes(path: Path, key: str = "data.root", share: float = ARRAYS) -> bytes:
    """The contents of a file, decompressed if it is gzip, bzip2 or xz (told by its first bytes);
    share: see `read_unpacked`."""
    try:
        return read_unpacked(path, share)
    except FileNotFoundError:
        raise file_error(path, "does not exist; accepted is an existing file", key) from None
    except TooLargeError as error:
        raise file_error(path, f"is too large: {reason(error)}", key) from None
    except UNREADABLE as error:
        raise file_error(
            path, f"cannot be read, it may be truncated or damaged: {reason(error)}", key
        ) from None


def check_md5(content: bytes, expected: str | None) -> str | None:
    """What is wrong with `content` (uncompressed, since compressed copies differ in their headers),
    or None. No `expected`, no check."""
    found = hashlib.md5(content, usedforsecurity=False).hexdigest()
    return (
        f"has md5 {found} uncompressed, expected {expected}"
        if expected and found != expected
        else None
    )


def read_idx(content: bytes, path: Path, dimensions: int) -> np.ndarray:
    """An IDX file of bytes as uint8 [n, ...] of so many `dimensions`: magic number 0x0000080d,
    big-endian sizes, data (LeCun's format)."""
    start = 4 + 4 * dimensions
    magic = bytes((0, 0, 8, dimensions))
    if content[:4] != magic:
        raise file_error(
            path,
            f"starts with {content[:4].hex() or 'nothing'}, an IDX file of {dimensions} dimensions"
            f" with {magic.hex()}",
        )
    if len(content) < start:
        raise file_error(
            path, f"ends inside its header: {len(content)} bytes, expected at least {start}"
        )
    shape = [int(size) for size in np.frombuffer(content, ">u4", dimensions, 4)]
    total = math.prod(shape)  # Python integers: sizes in a damaged header do not overflow
    if not total or len(content) - start != total:
        raise file_error(
            path,
            f"holds {len(content) - start} values and its header promises"
            f" {' x '.join(map(str, shape))}",
        )
    # A view of bytes could not be written to
    return np.frombuffer(content, np.uint8, total, start).reshape(shape).copy()


def read_npz(path: Path, needed: Iterable[str], key: str = "data.root") -> dict[str, np.ndarray]:
    """All arrays of an .npz file (also .npz.xz), of which the `needed` must be there. Pickled
    objects are never loaded."""
    content, bound = read_bytes(path, key), bound_of(ARRAYS)
    if content[:2] != b"PK":
        raise file_error(path, "is not an .npz file; accepted is what numpy.savez writes", key)
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            most = _DEFLATE * len(content)
            # No array is longer than its member
            check_size(sum(each.file_size for each in archive.infolist()), bound)
            arrays = {
                each.filename.removesuffix(".npy"): _read_array(archive, each, most)
                for each in archive.infolist()
            }
    except TooLargeError as error:
        raise file_error(path, f"is too large: {reason(error)}", key) from None
    except Exception as error:  # a damaged archive can raise nearly anything
        if "allow_pickle" in str(error):
            fault = (
                "holds Python objects; accepted are arrays of numbers (an .npz file written by"
                " numpy.savez)"
            )
        else:
            fault = f"is not a readable .npz file, it may be truncated or damaged: {reason(error)}"
        raise file_error(path, fault, key) from None
    missing = [name for name in needed if name not in arrays]
    if missing:
        raise file_error(
            path,
            f"has no array {' nor '.join(missing)}; it holds {', '.join(arrays) or 'nothing'}",
            key,
        )
    return arrays


def _read_array(archive: zipfile.ZipFile, member: zipfile.ZipInfo, most: int) -> np.ndarray:
    """One array; most: bytes it can have. NumPy takes the memory that a header asks for before it
    reads, so sizes are compared first."""
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{member.filename} is compressed in a way that numpy.savez does not know")
    with archive.open(member) as file:
        readers = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }
        shape, _, kind = readers[np.lib.format.read_magic(file)](file)
    needed, held = math.prod(shape) * kind.itemsize, min(member.file_size, most)
    if needed > held:
        raise ValueError(f"{member.filename} holds {held} bytes and its header promises {needed}")
    with archive.open(member) as file:
        return np.lib.format.read_array(file, allow_pickle=False)


def read_json(path: Path) -> Any:
    """A JSON file, compressed or not."""
    try:
        return json.loads(read_bytes(path, share=OBJECTS))
    except (ValueError, RecursionError) as error:  # also bad UTF-8
        raise file_error(path, f"is not readable JSON: {reason(error)}") from None
