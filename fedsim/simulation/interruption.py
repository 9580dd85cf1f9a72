"""SIGINT (Ctrl-C) and SIGTERM: a run ends after the round in progress, with a checkpoint; a second
signal ends it at once."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from contextvars import ContextVar
from types import FrameType
from typing import Any

PATIENCE = 1.0  # seconds until a user who waits for the end of the round is told so
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """A signal ended the run. str(): one line for the user; signal: its number; code: exit code of
    the process, 130 or 143; round: rounds done, None where it came in the middle of one."""

    def __init__(self, signal: int, round: int | None = None, line: str = "interrupted") -> None:
        super().__init__(line)
        self.signal, self.code, self.round = signal, 128 + signal, round


_LEADER: ContextVar[Interruption | None] = ContextVar("leader", default=None)


@contextlib.contextmanager
def led_by(leader: Interruption) -> Iterator[None]:
    """In this thread, the signals of runs are those of a leader in the main thread."""
    before = _LEADER.set(leader)
    try:
        yield
    finally:
        _LEADER.reset(before)


class Interruption:
    """Listens to signals in the main thread; elsewhere, and to signals that this process ignores,
    not at all. A context manager.

    patient: whether a signal waits for the end of the round; without that it raises Interrupted at
    once. received: the signal that waits, here or at the leader (see `led_by`).
    """

    def __init__(self) -> None:
        self.patient, self.number = False, 0
        self.leader = _LEADER.get()
        self._before: dict[int, Any] = {}
        self._notice: threading.Timer | None = None

    def listen(self) -> None:
        """Take the signals; again after somebody else (Ray, when it starts) has taken them."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number in _SIGNALS:
            present = signal.getsignal(number)
            if present not in (signal.SIG_IGN, None, self._handle):
                self._before[number] = present
                signal.signal(number, self._handle)

    @property
    def received(self) -> int:
        return self.number or (self.leader.received if self.leader is not None else 0)

    def check(self, round: int | None = None) -> None:
        """Raise Interrupted if a signal waits. round: rounds done."""
        if received := self.received:
            self.number = 0
            raise Interrupted(received, round)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.number or not self.patient:
            self.number = 0
            self._release()
            raise Interrupted(number)
        self.number = number
        self._notice = threading.Timer(PATIENCE, self._tell)
        self._notice.daemon = True
        self._notice.start()

    def _tell(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            print(
                "fedsim: stopping after this round; the same signal again stops at once",
                file=sys.stderr,
                flush=True,
            )

    def _release(self) -> None:
        if self._notice is not None:
            self._notice.cancel()
        while self._before:
            number, handler = self._before.popitem()
            signal.signal(number, handler)

    def __enter__(self) -> Interruption:
        self.listen()
        return self

    def __exit__(self, *exception: object) -> None:
        self._release()
        if self.number:  # it came when all was done: whoever would have had it gets it now
            signal.raise_signal(self.number)
