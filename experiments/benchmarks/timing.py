"""Seconds per round of simulations that run in this process, and the memory it takes."""

from __future__ import annotations

import statistics
import time
from pathlib import Path

from fedsim.recording.loggers import Logger


class RoundClock(Logger):
    """Seconds of every round, from the end of one to the end of the next, evaluation aside, and of
    every evaluation."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.evaluations: list[float] = []
        self.round, self.since = -1, 0.0

    def rows(self, rows) -> None:
        now, number = time.perf_counter(), rows[0]["round"]
        if number > self.round:
            if self.round >= 0:
                self.seconds.append(now - self.since)
            self.round = number
        else:
            self.evaluations.append(now - self.since)
        self.since = time.perf_counter()

    @property
    def median(self) -> float:
        """Of all rounds but the first."""
        return statistics.median(self.seconds[1:])

    @property
    def mean(self) -> float:
        """Of all rounds but the first."""
        return statistics.fmean(self.seconds[1:])


def megabytes() -> float:
    """Resident memory of this process, shared pages counted once."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1000
