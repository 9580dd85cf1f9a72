"""Patterns in which clients switch on and off: the active set is kept up to date by events, so a
round costs its toggles."""

from __future__ import annotations

import numpy as np

from fedsim.participation.base import Pattern, Population

NEVER = np.iinfo(np.int64).max
_WINDOW = 256  # rounds; events further off wait in `until`, which is looked through once a window


class Toggling(Pattern):
    """A pattern given by the holding times of its two states.

    on: bool [N], the state before round 0; until: int64 [N], the round in which a client toggles
    next (NEVER: not at all). A subclass says how long a state lasts that is entered in a round.
    """

    def __init__(
        self,
        population: Population,
        seed: int,
        probabilities: np.ndarray,
        on: np.ndarray,
        until: np.ndarray,
    ) -> None:
        super().__init__(population, seed, probabilities)
        self._enter(on, until)

    def holding(self, round: int, clients: np.ndarray, on: np.ndarray) -> np.ndarray:
        """Rounds for which `clients` [n] keep the states `on` [n] they enter in `round`: int64 [n],
        at least 1."""
        raise NotImplementedError("a toggling pattern says how long a state is held")

    def draw(self, round: int) -> np.ndarray:
        for now in range(self.last + 1, round + 1):
            if now == self.window + _WINDOW:
                self._open_window(now)
            toggled = self.calendar[now - self.window]
            if toggled:
                self._toggle(now, np.concatenate(toggled))
        return self.active.copy()

    def state(self) -> dict[str, np.ndarray]:
        return {**super().state(), "on": self.on.copy(), "until": self.until.copy()}

    def restore(self, state: dict[str, np.ndarray]) -> None:
        if state["on"].shape != self.on.shape or state["until"].shape != self.until.shape:
            raise ValueError(
                f"state of {len(state['on'])} clients given to a pattern of {len(self.on)}"
            )
        super().restore(state)
        self._enter(state["on"], state["until"])

    def _enter(self, on: np.ndarray, until: np.ndarray) -> None:
        self.on, self.until = on.astype(bool), until.astype(np.int64)
        self.active = np.flatnonzero(self.on)
        self._open_window(self.last + 1)

    def _open_window(self, start: int) -> None:
        self.window = start
        # Entry k: the clients that toggle in round start + k
        self.calendar: list[list[np.ndarray]] = [[] for _ in range(_WINDOW)]
        self._schedule(np.flatnonzero(self.until < start + _WINDOW))

    def _schedule(self, clients: np.ndarray) -> None:
        clients = clients[self.until[clients] < self.window + _WINDOW]
        if len(clients) == 0:
            return
        clients = clients[np.argsort(self.until[clients], kind="stable")]
        times = self.until[clients]
        for group in np.split(clients, np.flatnonzero(np.diff(times)) + 1):
            self.calendar[self.until[group[0]] - self.window].append(group)

    def _toggle(self, now: int, clients: np.ndarray) -> None:
        self.on[clients] ^= True
        on = self.on[clients]
        rounds = self.holding(now, clients, on)
        self.until[clients] = now + np.minimum(rounds, NEVER - now)
        self.active = np.sort(np.concatenate([self.active[self.on[self.active]], clients[on]]))
        self._schedule(clients)
