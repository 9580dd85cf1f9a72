"""What the linearised walk and model say of the mean squared error, after any number of steps.

Around x = mu and theta = theta*, along eigenvector u_i (eigenvalue l_i) of the base chain P, with
white noise xi_i of variance S_i = (1 + l_i) / (1 - l_i) / N (the walk's long-run variance) and r_i
= alpha (1 + l_i) (repellent) or alpha (history_driven):

    y_i = xi_i - r_i x_i                        u_i's share of where the token is
    x_i     <- x_i + gamma (y_i - x_i)
    theta_k <- theta_k - beta (h_k theta_k + sum_i c_ik y_i)

k are the eigenvectors of the objective's Hessian (eigenvalues h_k), c_ik the nodes' gradients at
theta* along u_i and k. Different i are uncorrelated, so the mean squared error is a sum of 2 x 2
covariance recursions. The first error theta_0 - theta* decays beside it.

Limits of the mean squared error / beta: sum_ik c_ik^2 S_i f_i / (2 h_k), f_i = 1 / (1 + r_i)^2 for
beta = o(gamma), 1 for gamma = o(beta), whatever alpha; for gamma = beta f_i is found by the
recursion.
"""

from __future__ import annotations

import numpy as np
import torch

from fedsim import Simulation
from fedsim.evaluation.distance_to_optimum import minimiser


class Problem:
    """Modes of one run's graph, data and objective: two classes, one sample at each node, a start
    at zero.

    eigenvalues [M] of P but for 1; noise [M]: S_i; h [K]; squares [M, K]: c_ik^2; first [K]:
    squared first error along k.
    """

    def __init__(self, simulation: Simulation) -> None:
        prepared = simulation.prepare()
        task, chain, decay = prepared.task, prepared.plan.chain, simulation.local.weight_decay
        nodes, shards, split = task.clients, task.shards, task.dataset.train
        base = np.zeros((nodes, nodes))
        np.add.at(
            base,
            (np.broadcast_to(np.arange(nodes)[:, None], chain.table.shape), chain.table),
            chain.base,
        )
        values, vectors = np.linalg.eigh(base)
        self.eigenvalues, modes = values[:-1], vectors[:, :-1]  # without the constant

        weight, bias = task.layout.views(torch.from_numpy(minimiser(task))).values()
        ends = torch.cat([weight, bias[:, None]], dim=1).numpy()
        assert np.allclose(ends[0], -ends[1], atol=1e-6) and (shards.sizes == 1).all()
        # Of the rows w and -w the model keeps, in coordinates of the same length
        best = ends[1] * np.sqrt(2)
        x = np.sqrt(2) * np.concatenate(
            [split.x[shards.indices].reshape(nodes, -1), np.ones((nodes, 1))], axis=1
        )
        sign = 2.0 * split.y[shards.indices] - 1.0
        wrong = 1 / (1 + np.exp(sign * (x @ best)))
        gradients = -(sign * wrong)[:, None] * x + decay * best
        hessian = (x * (wrong * (1 - wrong))[:, None]).T @ x / nodes + decay * np.eye(x.shape[1])
        self.h, along = np.linalg.eigh(hessian)
        self.squares, self.first = (modes.T @ gradients @ along) ** 2, (best @ along) ** 2
        self.noise = (1 + self.eigenvalues) / (1 - self.eigenvalues) / nodes
        # For nodes drawn independently
        self.independent = self._limit(np.full(nodes - 1, 1 / nodes))

    def _limit(self, noise: np.ndarray) -> float:
        return float((self.squares * noise[:, None] / (2 * self.h)).sum())

    def _repelled(self, alpha: float, kernel: str) -> np.ndarray:
        return (
            alpha * (1 + self.eigenvalues)
            if kernel == "repellent"
            else np.full(len(self.eigenvalues), float(alpha))
        )

    def limit(self, alpha: float, a: float, b: float, kernel: str = "repellent") -> float:
        """lim of the mean squared error / beta for a rate of 1 and b < 1."""
        r = self._repelled(alpha, kernel)
        if a < b:
            return self._limit(self.noise / (1 + r) ** 2)
        if a > b:
            return self._limit(self.noise)
        # Of x, for noise 1 and beta = gamma = 1; then of x and theta / c, and of theta / c
        xx = 1 / (2 * (1 + r))
        xt = (r * xx - 1)[:, None] / (self.h + (1 + r)[:, None])
        tt = (2 * r[:, None] * xt + 1) / (2 * self.h)
        return float((self.squares * self.noise[:, None] * tt).sum())

    def errors(
        self,
        rounds: list[int],
        alpha: float,
        a: float,
        b: float,
        rate: float = 1.0,
        kernel: str = "repellent",
    ) -> np.ndarray:
        """Mean squared error after each of `rounds`. gamma is cut at 1 / (2 (1 + r)): the line does
        not hold above."""
        r = self._repelled(alpha, kernel)
        xx, xt, tt = np.zeros(len(r)), np.zeros(self.squares.shape), np.zeros(self.squares.shape)
        first, found = self.first, {}
        for n in range(max(rounds)):
            beta, gamma = rate * (n + 1.0) ** -b, np.minimum((n + 2.0) ** -a, 0.5 / (1 + r))
            keep, hold, push = 1 - gamma * (1 + r), 1 - beta * self.h, beta * r
            tt = (
                hold**2 * tt
                + 2 * hold * push[:, None] * xt
                + (push**2 * xx + beta**2 * self.noise)[:, None]
            )
            xt = (
                keep[:, None] * (hold * xt + (push * xx)[:, None])
                - (beta * gamma * self.noise)[:, None]
            )
            xx = keep**2 * xx + gamma**2 * self.noise
            first = hold**2 * first
            if n + 1 in rounds:
                found[n + 1] = float((self.squares * tt).sum() + first.sum())
        return np.array([found[n] for n in rounds])
