"""Variance-corrected averaging: mixing models shrinks the spread of each layer's weights; the
correction restores it.

Source: Tian, Al-Ars, Kitsak, Hofstee, "Vanishing Variance Problem in Fully Decentralized
Neural-Network Systems", 2024 (arXiv 2404.04616), Algorithm 3, and the first author's simulators for
what the paper leaves open.

For each corrected layer l with entries v of the mixed model A, mean m and population variance
Var(A):

    target = mean over the models received of Var(M_j[l])
        ("others"; the receiver's own model is not counted)
    A[l] <- m + (A[l] - m) * sqrt(target / Var(A[l]))
        the mean is kept, the spread restored

The correction works with any mixing; `mixing=own_share` with share beta is the paper's averaging.
It only matters where nodes start from different initialisations.

Departures: corrected are tensors of two or more dimensions (the authors' versions differ on
biases); population variance and no epsilon (an epsilon of 1e-4, as in one port, is large next to
real layer variances); `self` and `blend` use the receiver's variance before mixing (as published
they read the already mixed model); a layer without spread, or with nobody else heard, is left
alone. At a server the received models are the cohort's.
"""

from __future__ import annotations

from typing import Literal

import torch

from fedsim.algorithms.base import Correction
from fedsim.component import Probability, component


@component
class VarianceCorrection(Correction):
    """Restores each layer's variance after mixing (Tian et al. 2024).

    target: variance of the others' models, of the receiver's own (self), or share * own + (1 -
    share) * others (blend); tensors: which tensors are corrected, those of two or more dimensions
    (weights) or all.
    """

    target: Literal["others", "self", "blend"] = "others"
    share: Probability = 0.5
    tensors: Literal["weights", "all"] = "weights"

    def statistics(self, models, layout):
        layers = layout.layers(models, self.tensors == "weights")
        return torch.stack([layer.var(dim=-1, correction=0) for layer in layers], dim=-1)

    def apply(self, model, own, others, layout):
        share = {"others": 0.0, "self": 1.0, "blend": self.share}[self.target]
        target = share * own + (1 - share) * others
        corrected = model.clone()
        for position, layer in enumerate(layout.layers(corrected, self.tensors == "weights")):
            variance, mean = torch.var_mean(layer, dim=-1, correction=0, keepdim=True)
            wanted = target[..., position, None]
            scale = torch.where((variance > 0) & (wanted > 0), (wanted / variance).sqrt(), 1.0)
            layer.sub_(mean).mul_(scale).add_(mean)
        return corrected
