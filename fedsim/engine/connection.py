"""A line between the driver and a worker on its machine: jobs and answers go through a socket,
which takes a fraction of what a call of Ray does, and breaks at once when the worker ends."""

from __future__ import annotations

import socket
import struct
from multiprocessing.connection import Connection, Listener
from pathlib import Path

LONGEST = 10**6  # seconds, since some calls of the system take no more


def listener(path: Path) -> Listener:
    """The worker's end before it is called. Who listened there before is gone."""
    path.unlink(missing_ok=True)
    return Listener(str(path), "AF_UNIX")


def answered(listening: Listener) -> Connection:
    """The line to the driver that has called, the only one."""
    with listening:
        return listening.accept()


def dial(path: Path, patience: float | None) -> Connection:
    """The driver's end. patience: seconds after which an end that takes or gives nothing in the
    middle of a message raises BlockingIOError, None for ever. Raises OSError where nobody listens.
    """
    with socket.socket(socket.AF_UNIX) as line:
        line.connect(str(path))
        if patience is not None:
            seconds, rest = divmod(min(patience, LONGEST), 1)
            # Zero would be for ever
            limit = struct.pack("ll", int(seconds), max(1, int(rest * 1e6)))
            line.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
            line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
        return Connection(line.detach())
