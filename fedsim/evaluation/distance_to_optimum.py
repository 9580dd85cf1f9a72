"""How far models are from where they should end."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import nn

from fedsim.component import component
from fedsim.errors import require
from fedsim.evaluation.metric import Look, Metric
from fedsim.rounds.jobs import Task
from fedsim.training.gradients import example_losses

TOLERANCE = 1e-9  # largest entry of the gradient at the minimiser


@component
class DistanceToOptimum(Metric):
    """Mean over the receivers (the tokens of a walk, the nodes of a graph, or the server alone) of
        ||x - x*||^2, x* the minimiser of the
    mean
    over clients with data of the client's mean training loss plus weight_decay / 2 ||x||^2, found
        in float64 once a run.

    For models whose objective is convex, and has one minimiser: logistic regression with weight
    decay, linear regression.
    """

    def check(self, task: Task) -> None:
        parts = [part for part in task.module.modules() if not list(part.children())]
        linear = [part for part in parts if type(part) is nn.Linear]
        convex = len(linear) == 1 and all(type(part) in (nn.Linear, nn.Flatten) for part in parts)
        require(
            convex,
            "metrics",
            "distance_to_optimum",
            "needs a convex objective; use model=logistic_regression",
        )
        decay, key = task.local.weight_decay, "local.weight_decay"
        require(
            decay > 0 or not task.classification,
            key,
            decay,
            "without it the objective has no single minimiser; use one above 0",
        )
        require(
            not decay or task.local.coupled,
            "local.optimizer",
            task.local.optimizer,
            "decays weights beside the objective; use sgd",
        )

    def measure(self, look: Look) -> dict[str, float]:
        known = getattr(self, "_known", None)
        if known is None or known[0] is not look.task:
            known = self._known = (look.task, minimiser(look.task))
        nodes = (
            np.flatnonzero(look.task.honest)
            if look.task.place == "graph"
            else np.arange(len(look.models))
        )
        distances = [np.square(look.models[node] - known[1]).sum() for node in nodes]
        return {"distance_to_optimum": float(np.mean(distances))}


def minimiser(task: Task) -> np.ndarray:
    """x*, float64 [P], by L-BFGS. Raises RuntimeError where it stops too early."""
    from scipy.optimize import minimize

    split, shards, held = task.dataset.train, task.shards, task.honest
    each = held / (held.sum() * np.maximum(shards.sizes, 1))  # every client counts the same
    weight = torch.from_numpy(np.bincount(shards.indices, each[shards.owners], len(split)))
    std = torch.as_tensor(np.asarray(task.dataset.std, np.float64))
    inputs = (
        torch.from_numpy(split.x).double() * task.dataset.scale
        - torch.as_tensor(np.asarray(task.dataset.mean, np.float64))
    ) / std
    targets = torch.from_numpy(split.y)
    targets = targets if task.classification else targets.double()
    module, decay = copy.deepcopy(task.module).cpu().double(), task.local.weight_decay

    def objective(point: np.ndarray) -> tuple[float, np.ndarray]:
        x = torch.from_numpy(point).requires_grad_()
        with torch.enable_grad():
            outputs = torch.func.functional_call(module, task.layout.views(x), (inputs,))
            value = (
                example_losses(outputs, targets, task.classification) * weight
            ).sum() + decay / 2 * x.square().sum()
        (gradient,) = torch.autograd.grad(value, x)
        return value.item(), gradient.numpy()

    options = {"maxiter": 20_000, "maxfun": 40_000, "maxcor": 30, "ftol": 0.0, "gtol": TOLERANCE}
    found = minimize(
        objective, np.zeros(task.layout.size), jac=True, method="L-BFGS-B", options=options
    )
    left = float(np.abs(objective(found.x)[1]).max())
    if left > 1000 * TOLERANCE:
        raise RuntimeError(
            f"the minimiser of the objective was not found: its gradient is still {left:.1e}"
            f" ({found.message})"
        )
    return found.x
