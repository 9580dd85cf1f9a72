"""Where the state that clients keep between rounds lies: rows of arrays that only those who have
taken part own.

A round reads a client's state from one row and writes the next to another; the two change places
when the round is over. So a job that is run again reads what it read before, memory follows the
clients that have taken part, and nothing is copied.
"""

from __future__ import annotations

import heapq

import numpy as np

from fedsim.engine.arena import Arena


class FreeRows:
    """Rows by keeper (a client; on a walk a token). row: int64 [N], -1 for who has none yet; used:
    rows 0..used-1 have been handed out."""

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


class ClientState:
    """The kept state of all clients, in the arrays client/* of an arena."""

    def __init__(self, keepers: int, arena: Arena) -> None:
        self.rows, self.arena = FreeRows(keepers), arena
        self.names = [name for name in arena.specs if name.startswith("client/")]

    @property
    def length(self) -> int:
        """Numbers that one client keeps."""
        return sum(self.arena.specs[name].shape[-1] for name in self.names)

    @property
    def bytes(self) -> int:
        """Of all clients that keep state."""
        each = (self.arena.specs[name].shape[-1] * self.arena[name].itemsize for name in self.names)
        return len(self.rows.owners) * sum(each)

    def claim(self, count: int) -> np.ndarray:
        """Rows that a cohort's next state is written to [count]; zeros where no client keeps
        any."""
        if not self.names:
            return np.zeros(count, np.int64)
        before = self.rows.used
        claimed = self.rows.claim(count)
        if self.rows.used > before:
            self.arena.reserve(self.names, np.arange(before, self.rows.used))
        return claimed

    def commit(self, keepers: np.ndarray, rows: np.ndarray) -> None:
        """What was written to `rows` is the state of `keepers` from now on."""
        if self.names:
            self.rows.commit(keepers, rows)

    def release(self, rows: np.ndarray) -> None:
        """What was written to these rows is not used."""
        if self.names:
            self.rows.release(rows)

    def state(self) -> dict[str, np.ndarray]:
        """The owners' state by name, [owners, length]."""
        at = self.rows.row[self.rows.owners]
        return {name.removeprefix("client/"): self.arena[name][at] for name in self.names}

    def restore(self, owners: np.ndarray, state: dict[str, np.ndarray]) -> None:
        """Go on from what `state` gave."""
        rows = self.rows.restore(owners)
        if self.names and len(rows):
            self.arena.reserve(self.names, rows)
        for name, value in state.items():
            self.arena[f"client/{name}"][rows] = value
