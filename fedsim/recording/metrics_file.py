"""metrics.jsonl: a file that grows by whole lines. What a full disk refuses waits in memory and is
written when space returns."""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
from pathlib import Path

from fedsim.recording.files import why, write_inside
from fedsim.recording.no_links import Folder


class RowFile:
    """The open file. length: bytes written; sha256: of them; waiting: lines that are not yet on the
    disk."""

    def __init__(self, path: Path, kept: bytes = b"") -> None:
        """kept: what the file begins with and goes on after; the rest is cut. Raises OSError.

        The file is a new one, which takes the place of what was there: that may have other names,
        outside of the run folder.
        """
        self.path, self.length, self.sha256 = path, len(kept), hashlib.sha256(kept)
        self.waiting: list[bytes] = []
        self.told = False
        with Folder(path.parent) as folder:
            self.file = open(write_inside(folder, path.name, kept), "r+b", buffering=0)

    def append(self, lines: bytes) -> None:
        """Write lines, now or later."""
        self.waiting.append(lines)
        try:
            self.flush()
        except OSError as error:
            if not self.told:
                self.told = True
                _say(
                    f"{self.path} cannot be written ({why(error)}): its rows stay in memory and are"
                    " written when there is space again"
                )

    def flush(self) -> None:
        """Write what waits. Raises OSError; the file then holds whole lines as before."""
        while self.waiting:
            lines = self.waiting[0]
            try:
                self.file.seek(self.length)
                written = 0
                while written < len(lines):
                    written += self.file.write(lines[written:])
            except OSError:
                with contextlib.suppress(OSError):
                    self.file.truncate(self.length)
                raise
            self.waiting.pop(0)
            self.length += len(lines)
            self.sha256.update(lines)
        if self.told:
            self.told = False
            _say(f"{self.path} is written again, with all its rows")

    def sync(self) -> None:
        """Write what waits, and have it on the disk. Raises OSError."""
        self.flush()
        os.fsync(self.file.fileno())

    def close(self) -> None:
        """Write what waits, and close. Raises OSError."""
        try:
            self.flush()
        finally:
            self.file.close()


def _say(line: str) -> None:
    print(f"fedsim: {line}", file=sys.stderr, flush=True)
