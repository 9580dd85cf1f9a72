"""FedVarp: the round's updates, less what the same clients sent before, plus the mean of what all
sent before.

Source: Jhunjhunwala et al., "FedVARP: Tackling the Variance Due to Partial Client Participation in
Federated Learning", UAI 2022 (arXiv 2207.14130), as in the baselines of Wang & Ji, ICLR 2024
(official code).

    x <- x + eta * (sum_S (D_i - y_i) / |S| + y);
        then y_i <- D_i for i in S, and y the mean of all y_i

Symbols: D_i update [P]; y_i the update that client i sent last [P], zero before its first; y their
mean over all N clients with data; S the cohort. An empty round adds nothing.

The memory lies with the clients, as for MIFA (`fedsim.algorithms.mifa`), and for the same reason
this needs a server.
"""

from __future__ import annotations

import torch

from fedsim.algorithms.mifa import RemembersUpdates
from fedsim.component import component


@component
class FedVarp(RemembersUpdates):
    """Variance-reduced mean of the round's updates (Jhunjhunwala et al. 2022). rate: global
    learning rate eta."""

    def step(self, base, mixed, state, info):
        mean = state["mean_update"]
        following = torch.where(info.heard > 0, base + self.rate * (mixed + mean), base)
        return following, {"mean_update": mean + mixed * (info.heard / info.members)}
