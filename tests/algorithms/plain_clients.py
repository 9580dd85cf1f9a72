"""Clients of every algorithm once more, as a newcomer would write them: float64, one client after
the other, in the papers' symbols where they have several forms (FedSpeed's g^, SCAFFOLD's control
variates as means of gradients). They share data, shards, batches and rates with fedsim, and nothing
else."""

from __future__ import annotations

import numpy as np
import torch

from fedsim.algorithms import ClientRule, FedCM, FedProx, FedSam, FedSmoo, FedSpeed, Scaffold
from fedsim.simulation.simulation import Simulation
from fedsim.training.batches import draw_batches


class Clients:
    """Gradients on single batches, and local training of single clients along a direction."""

    def __init__(self, simulation: Simulation) -> None:
        self.task, self.local, self.seed = (
            simulation.prepare().task,
            simulation.local,
            simulation.seed,
        )
        self.module, train = self.task.module.double(), self.task.dataset.train
        self.inputs, self.labels = torch.from_numpy(train.x).double(), torch.from_numpy(train.y)
        self.examples = self.task.shards.sizes.tolist()
        self.last: dict[int, np.ndarray] = {}  # the model a client trained last

    def batches(self, client: int, round: int) -> list[np.ndarray]:
        drawn = draw_batches(self.task.shards, np.array([client]), self.local, self.seed, round)
        return [drawn.index[0, step, :count] for step, count in enumerate(drawn.count[0])]

    def gradient(self, batch: np.ndarray, x: np.ndarray) -> np.ndarray:
        at = torch.from_numpy(x).clone().requires_grad_()
        outputs = torch.func.functional_call(
            self.module, self.task.layout.views(at), (self.inputs[batch],)
        )
        torch.nn.functional.cross_entropy(outputs, self.labels[batch]).backward()
        return at.grad.numpy()

    def train(
        self, client: int, anchor: np.ndarray, round: int, rate: float, direction
    ) -> np.ndarray:
        """The trained model; `direction(grad, x)` is what a step descends along."""
        x = anchor + self.local.relaxation * (anchor - self.last.get(client, anchor))
        for batch in self.batches(client, round):
            x = x - rate * direction(lambda point, batch=batch: self.gradient(batch, point), x)
        self.last[client] = x
        return x


def uphill(grad, x: np.ndarray, radius: float) -> np.ndarray:
    g = grad(x)
    return grad(x + radius * g / np.linalg.norm(g))


class Method:
    """Local SGD. Receivers: a server is number 0."""

    def __init__(self, rule: ClientRule, clients: Clients, receivers: int, size: int) -> None:
        self.rule, self.clients, self.number = rule, clients, clients.task.clients
        self.per_receiver, self.per_client = (
            np.zeros((receivers, size)),
            np.zeros((self.number, size)),
        )

    def train(
        self, client: int, receiver: int, anchor: np.ndarray, round: int, rate: float
    ) -> np.ndarray:
        return self.clients.train(
            client, anchor, round, rate, lambda grad, x: self.direction(grad, x, anchor)
        )

    def direction(self, grad, x, anchor):
        return grad(x)

    def absorb(
        self, receiver: int, weights: dict[int, float], updates: np.ndarray, round: int, rate: float
    ):
        """After a round, with the weights of those a receiver heard and all updates [N, P]: what is
        added to its model."""
        return 0.0


class Prox(Method):
    def direction(self, grad, x, anchor):
        return grad(x) + self.rule.strength * (x - anchor)


class Sam(Method):
    def direction(self, grad, x, anchor):
        return uphill(grad, x, self.rule.radius)


class ControlVariates(Method):
    """A client's control variate is the mean of the gradients of its last round, the server's the
    mean over all clients."""

    def train(self, client, receiver, anchor, round, rate):
        seen, correction = [], self.per_client.mean(axis=0) - self.per_client[client]

        def direction(grad, x):
            seen.append(uphill(grad, x, self.rule.radius))
            return seen[-1] + correction

        trained = self.clients.train(client, anchor, round, rate, direction)
        self.new = getattr(self, "new", {}) | {client: np.mean(seen, axis=0)}
        return trained

    def absorb(self, receiver, weights, updates, round, rate):
        # All at once: the others of a cohort train with the old ones
        for client, mean in getattr(self, "new", {}).items():
            self.per_client[client] = mean
        return 0.0


class ClientMomentum(Method):
    def train(self, client, receiver, anchor, round, rate):
        rule, momentum = self.rule, self.per_receiver[receiver].copy()
        return self.clients.train(
            client,
            anchor,
            round,
            rate,
            lambda grad, x: rule.share * uphill(grad, x, rule.radius) + (1 - rule.share) * momentum,
        )

    def absorb(self, receiver, weights, updates, round, rate):
        if weights:
            steps = np.mean(
                [
                    len(self.clients.batches(client, round))
                    for client in np.flatnonzero(updates.any(axis=1))
                ]
            )
            self.per_receiver[receiver] = -sum(
                weight * updates[client] for client, weight in weights.items()
            ) / (steps * rate)
        return 0.0


class ProxCorrection(Method):
    """FedSpeed as in the paper's box, with FedSMOO's common step uphill where the rule is that;
    per_client: g^."""

    def __init__(self, *args) -> None:
        super().__init__(*args)
        self.agrees = isinstance(self.rule, FedSmoo)
        self.tilt = np.zeros_like(self.per_client)

    def train(self, client, receiver, anchor, round, rate):
        rule, common = self.rule, self.per_receiver[receiver].copy()

        def direction(grad, x):
            g = grad(x)
            along = g - self.tilt[client] - common if self.agrees else g
            step = rule.radius * along / np.linalg.norm(along)
            if self.agrees:
                self.tilt[client] += step - common
            merged = (1 - rule.merge) * g + rule.merge * grad(x + step)
            return merged - self.per_client[client] + (x - anchor) / rule.prox

        trained = self.clients.train(client, anchor, round, rate, direction)
        self.per_client[client] = self.per_client[client] - (trained - anchor) / rule.prox
        return trained

    def absorb(self, receiver, weights, updates, round, rate):
        tilt = sum(weight * self.tilt[client] for client, weight in weights.items())
        if self.agrees and np.any(tilt):
            self.per_receiver[receiver] = self.rule.radius * tilt / np.linalg.norm(tilt)
        if self.rule.mean_dual == "everyone":
            return -self.rule.prox * self.per_client.mean(axis=0)
        if self.rule.mean_dual == "active":
            return -self.rule.prox * sum(
                weight * self.per_client[client] for client, weight in weights.items()
            )
        return 0.0


def method(simulation: Simulation, clients: Clients, receivers: int, size: int) -> Method:
    """The plain form of a simulation's client rule."""
    kinds = {
        FedProx: Prox,
        FedSam: Sam,
        Scaffold: ControlVariates,
        FedCM: ClientMomentum,
        FedSpeed: ProxCorrection,
        FedSmoo: ProxCorrection,
    }
    return kinds.get(type(simulation.client), Method)(simulation.client, clients, receivers, size)
