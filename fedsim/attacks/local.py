"""Attacks that need nothing but the attacker's own update or labels.

Sources: flipping of labels and signs is folklore; Gaussian updates: Blanchard et al., NeurIPS 2017,
section 5.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch

from fedsim import rng
from fedsim.attacks.base import Attack
from fedsim.component import Fraction, Positive, component


@component
class SignFlip(Attack):
    """Sends the own update with its sign turned, `scale` times as long.

    share: of the clients that attack.
    """

    share: Fraction = 0.2
    scale: Positive = 1.0

    def forge(self, updates, hostile, seed, round):
        return -self.scale * updates[torch.from_numpy(hostile)]


@component
class GaussianNoise(Attack):
    """Sends Gaussian noise of standard deviation `std` (in units of the parameters) in place of the
    update, drawn afresh by every attacker in every round.

    share: of the clients that attack.
    """

    share: Fraction = 0.2
    std: Positive = 0.1

    def forge(self, updates, hostile, seed, round):
        at = np.flatnonzero(hostile).tolist()
        draws = [
            rng.generator(seed, "attack", round, position).standard_normal(updates.shape[1])
            for position in at
        ]
        return torch.from_numpy(self.std * np.stack(draws)).to(updates)


@component
class LabelFlip(Attack):
    """Trains on labels turned around, y -> classes - 1 - y, and sends what comes of it; what is
    measured keeps the true labels.

    share: of the clients that attack.
    """

    forges: ClassVar[bool] = False
    classifies: ClassVar[bool] = True

    share: Fraction = 0.2

    def labels(self, y, classes):
        return classes - 1 - y
