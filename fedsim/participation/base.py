"""The two halves of participation: settings (Participation) and, once bound to a population and a
seed, the cohorts (Pattern)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from fedsim.errors import require


@dataclass(frozen=True)
class Population:
    """The clients a pattern draws from.

    size: N; eligible: bool [N], the clients that hold data (the others never take part);
    label_distribution: float64 [N, classes], the share of each class in a client's shard, or None
    (regression). Raises ConfigError where nobody is eligible.
    """

    size: int
    eligible: np.ndarray
    label_distribution: np.ndarray | None = None

    def __post_init__(self) -> None:
        if self.eligible.shape != (self.size,) or self.eligible.dtype != bool:
            raise ValueError(
                f"eligible must be bool [{self.size}], not {self.eligible.dtype}"
                f" {list(self.eligible.shape)}"
            )
        require(
            bool(self.eligible.any()),
            "partition.clients",
            self.size,
            "at least one client that holds data",
        )


class Pattern:
    """The cohorts of one run.

    probabilities: float64 [N], the true long-run share of rounds in which a client takes part; 0
    for clients that are not eligible. sampling: how cohorts are drawn, for those who account for
    it: everyone; fixed_size (every subset of one size equally likely); independent (of each other
    and of the past, each with its probability); other. A subclass draws; what must outlive a
    checkpoint besides the round it adds to `state` and `restore`.
    """

    sampling: ClassVar[Literal["everyone", "fixed_size", "independent", "other"]] = "other"

    def __init__(
        self, population: Population, seed: int, probabilities: np.ndarray | float
    ) -> None:
        self.probabilities = np.where(population.eligible, probabilities, 0.0)
        self.seed = seed
        self.last = -1  # the round asked last

    def cohort(self, round: int) -> np.ndarray:
        """Ids of the clients that take part in `round`: int64 [S], sorted, possibly empty. Rounds
        are asked in increasing order (gaps are allowed); ValueError otherwise."""
        if round <= self.last:
            raise ValueError(
                f"cohort of round {round} asked after that of round {self.last}: rounds are asked"
                " in increasing order"
            )
        members = self.draw(round)
        self.last = round
        return members

    def draw(self, round: int) -> np.ndarray:
        """The cohort of `round`; `self.last` still names the round drawn before."""
        raise NotImplementedError("a pattern draws cohorts")

    def state(self) -> dict[str, np.ndarray]:
        """What a pattern bound afresh with the same settings needs to go on with the same
        cohorts."""
        return {"round": np.array(self.last, dtype=np.int64)}

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Go on after the round at which `state()` was taken."""
        self.last = int(state["round"])


class Participation:
    """Settings of a participation pattern."""

    def bind(self, population: Population, seed: int) -> Pattern:
        """The pattern of one run. Its draws depend on (seed, "participation", round, client) alone,
        so every algorithm sees the same cohorts. Raises ConfigError where the settings do not fit
        the population."""
        raise NotImplementedError("a participation pattern binds to a population")
