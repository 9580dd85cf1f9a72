"""Averaging of the last checkpoints: training goes on as it would, and the mean of the latest
models is evaluated.

Source: Kaddour, "Stop Wasting My Time! Saving Days of ImageNet and BERT Training with Latest Weight
Averaging" (LAWA), 2022 (arXiv 2209.14981).

    every `every` rounds the model joins the last k kept;  released: their mean, the model itself
        while there is none

Over a graph every node keeps k models of its own and counts the rounds in which it takes part.
"""

from __future__ import annotations

import torch

from fedsim.algorithms.fedavg import FedAvg
from fedsim.component import PositiveInt, component


@component
class LastAverage(FedAvg):
    """FedAvg that releases the mean of its latest models (Kaddour 2022).

    count: k, models averaged; every: rounds between them.
    """

    count: PositiveInt = 5
    every: PositiveInt = 10

    def init_receiver(self, x):
        return {
            "latest": x.new_zeros(len(x), self.count * x.shape[-1]),
            "steps": x.new_zeros(len(x), 1),
        }

    @property
    def adds_updates(self):
        return self.rate == 1

    def step(self, base, mixed, state, info):
        model, _ = super().step(base, mixed, {}, info)
        steps = state["steps"] + 1
        latest = state["latest"].view(len(model), self.count, -1).clone()
        slot = ((steps // self.every - 1) % self.count).long().squeeze(-1)
        due = (steps % self.every == 0).squeeze(-1)
        latest[due, slot[due]] = model[due]
        return model, {"latest": latest.flatten(1), "steps": steps}

    def output(self, model, state):
        kept = (state["steps"] // self.every).clamp_max(self.count)
        mean = state["latest"].view(len(model), self.count, -1).sum(dim=1) / kept.clamp_min(1)
        return torch.where(kept > 0, mean, model)
