"""fluke's FedAVG through its library interface, evaluation off. fluke trains one client after the
other."""

from __future__ import annotations

import importlib.machinery
import sys
import types
from dataclasses import dataclass

import torch
from common import RATE, SETTINGS, Clock, Plan, flat_of, load_flat, make_net


class Absent(types.ModuleType):
    """Stands in for torchvision, which fluke imports for its data loaders alone, and whose build
    must fit that of PyTorch."""

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


for part in ("", ".transforms", ".transforms.functional", ".datasets", ".models", ".models.resnet"):
    absent = Absent(f"torchvision{part}")
    absent.__spec__, absent.__path__, absent.__version__ = (
        importlib.machinery.ModuleSpec(absent.__name__, None),
        [],
        "0",
    )
    sys.modules[absent.__name__] = absent

from fluke import DDict, FlukeENV  # noqa: E402
from fluke.algorithms.fedavg import FedAVG  # noqa: E402
from fluke.data import FastDataLoader  # noqa: E402
from fluke.evaluation import ClassificationEval  # noqa: E402


@dataclass
class Now:
    """The round in progress and the columns of its clients."""

    plan: Plan
    round: int = -1

    def begin(self, clients: list) -> list:
        self.round += 1
        self.column = {
            int(client): column for column, client in enumerate(self.plan.cohorts[self.round])
        }
        return [clients[client] for client in self.column]


class PlannedLoader(FastDataLoader):
    """A client's examples in the planned order; fluke's own loader shuffles in the same way."""

    def follow(self, now: Now, client: int) -> PlannedLoader:
        self.now, self.client, self.whole = now, client, list(self.tensors)
        return self

    def __iter__(self):
        order = self.now.plan.order(self.now.round, self.now.column[self.client])
        self.tensors = [tensor[order] for tensor in self.whole]
        return super().__iter__()


class Shards:
    """In the place of fluke's data splitter: each client gets its own tensors, and nobody a test
    part."""

    def __init__(self, now: Now) -> None:
        self.now = now

    def assign(self, clients: int, batch: int):
        x, y = self.now.plan.tensors()
        loaders = [
            PlannedLoader(x[i], y[i], num_labels=10, batch_size=batch).follow(self.now, i)
            for i in range(clients)
        ]
        return (loaders, [None] * clients), None


def main() -> None:
    torch.set_num_threads(1)
    plan, rounds = Plan.read(), SETTINGS["rounds"]
    environment, now, models = FlukeENV(), Now(plan), {}
    environment.set_seed(0)
    environment.set_device("cpu")
    environment.set_eval_cfg(pre_fit=False, post_fit=False, server=False, locals=False)
    environment.set_evaluator(ClassificationEval(eval_every=10**6, n_classes=10))
    client = DDict(
        batch_size=SETTINGS["batch"],
        local_epochs=1,
        loss="CrossEntropyLoss",
        optimizer=DDict(name="SGD", lr=RATE),
        scheduler=DDict(name="StepLR", step_size=1, gamma=1.0),
    )
    net = load_flat(make_net(SETTINGS["model"]), plan.initial)
    algorithm = FedAVG(
        len(plan.x), Shards(now), DDict(client=client, server=DDict(weighted=True), model=net)
    )
    server, clock = algorithm.server, Clock(rounds)
    load_flat(server.model, plan.initial)
    aggregate = server.aggregate

    def aggregate_and_tell(*arguments, **named) -> None:
        aggregate(*arguments, **named)
        clock.round_done()
        if clock.done in (1, rounds):
            models[clock.done] = flat_of(server.model.state_dict()).clone()

    server.aggregate = aggregate_and_tell
    server.get_eligible_clients = lambda share: now.begin(algorithm.clients)
    algorithm.run(rounds, plan.cohorts.shape[1] / len(plan.x))
    clock.write(models)


if __name__ == "__main__":
    main()
