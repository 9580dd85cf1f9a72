"""Runs beside each other in processes of joblib's: one thread each, and an orderly end of all of
them.

The process that hands out runs is the leader. A signal to it (or Ctrl-C, which the system would
send to everyone) is passed on once; each worker's run writes its checkpoint and leaves, and what is
left in the queue is not begun. Workers whose leader is gone leave likewise.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from fedsim.simulation.interruption import Interrupted

LAST_WORDS = "the same command goes on with what is missing"
THREADS = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)
LOOK_SECONDS = 0.5  # how often a worker looks whether its leader is there


class Stop(BaseException):
    """The job in progress is to end."""


class _Worker:
    """What a worker process knows."""

    leader: int | None = None
    busy = False
    stopping = False


@contextlib.contextmanager
def leading(workers: bool = True) -> Iterator[None]:
    """For the time that many runs take: SIGINT and SIGTERM end all of them, not the one in progress
    alone. workers: some run in processes, which get one thread each.

    Leaves with Interrupted (a KeyboardInterrupt) after the workers have stopped; a second signal
    kills them.
    """
    received: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        received.append(number)
        again, children = len(received) > 1, multiprocessing.active_children()
        for worker in children:
            with contextlib.suppress(OSError):
                os.kill(int(worker.pid), signal.SIGKILL if again else signal.SIGTERM)
        if again or not children:
            raise Interrupted(number, line=f"interrupted; {LAST_WORDS}")
        print(
            "fedsim: stopping after the rounds in progress; the same signal again stops at once",
            file=sys.stderr,
            flush=True,
        )

    before = {name: os.environ.get(name) for name in (THREADS if workers else ())}
    os.environ.update(dict.fromkeys(before, "1"))
    signals = (
        (signal.SIGINT, signal.SIGTERM)
        if threading.current_thread() is threading.main_thread()
        else ()
    )
    handlers = {
        number: signal.signal(number, stop)
        for number in signals
        if signal.getsignal(number) not in (signal.SIG_IGN, None)
    }
    try:
        yield
    except Exception:
        if not received:  # of workers that were stopped before they could listen
            raise
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
        if received:
            end_workers(kill=len(received) > 1)
    if received:
        raise Interrupted(received[0], line=f"interrupted; {LAST_WORDS}")


def end_workers(kill: bool = False) -> None:
    """End the processes that joblib would keep for the next runs: they know the folder, and the
    signals, of those before."""
    if multiprocessing.active_children():
        from joblib.externals.loky import get_reusable_executor

        get_reusable_executor().shutdown(wait=True, kill_workers=kill)


def in_worker(job: Callable[[], Any]) -> Any:
    """Run `job` in a worker process; None if it was stopped, or not begun because the leader is
    stopping."""
    if _Worker.leader is None:
        _follow()
    if _Worker.stopping:
        return None
    _Worker.busy = True
    try:
        return job()
    except Exception:
        raise
    # Stopped by a signal; here or in the run, which has written its checkpoint
    except BaseException:
        _Worker.stopping = True
        return None
    finally:
        _Worker.busy = False


def _follow() -> None:
    """Set up a worker process: out of reach of the terminal's Ctrl-C, and watching its leader."""
    # Now: joblib ends a worker that has grown since its first run, which may find all done before
    from fedsim import Simulation  # noqa: F401

    # It may be gone already, and the system's parent another
    parent = multiprocessing.parent_process()
    _Worker.leader = os.getppid() if parent is None else int(parent.pid)
    with contextlib.suppress(OSError):
        os.setpgid(0, 0)
    signal.signal(signal.SIGTERM, _stop_working)
    threading.Thread(target=_watch, args=(_Worker.leader,), daemon=True).start()


def _stop_working(number: int, frame: FrameType | None) -> None:
    _Worker.stopping = True
    if _Worker.busy:
        raise Stop


def _watch(leader: int) -> None:
    while os.getppid() == leader:
        time.sleep(LOOK_SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)
    while _Worker.busy:
        time.sleep(LOOK_SECONDS)
    # From here: the main thread may wait for ever for somebody to take its result
    os._exit(128 + signal.SIGTERM)
