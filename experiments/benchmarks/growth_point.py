"""One point of `growth.py`: python growth_point.py '{"clients": 1000, "cohort": 100}'. Prints
seconds a round and MB as JSON.

clients, examples (each), features, cohort; model: mlp (hidden: units), lenet or
logistic_regression; rule: FedAvg or FedSpeed; degree: of a graph in place of a server; workers: on
Ray, 0: in process; cluster: two nodes with one CPU each; rounds.
"""

from __future__ import annotations

import contextlib
import functools
import json
import sys

import torch
from timing import RoundClock, megabytes

from fedsim import Simulation
from fedsim.algorithms import FedAvg, FedSpeed, Sgd
from fedsim.data import Synthetic
from fedsim.data.partition import Iid
from fedsim.engine.inprocess import InProcess
from fedsim.engine.ray import Ray
from fedsim.evaluation.evaluator import Evaluation
from fedsim.models import MLP, LeNet, LogisticRegression
from fedsim.network.mixing import Uniform as UniformMixing
from fedsim.network.topology import RandomRegular
from fedsim.participation import Full, Uniform
from fedsim.protocols import Gossip, Server
from fedsim.training import LocalTraining

DEFAULTS = {
    "clients": 1000,
    "examples": 50,
    "features": 784,
    "cohort": 100,
    "model": "mlp",
    "hidden": 64,
    "rule": "FedAvg",
    "rounds": 10,
}


@contextlib.contextmanager
def engine_of(given: dict):
    """The engine; a cluster lives as long as it is used."""
    if not given.get("workers"):
        yield InProcess()
    elif not given.get("cluster"):
        yield Ray(workers=given["workers"])
    else:
        import ray
        from ray.cluster_utils import Cluster

        cluster = Cluster(
            initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False}
        )
        try:
            cluster.add_node(num_cpus=1)
            cluster.wait_for_nodes()
            yield Ray(workers=2, address=cluster.address, shared_memory=False)
        finally:
            ray.shutdown()
            cluster.shutdown()


class Memory(RoundClock):
    """Also reads the memory while the arrays of the run are there."""

    megabytes = 0.0

    def rows(self, rows) -> None:
        super().rows(rows)
        if any(row["metric"] == "seconds" for row in rows):
            self.megabytes = megabytes()


def simulation(given: dict, engine, clock: RoundClock) -> Simulation:
    image, clients = given["model"] == "lenet", given["clients"]
    models = {
        "mlp": functools.partial(MLP, hidden=[given["hidden"]]),
        "lenet": LeNet,
        "logistic_regression": LogisticRegression,
    }
    graph = given.get("degree")
    place = (
        {"protocol": Gossip(), "topology": RandomRegular(degree=graph), "mixing": UniformMixing()}
        if graph
        else {"protocol": Server()}
    )
    shape = [1, 28, 28] if image else [given["features"]]
    return Simulation(
        data=Synthetic(samples=clients * given["examples"], shape=shape, validation=0.0, test=200),
        partition=Iid(clients=clients),
        model=models[given["model"]],
        client=FedSpeed() if given["rule"] == "FedSpeed" else Sgd(),
        aggregator=FedAvg(weighting="uniform"),
        participation=Full()
        if graph or given["cohort"] == clients
        else Uniform(cohort=given["cohort"]),
        local=LocalTraining(steps=None, epochs=1, batch_size=10, rate=0.05),
        evaluation=Evaluation(every=1_000_000, nodes=2),
        engine=engine,
        rounds=given["rounds"],
        loggers=[clock],
        progress=False,
        **place,
    )


def main() -> None:
    given = DEFAULTS | json.loads(sys.argv[1])
    torch.set_num_threads(1)
    clock = Memory()
    with engine_of(given) as engine:
        result = simulation(given, engine, clock).run()
        found = {
            "seconds": clock.median,
            "megabytes": clock.megabytes,
            "parameters": result.summary["parameters"],
        }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
