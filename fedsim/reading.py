"""Reading a file that somebody else has written: what it holds is bounded before memory is taken
for it."""

from __future__ import annotations

import bz2
import errno
import gzip
import io
import lzma
import math
import os
import stat
import zlib
from collections.abc import Iterator
from pathlib import Path

from fedsim.errors import ConfigError

UNREADABLE = (OSError, ValueError, EOFError, zlib.error, lzma.LZMAError)
VARIABLE = "FEDSIM_MAX_FILE_GB"
# Shares of the free memory that a file may fill
ARRAYS = 0.5  # arrays are held twice while they are made
TABLE = 0.125  # text that becomes numbers, which take a few times its size
OBJECTS = 1 / 64  # text of which every few bytes become an object of Python
_XZ_MEMORY = 1 << 28  # bytes; the strongest preset needs 65 MiB, a header can ask for 4 GiB
_PIECE = 1 << 20
_Decompressor = bz2.BZ2Decompressor | lzma.LZMADecompressor
_GB = 10**9
READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK  # a pipe is not waited for


class TooLargeError(OSError):
    """A file that holds, or says that it holds, more than is read."""

    def __init__(self, size: int, bound: int) -> None:
        allowed = math.ceil(size / _GB)
        raising = f"the environment variable {VARIABLE}={allowed} allows it"
        text = f"it stands for {_shown(size)}, and at most {_shown(bound)} are read here; {raising}"
        super().__init__(errno.EFBIG, text)


def bound_of(share: float) -> int:
    """How many bytes may be read into this share of the memory that is free now;
    FEDSIM_MAX_FILE_GB raises it."""
    import psutil

    return raised(int(psutil.virtual_memory().available * share))


def raised(bound: int) -> int:
    """`bound` in bytes, or what FEDSIM_MAX_FILE_GB says where that is more. Raises ConfigError if
    that is no number above 0."""
    text = os.environ.get(VARIABLE, "")
    if not text.strip():
        return bound
    try:
        gigabytes = float(text)
    except ValueError:
        gigabytes = math.nan
    if not 0 < gigabytes < math.inf:
        raise ConfigError(VARIABLE, text, "accepted is a number of gigabytes above 0")
    return max(bound, int(gigabytes * _GB))


def check_size(size: int, bound: int) -> None:
    """Raise TooLargeError, an OSError, unless `size` bytes are within the bound."""
    if size > bound:
        raise TooLargeError(size, bound)


def read_file(path: Path | str, bound: int | None = None) -> bytes:
    """The contents of a regular file of at most `bound` bytes (None: half of the free memory).
    Raises OSError, also for pipes and devices, which may never end, and ValueError for a path
    that is none."""
    check_regular(os.stat(path), path)  # first, as opening a device can do something
    return read_open(os.open(path, READ), path, bound)


def read_open(handle: int, path: Path | str, bound: int | None = None) -> bytes:
    """The contents of the file behind a descriptor, which is closed. Raises OSError as
    `read_file` does."""
    with open(handle, "rb") as file:
        found = os.fstat(handle)
        check_regular(found, path)
        check_size(found.st_size, bound_of(ARRAYS) if bound is None else bound)
        return file.read(found.st_size)  # what is added meanwhile is left out


def check_regular(found: os.stat_result, path: Path | str) -> None:
    """Raise OSError unless this is the state of a regular file."""
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, "Is a directory", str(path))
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "Not a regular file", str(path))


def read_unpacked(path: Path | str, share: float = ARRAYS) -> bytes:
    """The contents of a regular file, decompressed if it is gzip, bzip2 or xz (told by its first
    bytes), if they fit into this share of the free memory. Raises one of UNREADABLE."""
    bound = bound_of(share)
    raw = read_file(path, bound)
    unpack = next((unpack for magic, unpack in _PACKED.items() if raw.startswith(magic)), None)
    return raw if unpack is None else _joined(unpack(raw), bound)


def _joined(pieces: Iterator[bytes], bound: int) -> bytes:
    """The pieces as one; a file says nothing that can be trusted of how many there are."""
    kept, size = [], 0
    for piece in pieces:
        size += len(piece)
        check_size(size, bound)
        kept.append(piece)
    return b"".join(kept)


def _gzip(raw: bytes) -> Iterator[bytes]:
    with gzip.GzipFile(fileobj=io.BytesIO(raw)) as file:
        yield from iter(lambda: file.read(_PIECE), b"")


def _bzip2(raw: bytes) -> Iterator[bytes]:
    while raw.startswith(_BZIP2):  # there may be several streams, and zeros behind the last
        decompressor = bz2.BZ2Decompressor()
        yield from _pieces(decompressor, raw)
        raw = decompressor.unused_data


def _xz(raw: bytes) -> Iterator[bytes]:
    while raw.startswith(_XZ):
        decompressor = lzma.LZMADecompressor(memlimit=_XZ_MEMORY)
        yield from _pieces(decompressor, raw)
        raw = decompressor.unused_data.lstrip(b"\0")  # padding between streams


def _pieces(decompressor: _Decompressor, raw: bytes) -> Iterator[bytes]:
    """What one stream holds. Raises EOFError where it is cut off."""
    yield decompressor.decompress(raw, _PIECE)
    while not decompressor.eof:
        if decompressor.needs_input:
            raise EOFError("it ends before the end of what is compressed")
        yield decompressor.decompress(b"", _PIECE)


_GZIP, _BZIP2, _XZ = b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00"
_PACKED = {_GZIP: _gzip, _BZIP2: _bzip2, _XZ: _xz}


def _shown(size: int) -> str:
    """1.5 GB, 20 MB, 3 kB."""
    for unit, name in ((_GB, "GB"), (10**6, "MB"), (1000, "kB")):
        if size >= unit:
            return f"{size / unit:.3g} {name}"
    return f"{size} bytes"
