"""Attacks by clients that know what the honest clients of the cohort send.

Sources: inner-product manipulation: Xie, Koyejo, Gupta, UAI 2019 (arXiv 1903.03936); A Little Is
Enough: Baruch, Baruch, Goldberg, NeurIPS 2019 (arXiv 1902.06156), section 3.

Symbols: D_i updates [P]; n clients in the cohort, of which m attack; mu and s mean and standard
deviation of the honest updates, coordinate by coordinate.

    inner product       -scale * mu
    little is enough    mu - z s,  z the largest with  Phi(z) < (n - m - k) / (n - m),
                        k = floor(n / 2 + 1) - m, at least 1

Departures: both know the honest updates themselves, where Baruch et al. estimate them from the
attackers' own clean ones; over a graph they know those of the whole cohort. A round without honest
clients is left as it is. z is not negative, and k at least 1 where attackers are the majority,
which the paper excludes.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from fedsim.attacks.base import Attack
from fedsim.component import Fraction, NonNegative, Positive, component


def _honest(updates: Tensor, hostile: np.ndarray) -> Tensor:
    return updates[torch.from_numpy(~hostile)]


def _alike(vector: Tensor, hostile: np.ndarray) -> Tensor:
    return vector.expand(int(hostile.sum()), -1)


@component
class InnerProduct(Attack):
    """All attackers send the honest mean with its sign turned (Xie et al. 2019).

    share: of the clients that attack; scale: epsilon; small ones pass for honest, large ones turn
    the mean around.
    """

    share: Fraction = 0.2
    scale: Positive = 0.5

    def forge(self, updates, hostile, seed, round):
        honest = _honest(updates, hostile)
        return _alike(-self.scale * honest.mean(dim=0), hostile) if len(honest) else updates


@component
class LittleIsEnough(Attack):
    """All attackers send the honest mean, moved in every coordinate by as many standard deviations
    as still pass for honest (Baruch et al. 2019).

    share: of the clients that attack; deviations: z (null: as the paper has it, from the numbers in
    the cohort).
    """

    share: Fraction = 0.2
    deviations: NonNegative | None = None

    def forge(self, updates, hostile, seed, round):
        honest = _honest(updates, hostile)
        if not len(honest):
            return updates
        z = (
            self.deviations
            if self.deviations is not None
            else largest_deviation(len(updates), int(hostile.sum()))
        )
        spread = honest.std(dim=0, correction=0)
        return _alike(honest.mean(dim=0) - z * spread, hostile)


def largest_deviation(n: int, m: int) -> float:
    """z of Baruch et al. for m attackers among n clients, at least one of them honest."""
    from scipy.stats import norm

    share = (n - m - max(1, n // 2 + 1 - m)) / (n - m)
    return max(0.0, float(norm.ppf(share))) if share > 0 else 0.0
