"""Reading a file that somebody else has written."""

from __future__ import annotations

import bz2
import errno
import gzip
import lzma
import stat
import zlib
from pathlib import Path

UNREADABLE = (OSError, ValueError, EOFError, zlib.error, lzma.LZMAError)
_XZ_MEMORY = 1 << 28  # bytes; the strongest preset of xz needs 65 MiB, and a header can ask for 4 GiB


def read_file(path: Path | str) -> bytes:
    """The contents of a regular file. Raises OSError, also for pipes and devices, which may never end, and ValueError for a path that is
    none."""
    path = Path(path)
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode):
        code = errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL
        raise OSError(code, "Is a directory" if code == errno.EISDIR else "Not a regular file", str(path))
    return path.read_bytes()


def read_unpacked(path: Path | str) -> bytes:
    """The contents of a regular file, decompressed if it is gzip, bzip2 or xz (told by its first bytes). Raises one of UNREADABLE."""
    raw = read_file(path)
    if raw[:2] == b"\x1f\x8b":
        return gzip.decompress(raw)
    if raw[:3] == b"BZh":
        return bz2.decompress(raw)
    return lzma.decompress(raw, memlimit=_XZ_MEMORY) if raw[:6] == b"\xfd7zXZ\x00" else raw
