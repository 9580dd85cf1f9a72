"""The processes of workers: those on this machine can be ended for certain, and what its kernel
does is known."""

from __future__ import annotations

import contextlib
import os
import select
import signal
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

END_MILLISECONDS = 10_000  # until a killed process is gone


@dataclass(frozen=True)
class Greeting:
    """What a worker says when it is ready. shares_memory: whether it maps the driver's arena; node:
    its node's id in Ray; pid: of its process, in that namespace of processes."""

    shares_memory: bool
    node: str
    pid: int
    namespace: int | None


@dataclass
class Hosted:
    """A worker as the driver knows it. process: a descriptor of its process, if that runs here
    (numbers of processes are used again); line: to it, if it shares the driver's memory; serving:
    the reference to the end of its work there."""

    number: int
    actor: Any
    shares_memory: bool = False
    node: str = ""
    process: int | None = None
    line: Connection | None = None
    serving: Any = None

    def greet(self, greeting: Greeting) -> None:
        self.shares_memory, self.node = greeting.shares_memory, greeting.node
        if (
            self.shares_memory
            and greeting.namespace is not None
            and greeting.namespace == process_namespace()
        ):
            with contextlib.suppress(OSError):  # already dead, which its first call will tell
                self.process = os.pidfd_open(greeting.pid)

    def end(self) -> None:
        """Kill the process and wait until it is gone: it must not write to shared memory any
        more."""
        if self.process is not None:
            with contextlib.suppress(OSError):
                signal.pidfd_send_signal(self.process, signal.SIGKILL)
            gone = select.poll()
            gone.register(self.process, select.POLLIN)
            gone.poll(END_MILLISECONDS)
        self.release()

    def release(self) -> None:
        if self.line is not None:
            self.line.close()
        if self.process is not None:
            os.close(self.process)
            self.process = None


def process_namespace() -> int | None:
    """What tells machines and containers apart: in another one the same number is that of another
    process. None where that is not known."""
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return None


def killed_for_memory() -> int:
    """How many processes the kernel of this machine has killed for want of memory; 0 where it does
    not tell."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/vmstat").read_text().splitlines():
            name, _, value = line.partition(" ")
            if name == "oom_kill":
                return int(value)
    return 0
