"""What can happen to workers: they are lost, they raise, they run out of memory. What is said of it
is here; what is done, in sessions."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from fedsim.errors import wants_memory

SMALLER = (
    "local.clients_per_batch (clients trained in one call) or local.batch_size, or take a smaller"
    " model"
)


@dataclass(frozen=True)
class LostWorker:
    """A worker that was killed, crashed or hung. worker: its number; where: the phase in which that
    was noticed; reason; outcome: what was done."""

    worker: int
    where: str
    reason: str
    outcome: str

    def __str__(self) -> str:
        return f"worker {self.worker} was lost {self.where} ({self.reason}); {self.outcome}"


class WorkersLost(Exception):
    """More workers were lost than are replaced; a run with checkpoints can be resumed from its last
    one."""


class RemoteTraceback(Exception):
    """Where a worker raised: the cause of the same error in the driver."""

    def __str__(self) -> str:
        return f"\n\nIn a worker:\n{self.args[0]}"


@dataclass(frozen=True)
class Failure:
    """An exception on its way from a worker to the driver. text: its traceback, which exceptions
    lose between processes."""

    error: Exception
    text: str

    @classmethod
    def of(cls, error: Exception, sent: Callable[[Exception], object]) -> Failure:
        """error: just caught; sent: sends an exception there and back, and raises for those that
        cannot be sent (open files, own constructors): they go as a RuntimeError with their name."""
        text = "".join(traceback.format_exception(error))
        try:
            sent(error)
        except Exception:
            error = RuntimeError(f"{type(error).__qualname__}: {error}")
        return cls(error, text)

    def throw(self) -> None:
        """Raise it here."""
        raise self.error from RemoteTraceback(self.text)


@contextlib.contextmanager
def memory_advice(settings: str) -> Iterator[None]:
    """Raise an allocation that failed again, with advice on what to lower. settings: names of
    settings."""
    try:
        yield
    except Exception as error:
        if not wants_memory(error):
            raise
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise MemoryError(f"out of memory ({lines[0]}); lower {settings}") from error
