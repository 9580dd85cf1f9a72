"""Rounds of every algorithm once more, as a newcomer would write them: float64, one client after
the other, dense matrices, a list of intervals for FedAU. They share data, shards, cohorts, batches
and first models with fedsim, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedsim.algorithms import FedAU, FedNova, FedProx
from fedsim.simulation.simulation import Simulation
from tests.algorithms.plain_clients import Clients, method
from tests.helpers import metropolis_matrix


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


def work(simulation: Simulation, clients: Clients, client: int, round: int, rate: float) -> float:
    """FedNova's amount of work in an update, in closed form: steps, or the sum of a geometric
    series with a prox term."""
    steps = len(clients.batches(client, round))
    pull = rate * simulation.client.strength if isinstance(simulation.client, FedProx) else 0.0
    return (1 - (1 - pull) ** steps) / pull if pull else steps


def rate_of(simulation: Simulation, round: int) -> float:
    return simulation.local.rate * simulation.schedule.factor(round, simulation.rounds)


def at_a_server(simulation: Simulation) -> np.ndarray:
    """The model [P] after all rounds."""
    clients, prepared, x = Clients(simulation), simulation.prepare(), first_models(simulation)[0]
    number, p, aggregator = (
        clients.task.clients,
        prepared.pattern.probabilities,
        simulation.aggregator,
    )
    rule = method(simulation, clients, 1, len(x))
    counters = [Intervals(getattr(aggregator, "cutoff", None), []) for _ in range(number)]
    for round in range(simulation.rounds):
        cohort, rate = prepared.pattern.cohort(round), rate_of(simulation, round)
        omega = [counter.tick(client in cohort) for client, counter in enumerate(counters)]
        total = sum(clients.examples[client] for client in cohort)
        updates, weights = np.zeros((number, len(x))), {}
        for client in cohort:
            updates[client] = rule.train(client, 0, x, round, rate) - x
            form = "fedau" if isinstance(aggregator, FedAU) else aggregator.weighting
            weights[client] = {
                "fedau": omega[client] / number,
                "size": clients.examples[client] / max(total, 1),
                "uniform": 1 / len(cohort),
                "all": 1 / number,
                "known_prob": 1 / (number * p[client]),
            }[form]
        if isinstance(aggregator, FedNova):
            done = {client: work(simulation, clients, client, round, rate) for client in cohort}
            common = sum(weights[client] * done[client] for client in cohort)
            weights = {client: weights[client] * common / done[client] for client in cohort}
        following = x + aggregator.rate * sum(
            weight * updates[client] for client, weight in weights.items()
        )
        x = following + rule.absorb(0, weights, updates, round, rate)
    return x


def over_a_graph(simulation: Simulation) -> np.ndarray:
    """The nodes' models [N, P] after all rounds; Metropolis weights or own share, plain or FedAU's
    weights, with or without correction."""
    clients, prepared, X = Clients(simulation), simulation.prepare(), first_models(simulation)
    nodes, aggregator = len(X), simulation.aggregator
    adjacency = simulation.topology.adjacency(nodes, simulation.seed).toarray()
    nominal, share = metropolis_matrix(adjacency), getattr(simulation.mixing, "share", None)
    counters = {
        (r, s): Intervals(getattr(aggregator, "cutoff", None), [])
        for r in range(nodes)
        for s in range(nodes)
    }
    rule = method(simulation, clients, nodes, X.shape[1])
    for round in range(simulation.rounds):
        cohort, rate = prepared.pattern.cohort(round), rate_of(simulation, round)
        active = np.isin(np.arange(nodes), cohort)
        trained = X.copy()
        for node in cohort:
            trained[node] = rule.train(node, node, X[node], round, rate)
        following = X.copy()
        for r in cohort:
            heard = np.flatnonzero(adjacency[r] & active)
            w = np.zeros(nodes)
            w[heard] = (
                nominal[r, heard]
                if share is None
                else (1 - share) / len(heard)
                if len(heard)
                else 0.0
            )
            w[r] = 1 - w.sum()
            merge = w.copy()
            if isinstance(aggregator, FedAU):
                omega = np.array([counters[r, s].tick(bool(active[s])) for s in range(nodes)])
                merge = nominal[r] * omega * active
            if simulation.protocol.order == "combine_then_adapt":
                merge = (np.arange(nodes) == r).astype(float)
            weights = {s: merge[s] for s in cohort if merge[s]}
            following[r] = (
                w @ X + merge @ (trained - X) + rule.absorb(r, weights, trained - X, round, rate)
            )
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
            model[start:stop] = layer.mean() + (layer - layer.mean()) * np.sqrt(
                received[:, start:stop].var(axis=1).mean() / layer.var()
            )
    return model


def first_models(simulation: Simulation) -> np.ndarray:
    """float64 [R, P]."""
    task = simulation.prepare().task
    models = [model.double().numpy() for model in simulation._first_models(task)]
    return np.stack(models if len(models) == task.receivers else models * task.receivers)
