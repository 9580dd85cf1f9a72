"""pfl-research: federated averaging on its simulated backend; two processes through torchrun."""

from __future__ import annotations

import itertools
import os
import types

import numpy as np
import torch
import torch.nn.functional as F
from common import RATE, SETTINGS, Clock, Plan, flat_of, load_flat, make_net
from pfl.aggregate.simulate import SimulatedBackend
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.pytorch import PyTorchTensorDataset
from pfl.hyperparam.base import NNEvalHyperParams, NNTrainHyperParams
from pfl.metrics import Metrics, Weighted
from pfl.model.pytorch import PyTorchModel

FIRST = int(os.environ.get("RANK", "0")) == 0


class Rounds(TrainingProcessCallback):
    """The clock of the first process, and the model after its first and last round."""

    def __init__(self, net: torch.nn.Module, rounds: int) -> None:
        self.net, self.rounds, self.models, self.clock = net, rounds, {}, None

    def on_train_begin(self, *, model) -> Metrics:
        self.clock = Clock(self.rounds)
        return Metrics()

    def after_central_iteration(self, aggregate_metrics, model, *, central_iteration):
        if FIRST:
            self.clock.round_done()
            if central_iteration + 1 in (1, self.rounds):
                self.models[central_iteration + 1] = flat_of(self.net.state_dict())
        return False, Metrics()


def loss(self, x: torch.Tensor, y: torch.Tensor, is_eval: bool = False) -> torch.Tensor:
    return F.cross_entropy(self(x), y)


def metrics(self, x: torch.Tensor, y: torch.Tensor) -> dict[str, Weighted]:
    return {"accuracy": Weighted(float((self(x).argmax(1) == y).sum()), len(y))}


def main() -> None:
    torch.set_num_threads(1)
    np.random.seed(0)
    plan, rounds = Plan.read(), SETTINGS["rounds"]
    (x, y), cohort = plan.tensors(), plan.cohorts.shape[1]
    net = load_flat(make_net(SETTINGS["model"]), plan.initial)
    net.loss, net.metrics = types.MethodType(loss, net), types.MethodType(metrics, net)

    def make_user(place: tuple[int, int]) -> PyTorchTensorDataset:
        round, column = place
        client, order = plan.cohorts[place], plan.order(round, column)
        return PyTorchTensorDataset([x[client][order], y[client][order]], user_id=str(client))

    # Who comes next, round by round
    places = itertools.product(range(len(plan.cohorts)), range(cohort))
    users = FederatedDataset(make_user, lambda: next(places))
    model = PyTorchModel(
        net,
        lambda parameters, lr=RATE: torch.optim.SGD(parameters, lr),
        torch.optim.SGD(net.parameters(), lr=1.0),
    )
    watch = Rounds(net, rounds)
    FederatedAveraging().run(
        NNAlgorithmParams(
            central_num_iterations=rounds,
            evaluation_frequency=10**6,
            train_cohort_size=cohort,
            val_cohort_size=0,
        ),
        SimulatedBackend(training_data=users, val_data=None),
        model,
        NNTrainHyperParams(
            local_num_epochs=1, local_learning_rate=RATE, local_batch_size=SETTINGS["batch"]
        ),
        NNEvalHyperParams(local_batch_size=None),
        callbacks=[watch],
        send_metrics_to_platform=False,
    )
    if FIRST:
        watch.clock.write(watch.models)


if __name__ == "__main__":
    main()
