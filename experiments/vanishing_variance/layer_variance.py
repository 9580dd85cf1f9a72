"""Variance of each layer's weights: `metrics=[layer_variance]`, from the repository's root."""

from __future__ import annotations

import numpy as np
import torch

from fedsim.component import component
from fedsim.evaluation import Look, Metric


@component
class LayerVariance(Metric):
    """Population variance of the entries of each weight tensor (two or more dimensions), the first
    layer's as variance_0: mean over the receivers' models, and that of their mean model
    (mean_model_variance_0)."""

    def measure(self, look: Look) -> dict[str, float]:
        layers = look.task.layout.layers(torch.from_numpy(np.array(look.models)), weights_only=True)
        found = {}
        for number, layer in enumerate(layers):
            found[f"variance_{number}"] = float(layer.double().var(dim=-1, correction=0).mean())
            found[f"mean_model_variance_{number}"] = float(
                layer.double().mean(dim=0).var(correction=0)
            )
        return found
