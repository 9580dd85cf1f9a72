"""Random walks over a graph that avoid where they have been: the chain of SA-SRRW, stepped for many
tokens at once.

Source: Hu, Doshi, Eun, "Accelerating Distributed Stochastic Optimization via Self-Repellent Random
Walks", ICLR 2024 (arXiv 2401.09665); the history-driven target: arXiv 2505.18300 (ICML 2025), read
as a summary.

Symbols: N nodes of degrees d; P base chain [N, N], the Metropolis-Hastings walk with uniform target
mu = 1/N: P_ij = 1 / max(d_i, d_j) for neighbours; x weighted visit frequencies of a token, positive
[N]; alpha repellence; gamma_n = (n + 1)^-a.

    repellent        K_ij[x]  proportional to  P_ij (x_j / mu_j)^-alpha, j over i and its neighbours
    history_driven   K_ij[x] = min(1, pi_j d_i / (pi_i d_j)) / d_i, pi_i = mu_i (x_i / mu_i)^-alpha:
                     the same Metropolis-Hastings walk with another target, for which a node asks
                     one neighbour a step in place of all
    x <- x + gamma_n (e_J - x) after the nth move, to J; x starts at mu

With alpha = 0, or x = mu, both are P. For gamma_n = 1 / (n + 1) x is the plain mean of the visits
and of one pretended visit spread over all.

The decay of what was seen long ago is kept as one factor a token: x = exp(scale) v, so that a move
changes one entry of v and costs the same on any graph; both are held as logarithms, which neither a
large alpha nor a long walk overflows.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import scipy.sparse as sparse

from fedsim import rng
from fedsim.network.mixing import Mixing, metropolis_weights

Kernel = Literal["repellent", "history_driven"]


class _Walk(Mixing):
    """The base chain as mixing weights."""

    def neighbour_weights(
        self, receiver_degree: np.ndarray, sender_degree: np.ndarray
    ) -> np.ndarray:
        return metropolis_weights(receiver_degree, sender_degree, offset=0)


class Chain:
    """T tokens on a graph, independent of each other, each with its own visits.

    adjacency: bool [N, N], symmetric, no diagonal; tokens: T; kernel, alpha, exponent: see the head
    of this file; seed: of all draws; start: the node where all begin, or None: each at a random
    node of its own. position: int64 [T]; moves: made so far, int64 [T]; log_v: float64 [T, N];
    log_scale: float64 [T].
    """

    def __init__(
        self,
        adjacency: sparse.csr_array,
        tokens: int,
        seed: int = 0,
        kernel: Kernel = "repellent",
        alpha: float = 0.0,
        exponent: float = 1.0,
        start: int | None = None,
    ) -> None:
        self.seed, self.kernel, self.alpha, self.exponent = seed, kernel, alpha, exponent
        nodes = adjacency.shape[0]
        self.degree = np.diff(adjacency.indptr).astype(np.int64)
        self.table, self.base = _padded(adjacency, self.degree)
        ids = np.arange(tokens)
        free = (rng.uniform(seed, "start of a walk", 0, ids) * nodes).astype(np.int64)
        self.position = free if start is None else np.full(tokens, start, np.int64)
        self.moves = np.zeros(tokens, np.int64)
        self.log_v = np.full((tokens, nodes), -np.log(nodes))
        self.log_scale = np.zeros(tokens)

    @property
    def frequencies(self) -> np.ndarray:
        """x, float64 [T, N]; rows sum to 1."""
        return np.exp(self.log_v + self.log_scale[:, None])

    def probabilities(self, position: np.ndarray, log_x: np.ndarray) -> np.ndarray:
        """Where a token at position [t] goes that has seen x, given as logarithms up to a constant
        [t, N]: float64 [t, 1 + max degree], over the columns of `table` at its position: itself,
        its neighbours, padding."""
        base, at = self.base[position], self.table[position]
        repelled = -self.alpha * np.take_along_axis(log_x, at, axis=1)
        if self.kernel == "repellent":
            with np.errstate(divide="ignore"):
                logs = np.log(base) + repelled
            weights = np.exp(logs - logs.max(axis=1, keepdims=True))
            return weights / weights.sum(axis=1, keepdims=True)
        here, there = self.degree[position][:, None], self.degree[at]
        ratio = repelled - repelled[:, :1] - np.log(np.maximum(there, 1))  # of pi_j / d_j to pi_i
        chances = np.where(base > 0, np.exp(np.minimum(ratio, -np.log(np.maximum(here, 1)))), 0.0)
        chances[:, 0] = 0.0
        chances[:, 0] = np.maximum(1.0 - chances.sum(axis=1), 0.0)
        return chances

    def draw(self, tokens: np.ndarray, round: int) -> np.ndarray:
        """The node to which each of these tokens goes in a round, int64 [t]; keyed by seed, round
        and token."""
        position = self.position[tokens]
        chances = np.cumsum(self.probabilities(position, self.log_v[tokens]), axis=1)
        passed = chances <= rng.uniform(self.seed, "walk", round, tokens)[:, None] * chances[:, -1:]
        column = np.minimum(passed.sum(axis=1), self.degree[position])
        return self.table[position, column]

    def move(self, tokens: np.ndarray, nodes: np.ndarray) -> None:
        """Put these tokens on these nodes, and count the visits."""
        log_gamma = -self.exponent * np.log(self.moves[tokens] + 2.0)  # of the next move
        self.moves[tokens] += 1
        self.position[tokens] = nodes
        scale = self.log_scale[tokens] + np.log1p(-np.exp(log_gamma))
        self.log_scale[tokens] = scale
        self.log_v[tokens, nodes] = np.logaddexp(self.log_v[tokens, nodes], log_gamma - scale)

    def step(self, round: int) -> None:
        """One move of every token."""
        everyone = np.arange(len(self.position))
        self.move(everyone, self.draw(everyone, round))

    def state(self) -> dict[str, np.ndarray]:
        """Everything that changes, by name."""
        return {name: getattr(self, name) for name in ("position", "moves", "log_v", "log_scale")}

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Go on from what `state` gave. Raises ValueError where that is of another graph or other
        tokens."""
        for name, here in self.state().items():
            if state[name].shape != here.shape:
                raise ValueError(f"{name} is of shape {state[name].shape}, not {here.shape}")
            here[...] = state[name]
        if (
            not ((self.position >= 0) & (self.position < len(self.degree))).all()
            or (self.moves < 0).any()
        ):
            raise ValueError(
                f"a token is on none of the {len(self.degree)} nodes, or has made fewer than 0"
                " moves"
            )


def _padded(adjacency: sparse.csr_array, degree: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(table int64, base float64), both [N, 1 + max degree]: in each row the node itself, its
    neighbours, then padding with the node itself; and the base chain's probabilities, 0 for
    padding."""
    nodes, width = len(degree), 1 + int(degree.max(initial=0))
    links = _Walk().links(adjacency)
    table = np.repeat(np.arange(nodes)[:, None], width, axis=1)
    base = np.zeros((nodes, width))
    others = ~links.own
    row = links.receiver[others]
    column = 1 + np.arange(len(row)) - np.repeat(np.cumsum(degree) - degree, degree)
    table[row, column], base[row, column] = links.sender[others], links.weight[others]
    stay = links.weight[links.own]
    # Where nothing is left, not a rounding error that repellence would blow up
    base[:, 0] = np.where(stay > 1e-12, stay, 0.0)
    return table, base
