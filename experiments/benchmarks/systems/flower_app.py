"""Flower's two apps. A client keeps the network and the mapped data while its process lives, the
cheap way to write one."""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from common import RATE, SETTINGS, Clock, Plan, flat_of, load_flat, make_net
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from torch import Tensor, nn

torch.set_num_threads(1)
client_app, server_app = ClientApp(), ServerApp()


@functools.lru_cache(1)
def plan() -> Plan:
    return Plan.read()


@functools.lru_cache(1)
def net() -> nn.Module:
    return make_net(SETTINGS["model"])


@client_app.train()
def train(message: Message, context: Context) -> Message:
    """One client's pass over its examples. Which client of the cohort a node is says its place
    among the nodes that were chosen."""
    config = message.content["config"]
    round, column = int(config["server-round"]) - 1, list(config["nodes"]).index(context.node_id)
    client, model = plan().cohorts[round, column], net()
    model.load_state_dict(message.content["arrays"].to_torch_state_dict())
    x, y = plan().inputs(plan().x[client]), torch.from_numpy(plan().y[client].astype("int64"))
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    for batch in plan().order(round, column).split(SETTINGS["batch"]):
        optimizer.zero_grad()
        F.cross_entropy(model(x[batch]), y[batch]).backward()
        optimizer.step()
    content = {
        "arrays": ArrayRecord(model.state_dict()),
        "metrics": MetricRecord({"num-examples": len(y)}),
    }
    return Message(content=RecordDict(content), reply_to=message)


class PlannedFedAvg(FedAvg):
    """FedAvg that tells the nodes it chose who they all are."""

    def _construct_messages(self, record: RecordDict, node_ids: list[int], message_type: str):
        record["config"]["nodes"] = list(node_ids)
        return super()._construct_messages(record, node_ids, message_type)


@server_app.main()
def main(grid: Grid, context: Context) -> None:
    rounds, cohort, clients = SETTINGS["rounds"], plan().cohorts.shape[1], len(plan().x)
    clock, models = Clock(rounds), {}

    def round_over(round: int, arrays: ArrayRecord) -> None:
        if round:
            clock.round_done()
        if round in (1, rounds):
            models[round] = flat_model(arrays)

    strategy = PlannedFedAvg(
        fraction_train=cohort / clients,
        fraction_evaluate=0.0,
        min_train_nodes=cohort,
        min_available_nodes=clients,
    )
    initial = ArrayRecord(load_flat(make_net(SETTINGS["model"]), plan().initial).state_dict())
    strategy.start(grid=grid, initial_arrays=initial, num_rounds=rounds, evaluate_fn=round_over)
    clock.write(models)


def flat_model(arrays: ArrayRecord) -> Tensor:
    return flat_of(arrays.to_torch_state_dict())
