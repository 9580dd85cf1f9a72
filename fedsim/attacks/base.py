"""Clients that attack: what stands for the messages they send, or the labels they train on."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from torch import Tensor

from fedsim import rng
from fedsim.algorithms.base import Place
from fedsim.component import Fraction, component


class Attack:
    """Attackers are a fixed share of the clients, chosen by the seed alone, so that every algorithm
    meets the same ones.

    forges: whether `forge` replaces updates, which a server then needs as rows; classifies: whether
    it needs labels that are classes.
    """

    forges: ClassVar[bool] = True
    classifies: ClassVar[bool] = False
    share: float

    def check(self, place: Place) -> None:
        """Raise ConfigError if the attack cannot be made at this place."""

    def attackers(self, seed: int, clients: int) -> np.ndarray:
        """Who attacks, bool [N]."""
        chosen = np.zeros(clients, bool)
        chosen[
            rng.generator(seed, "attackers").permutation(clients)[: round(self.share * clients)]
        ] = True
        return chosen

    def labels(self, y: np.ndarray, classes: int) -> np.ndarray | None:
        """The labels int64 [n] that attackers train on in place of y [n]; None: the true ones."""
        return None

    def forge(self, updates: Tensor, hostile: np.ndarray, seed: int, round: int) -> Tensor:
        """What the attackers of a cohort send [a, P] in place of their updates. updates: all [S,
        P], as they would be sent; hostile: who attacks, bool [S], at least one."""
        raise NotImplementedError("an attack forges updates")


@component
class NoAttack(Attack):
    """Nobody attacks."""

    forges: ClassVar[bool] = False

    share: Fraction = 0.0
