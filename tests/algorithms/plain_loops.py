"""Every algorithm once more, as a newcomer would write it: float64, one client after the other, dense matrices, full batches, a list of
intervals for FedAU and the paper's g^ for FedSpeed. It shares data, shards, cohorts and first models with fedsim, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from fedsim.algorithms import FedAU, FedSpeed
from fedsim.simulation import Simulation
from tests.helpers import metropolis_matrix


class Clients:
    """Full-batch gradients and local training of single clients."""

    def __init__(self, simulation: Simulation) -> None:
        self.task, self.local = simulation.prepare().task, simulation.local
        self.module, train = self.task.module.double(), self.task.dataset.train
        shards = [self.task.shards.shard(client) for client in range(self.task.clients)]
        self.examples = [len(shard) for shard in shards]
        self.data = [(torch.from_numpy(train.x[shard]).double(), torch.from_numpy(train.y[shard])) for shard in shards]

    def gradient(self, client: int, x: np.ndarray) -> np.ndarray:
        at = torch.from_numpy(x).clone().requires_grad_()
        inputs, labels = self.data[client]
        outputs = torch.func.functional_call(self.module, self.task.layout.views(at), (inputs,))
        torch.nn.functional.cross_entropy(outputs, labels).backward()
        return at.grad.numpy()

    def sgd(self, client: int, anchor: np.ndarray) -> np.ndarray:
        x = anchor
        for _ in range(self.local.steps):
            x = x - self.local.rate * self.gradient(client, x)
        return x

    def fedspeed(self, client: int, anchor: np.ndarray, correction: np.ndarray, rule: FedSpeed) -> tuple[np.ndarray, np.ndarray]:
        """The trained model and the new prox-correction g^, as in the paper's box."""
        x = anchor
        for _ in range(self.local.steps):
            g = self.gradient(client, x)
            peak = self.gradient(client, x + rule.radius * g / np.linalg.norm(g))
            merged = (1 - rule.merge) * g + rule.merge * peak
            x = x - self.local.rate * (merged - correction + (x - anchor) / rule.prox)
        return x, correction - (x - anchor) / rule.prox


@dataclass
class Intervals:
    """FedAU's weight of one sender: the mean of a list of intervals."""

    cutoff: int | None
    closed: list[int]
    absences: int = 0

    def tick(self, present: bool) -> float:
        """The weight in this round, and then the round itself."""
        weight = float(np.mean(self.closed)) if self.closed else 1.0
        self.absences += 1
        if present or self.absences == self.cutoff:
            self.closed.append(self.absences)
            self.absences = 0
        return weight


def at_a_server(simulation: Simulation) -> np.ndarray:
    """The model [P] after all rounds."""
    clients, prepared, x = Clients(simulation), simulation.prepare(), first_models(simulation)[0]
    number, p, aggregator, rule = clients.task.clients, prepared.pattern.probabilities, simulation.aggregator, simulation.client
    counters = [Intervals(getattr(aggregator, "cutoff", None), []) for _ in range(number)]
    corrections = np.zeros((number, len(x)))
    for round in range(simulation.rounds):
        cohort = prepared.pattern.cohort(round)
        omega = [counter.tick(client in cohort) for client, counter in enumerate(counters)]
        following, total = x.copy(), sum(clients.examples[client] for client in cohort)
        for client in cohort:
            if isinstance(rule, FedSpeed):
                trained, corrections[client] = clients.fedspeed(client, x, corrections[client], rule)
            else:
                trained = clients.sgd(client, x)
            form = "fedau" if isinstance(aggregator, FedAU) else aggregator.weighting
            weight = {
                "fedau": omega[client] / number,
                "size": clients.examples[client] / max(total, 1),
                "uniform": 1 / len(cohort),
                "all": 1 / number,
                "known_prob": 1 / (number * p[client]),
            }[form]
            following += aggregator.rate * weight * (trained - x)
        if isinstance(rule, FedSpeed) and rule.mean_dual == "everyone":
            following -= rule.prox * corrections.mean(axis=0)
        elif isinstance(rule, FedSpeed) and rule.mean_dual == "active" and len(cohort):
            following -= rule.prox * corrections[cohort].mean(axis=0)  # the mean of x_i - lambda g^_i
        x = following
    return x


def over_a_graph(simulation: Simulation) -> np.ndarray:
    """The nodes' models [N, P] after all rounds; Metropolis weights or own share, plain or FedAU's weights, with or without correction."""
    clients, prepared, X = Clients(simulation), simulation.prepare(), first_models(simulation)
    nodes, rule, aggregator = len(X), simulation.client, simulation.aggregator
    adjacency = simulation.topology.adjacency(nodes, simulation.seed).toarray()
    nominal, share = metropolis_matrix(adjacency), getattr(simulation.mixing, "share", None)
    counters = {(r, s): Intervals(getattr(aggregator, "cutoff", None), []) for r in range(nodes) for s in range(nodes)}
    corrections = np.zeros_like(X)
    for round in range(simulation.rounds):
        cohort = prepared.pattern.cohort(round)
        active = np.isin(np.arange(nodes), cohort)
        trained, duals = X.copy(), np.zeros_like(X)
        for node in cohort:
            if isinstance(rule, FedSpeed):
                trained[node], corrections[node] = clients.fedspeed(node, X[node], corrections[node], rule)
                if rule.mean_dual == "active":
                    duals[node] = -rule.prox * corrections[node]
            else:
                trained[node] = clients.sgd(node, X[node])
        following = X.copy()
        for r in cohort:
            heard = np.flatnonzero(adjacency[r] & active)
            w = np.zeros(nodes)
            w[heard] = nominal[r, heard] if share is None else (1 - share) / len(heard) if len(heard) else 0.0
            w[r] = 1 - w.sum()
            merge = w.copy()
            if isinstance(aggregator, FedAU):
                omega = np.array([counters[r, s].tick(bool(active[s])) for s in range(nodes)])
                merge = nominal[r] * omega * active
            if simulation.protocol.order == "combine_then_adapt":
                following[r] = w @ X + trained[r] - X[r]
            else:
                following[r] = w @ X + merge @ (trained - X + duals)
            if simulation.correction is not None and len(heard):
                following[r] = respread(following[r], trained[heard], clients.task.layout)
        X = following
    return X


def respread(model: np.ndarray, received: np.ndarray, layout) -> np.ndarray:
    """Each weight tensor with the mean variance of those received."""
    model = model.copy()
    for shape, start, stop in zip(layout.shapes, layout.offsets, layout.offsets[1:], strict=False):
        if len(shape) > 1:
            layer = model[start:stop]
            model[start:stop] = layer.mean() + (layer - layer.mean()) * np.sqrt(received[:, start:stop].var(axis=1).mean() / layer.var())
    return model


def first_models(simulation: Simulation) -> np.ndarray:
    """float64 [R, P]."""
    task = simulation.prepare().task
    models = [model.double().numpy() for model in simulation._first_models(task)]
    return np.stack(models if len(models) == task.receivers else models * task.receivers)
