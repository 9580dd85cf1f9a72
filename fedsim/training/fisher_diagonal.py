"""Diagonal of the Fisher information of a client's shard, for merging by Fisher weights.

Source: Matena & Raffel, "Merging Models with Fisher-Weighted Averaging", NeurIPS 2022 (arXiv
2111.09832), section 3: F = mean_x sum_y p(y|x) (grad log p(y|x))^2, the expectation over labels
taken exactly.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedsim.parameters import Layout

ENTRIES = 1 << 24  # of the gradients held at once: 64 MB


def diagonal_fisher(module: nn.Module, layout: Layout, x: Tensor, inputs: Tensor) -> Tensor:
    """F [P] of one model x [P] on examples inputs [n, ...] of a classification task."""

    def log_probability(
        parameters: dict[str, Tensor], example: Tensor, label: Tensor
    ) -> tuple[Tensor, Tensor]:
        logs = F.log_softmax(
            torch.func.functional_call(module, parameters, (example.unsqueeze(0),))[0], dim=-1
        )
        chosen = (logs * label).sum()  # label: one-hot
        return chosen, chosen.exp().detach()

    per_label = torch.func.vmap(
        torch.func.grad(log_probability, has_aux=True), in_dims=(None, None, 0)
    )
    per_example = torch.func.vmap(per_label, in_dims=(None, 0, None))
    parameters = layout.views(x)
    outputs = torch.func.functional_call(module, parameters, (inputs[:1],)).shape[-1]
    labels = torch.eye(outputs, device=x.device)
    total = torch.zeros_like(x)
    views = layout.views(total)
    size = max(1, ENTRIES // (outputs * layout.size))
    for start in range(0, len(inputs), size):
        gradients, probability = per_example(parameters, inputs[start : start + size], labels)
        for name, view in views.items():
            view += torch.einsum("nl,nl...->...", probability, gradients[name].square())
    return total / max(len(inputs), 1)
