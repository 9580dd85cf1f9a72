"""Whether a system has done the same work as the plain loop: its models after the first and the
last round, and what they are worth.

Dense models follow the plain loop to rounding errors, whatever the formulation. Convolutional ones
do not: where a maximum or a ReLU turns over by a rounding error, the path of a gradient changes,
and training amplifies that; so after one round the distance is bounded in units of the way that the
round has gone, and after the last round what counts is the accuracy.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from systems.common import load_flat, make_net
from workloads import Workload

DENSE = 1e-4  # greatest absolute difference of a parameter, after the first and the last round
# convolutional: norm of the difference after the first round, in units of the round's own step
ONE_ROUND = 0.2
# Greatest difference of the final accuracy on the 2,000 test examples; True: convolutional
ACCURACY = {False: 0.002, True: 0.03}


@dataclass(frozen=True)
class Verdict:
    """first_difference, last_difference: after the first and the last round (dense: the greatest
    absolute one, convolutional: relative to the way gone since the initial model); accuracy: of the
    last model; reference_accuracy: of the plain loop's model of that round."""

    same: bool
    first_difference: float
    last_difference: float
    accuracy: float
    reference_accuracy: float


def models_of(folder: Path) -> dict[int, np.ndarray]:
    """Flat models that a launch left, by round."""
    with np.load(folder / "models.npz") as file:
        return {int(name): file[name] for name in file.files}


def compare(
    workload: Workload,
    prepared: Path,
    models: dict[int, np.ndarray],
    reference: dict[int, np.ndarray],
) -> Verdict:
    """Judge the models of a system by those of the plain loop, which has one of every round in
    question."""
    with np.load(prepared / "plan.npz") as plan:
        initial = plan["initial"]
    last = max(models)
    differences = [
        _difference(workload, models[round], reference[round], initial)
        for round in (min(models), last)
    ]
    accuracy, other = (accuracy_of(workload, prepared, each[last]) for each in (models, reference))
    close = differences[0] <= ONE_ROUND if workload.image else max(differences) <= DENSE
    if workload.image and min(models) != 1:
        raise ValueError("a convolutional model is compared after one round")
    same = (
        bool(np.isfinite(models[last]).all())
        and close
        and abs(accuracy - other) <= ACCURACY[workload.image]
    )
    return Verdict(same, *differences, accuracy, other)


def _difference(
    workload: Workload, model: np.ndarray, reference: np.ndarray, initial: np.ndarray
) -> float:
    if not workload.image:
        return float(np.abs(model - reference).max())
    return float(np.linalg.norm(model - reference) / np.linalg.norm(reference - initial))


def accuracy_of(workload: Workload, prepared: Path, model: np.ndarray) -> float:
    """Accuracy on the test examples."""
    x, y = _test(prepared)
    net = load_flat(make_net(workload.model), torch.from_numpy(model))
    with torch.inference_mode():
        hits = [
            int((net(x[at : at + 200]).argmax(1) == y[at : at + 200]).sum())
            for at in range(0, len(x), 200)
        ]
    return sum(hits) / len(y)


@functools.lru_cache(2)
def _test(prepared: Path) -> tuple[torch.Tensor, torch.Tensor]:
    with np.load(prepared / "plan.npz") as plan, np.load(prepared / "test.npz") as test:
        x = (test["x"].astype(np.float32) / np.float32(255) - plan["mean"]) / plan["std"]
        return torch.from_numpy(x), torch.from_numpy(test["y"])
