"""The workloads of the benchmark, as data files and as fedsim simulations.

W2lr, W2: 1,000 clients of 50 examples, logistic regression or an MLP 784-64-10, 100 clients a
round, batches of 10. W1b, W1: 100 clients of 500 images, LeNet or the FedAvg paper's CNN, 10
clients a round, batches of 32. W3: gossip of 100 nodes of 60 examples on a random 4-regular graph,
the MLP, every node's neighbours and itself averaged with equal weight.

The data are noisy class prototypes of 784 bytes each. Everybody does one pass over its examples a
round, by plain SGD.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

CLASSES, PIXELS, TEST = 10, 784, 2000
RATE = 0.05


@dataclass(frozen=True)
class Workload:
    """clients, examples (of each), cohort (clients a round), batch: counts; model: name; signal:
    share of the class prototype in an example, such that the model is neither at chance nor perfect
    at the end; degree: of the graph, 0: a server."""

    name: str
    clients: int
    examples: int
    cohort: int
    batch: int
    model: str
    signal: float
    degree: int = 0

    @property
    def image(self) -> bool:
        return self.model in ("lenet", "cnn")

    @property
    def steps(self) -> int:
        """Local steps of all clients in one round."""
        return self.cohort * -(-self.examples // self.batch)


WORKLOADS = {
    each.name: each
    for each in (
        Workload("W2lr", 1000, 50, 100, 10, "logistic_regression", 0.1),
        Workload("W2", 1000, 50, 100, 10, "mlp", 0.1),
        Workload("W1b", 100, 500, 10, 32, "lenet", 0.5),
        Workload("W1", 100, 500, 10, 32, "cnn", 0.35),
        Workload("W3", 100, 60, 100, 10, "mlp", 0.1, degree=4),
    )
}


def write_data(workload: Workload, path: Path, sizes: np.ndarray | None = None) -> None:
    """Write the examples of all clients, one after the other, as a file for `data=npz`. sizes: of
    the shards [clients], None: all alike."""
    draw = np.random.default_rng(0)
    prototypes = draw.integers(0, 256, (CLASSES, PIXELS))
    client = np.repeat(np.arange(workload.clients), workload.examples if sizes is None else sizes)

    def examples(count: int) -> tuple[np.ndarray, np.ndarray]:
        y = draw.integers(0, CLASSES, count)
        x = np.empty((count, PIXELS), np.uint8)
        for start in range(0, count, 10_000):
            part = slice(start, start + 10_000)
            noise = draw.integers(0, 256, x[part].shape, dtype=np.uint8)
            x[part] = prototypes[y[part]] * workload.signal + noise * (1 - workload.signal)
        return x.reshape(-1, 1, 28, 28) if workload.image else x, y

    x, y = examples(len(client))
    x_test, y_test = examples(TEST)
    np.savez(path, x=x, y=y, client=client, x_test=x_test, y_test=y_test)


def simulation(workload: Workload, data: Path, rounds: int, **changes: Any):
    """The workload as a `fedsim.Simulation`. changes: any of its fields."""
    from fedsim import Simulation
    from fedsim.algorithms import FedAvg
    from fedsim.data import Npz
    from fedsim.data.partition import Natural
    from fedsim.evaluation.evaluator import Evaluation
    from fedsim.models import MLP, LeNet, LogisticRegression, McMahanCNN
    from fedsim.network.mixing import Uniform as UniformMixing
    from fedsim.network.topology import RandomRegular
    from fedsim.participation import Full, Uniform
    from fedsim.protocols import Gossip, Server
    from fedsim.training import LocalTraining

    models = {
        "logistic_regression": LogisticRegression,
        "mlp": functools.partial(MLP, hidden=[64]),
        "lenet": LeNet,
        "cnn": McMahanCNN,
    }
    graph = (
        {
            "protocol": Gossip(),
            "topology": RandomRegular(degree=workload.degree),
            "mixing": UniformMixing(),
        }
        if workload.degree
        else {}
    )
    whole = workload.cohort == workload.clients
    settings: dict[str, Any] = {
        "data": Npz(file=str(data), validation=0.0),
        "partition": Natural(),
        "model": models[workload.model],
        "aggregator": FedAvg(weighting="uniform"),
        "participation": Full() if whole else Uniform(cohort=workload.cohort),
        "protocol": Server(),
        "local": LocalTraining(steps=None, epochs=1, batch_size=workload.batch, rate=RATE),
        "evaluation": Evaluation(every=10),
        "rounds": rounds,
        "progress": False,
        **graph,
    }
    return Simulation(**settings | changes)
