"""Which worker gets which jobs. Who runs a job changes no result, so this may go by the clock."""

from __future__ import annotations

from collections.abc import Sequence

# Share of a phase's work that is dealt out at once; the rest goes to whoever is free
AT_ONCE = 0.75
# seconds; a phase that took less the last time is dealt out whole, since a call costs up to a
# millisecond
SHORT = 0.03


def at_once(last: float | None) -> float:
    """The share of a phase's work to deal out at once. last: seconds that a phase of its kind took
    before, None for the first."""
    return 1.0 if last is not None and last < SHORT else AT_ONCE


def deal(
    costs: Sequence[float], workers: int, share: float = AT_ONCE
) -> tuple[list[list[int]], list[int]]:
    """Jobs for each worker at once, longest first and each to the least loaded, until this share of
    the work is dealt, and the rest."""
    order = sorted(range(len(costs)), key=lambda j: -costs[j])
    loads, dealt = [0.0] * workers, [[] for _ in range(workers)]
    limit, given = share * sum(costs), 0.0
    for place, j in enumerate(order):
        if place >= workers and (given >= limit or not workers):
            return dealt, order[place:]
        worker = loads.index(min(loads))
        dealt[worker].append(j)
        loads[worker] += costs[j]
        given += costs[j]
    return dealt, []
