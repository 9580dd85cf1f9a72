"""The loop that one writes without a simulator: a network, torch.optim.SGD, an average of state
dictionaries. One process or several."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from common import RATE, SETTINGS, Clock, Plan, flat_of, load_flat, make_net
from torch import Tensor, multiprocessing, nn

State = dict[str, Tensor]


def train(net: nn.Module, start: State, x: Tensor, y: Tensor, order: Tensor) -> State:
    """One client's pass over its examples in the given order."""
    net.load_state_dict(start)
    net.train()
    optimizer = torch.optim.SGD(net.parameters(), lr=RATE)
    for batch in order.split(SETTINGS["batch"]):
        optimizer.zero_grad()
        F.cross_entropy(net(x[batch]), y[batch]).backward()
        optimizer.step()
    return {name: tensor.detach().clone() for name, tensor in net.state_dict().items()}


def average(states: list[State], weights: list[float]) -> State:
    return {
        name: sum(state[name] * weight for state, weight in zip(states, weights, strict=True))
        for name in states[0]
    }


def part_of_round(
    net: nn.Module,
    plan: Plan,
    data: tuple[Tensor, Tensor],
    model: State,
    round: int,
    columns: range,
) -> State:
    """The clients of some columns of the cohort, and the sum of their models weighted by one over
    the cohort."""
    cohort, (x, y) = plan.cohorts[round], data
    states = [
        train(net, model, x[cohort[column]], y[cohort[column]], plan.order(round, column))
        for column in columns
    ]
    return average(states, [1 / len(cohort)] * len(states))


def work(plan: Plan, data: tuple[Tensor, Tensor], rank: int, jobs, results) -> None:
    """A worker process: every so-manieth client of the cohort."""
    torch.set_num_threads(1)
    net = make_net(SETTINGS["model"])
    while (job := jobs.get()) is not None:
        round, model = job
        results.put(
            part_of_round(
                net,
                plan,
                data,
                model,
                round,
                range(rank, len(plan.cohorts[round]), SETTINGS["processes"]),
            )
        )


def server(plan: Plan, net: nn.Module, clock: Clock) -> list[Tensor]:
    """Federated averaging; the model after every round, flat."""
    data, processes = plan.tensors(), SETTINGS["processes"]
    model = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    models, queues, workers = [], [], []
    if processes > 1:
        context = multiprocessing.get_context("fork")
        results, queues = context.Queue(), [context.Queue() for _ in range(processes)]
        workers = [
            context.Process(target=work, args=(plan, data, rank, queue, results))
            for rank, queue in enumerate(queues)
        ]
        for worker in workers:
            worker.start()
    for round in range(SETTINGS["rounds"]):
        if processes == 1:
            model = part_of_round(net, plan, data, model, round, range(len(plan.cohorts[round])))
        else:
            for queue in queues:
                queue.put((round, model))
            model = average([results.get() for _ in queues], [1.0] * processes)
        models.append(flat_of(model))
        clock.round_done()
    for queue, worker in zip(queues, workers, strict=True):
        queue.put(None)
        worker.join()
    return models


def gossip(plan: Plan, net: nn.Module, clock: Clock) -> list[Tensor]:
    """Every node trains and averages with its neighbours; the mean of all nodes' models after every
    round, flat."""
    (x, y), nodes = plan.tensors(), len(plan.x)
    models = [
        {name: tensor.clone() for name, tensor in net.state_dict().items()} for _ in range(nodes)
    ]
    heard: list[list[tuple[int, float]]] = [[] for _ in range(nodes)]
    for receiver, sender, weight in zip(*plan.links, strict=True):
        heard[receiver].append((int(sender), float(weight)))
    means = []
    for round in range(SETTINGS["rounds"]):
        trained = [
            train(net, models[node], x[node], y[node], plan.order(round, node))
            for node in range(nodes)
        ]
        models = [
            average([trained[sender] for sender, _ in links], [weight for _, weight in links])
            for links in heard
        ]
        clock.round_done()
        if round in (0, SETTINGS["rounds"] - 1):
            means.append(flat_of(average(models, [1 / nodes] * nodes)))
    return [means[0], *[means[0]] * (SETTINGS["rounds"] - 2), means[-1]]


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    plan, clock = Plan.read(), Clock(SETTINGS["rounds"])
    net = load_flat(make_net(SETTINGS["model"]), plan.initial)
    models = (gossip if plan.links else server)(plan, net, clock)
    clock.write(dict(enumerate(models, start=1)))


if __name__ == "__main__":
    main()
