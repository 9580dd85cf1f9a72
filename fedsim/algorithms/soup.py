"""Greedy soup: clients' models are averaged one after the other, best first, while the mean gets
better on held-out examples.

Source: Wortsman et al., "Model soups", ICML 2022 (arXiv 2203.05482), recipe 1. The uniform soup is
the plain mean, average_participating.

Symbols: x the server's model, D_i updates [P] of the H clients heard.

    candidates x + D_i sorted by validation accuracy;  soup = {best}
    for each next one:  it joins if the mean of soup and candidate has an accuracy at least as
                        high (strict=false: the paper's text) or higher (strict=true: the
                        authors' code) than the soup's
    x <- x + mean of D_i over the soup

Departures: ties in the ranking go to the lower loss, then to the order of the cohort. Needs
data.validation above 0; at a server only.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch

from fedsim.algorithms.base import Aggregator
from fedsim.component import component
from fedsim.errors import require


@component
class GreedySoup(Aggregator):
    """Greedy soup of the cohort's models (Wortsman et al. 2022).

    strict: whether a candidate must improve the soup to join.
    """

    rows: ClassVar[bool] = True
    judges: ClassVar[bool] = True
    classifies: ClassVar[bool] = True

    strict: bool = True

    def check(self, place):
        require(
            place == "server",
            "aggregator",
            "GreedySoup",
            "judges models at a server only; use protocol=server",
        )

    def merge(self, updates, weights, info):
        losses, accuracies = info.evaluate(updates)
        order = np.lexsort((losses, -accuracies)).tolist()
        soup, best = [order[0]], accuracies[order[0]]
        for candidate in order[1:]:
            tried = [*soup, candidate]
            accuracy = info.evaluate(updates[tried].mean(dim=0, keepdim=True))[1][0]
            if accuracy > best or (accuracy == best and not self.strict):
                soup, best = tried, accuracy
        return torch.mean(updates[soup], dim=0)
