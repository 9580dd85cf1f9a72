"""Where the state that clients keep between rounds lies: rows of arrays that only those who have taken part own.

A round reads a client's state from one row and writes the next to another; the two change places when the round is over. So a job that is
run again reads what it read before, memory follows the clients that have taken part, and nothing is copied.
"""

from __future__ import annotations

import heapq

import numpy as np


class KeptRows:
    """Rows by keeper (a client; on a walk a token). row: int64 [N], -1 for who has none yet; used: rows 0..used-1 have been handed out."""

    def __init__(self, keepers: int) -> None:
        self.row = np.full(keepers, -1, np.int64)
        self.free: list[int] = []  # a heap: the lowest rows are used again first
        self.used = 0

    def claim(self, count: int) -> np.ndarray:
        """Rows to write to [count], none of which holds a state in use."""
        claimed = [heapq.heappop(self.free) for _ in range(min(count, len(self.free)))]
        fresh = count - len(claimed)
        claimed += range(self.used, self.used + fresh)
        self.used += fresh
        return np.array(claimed, np.int64)

    def commit(self, keepers: np.ndarray, rows: np.ndarray) -> None:
        """`rows` hold the state of `keepers` from now on."""
        self.release(self.row[keepers])
        self.row[keepers] = rows

    def release(self, rows: np.ndarray) -> None:
        """These rows are free again; -1 stands for none."""
        for row in rows[rows >= 0].tolist():
            heapq.heappush(self.free, row)

    @property
    def owners(self) -> np.ndarray:
        """Who keeps state, ascending."""
        return np.flatnonzero(self.row >= 0)

    def restore(self, owners: np.ndarray) -> np.ndarray:
        """Start over with these owners; their rows."""
        self.__init__(len(self.row))  # type: ignore[misc]
        rows = self.claim(len(owners))
        self.row[owners] = rows
        return rows
