"""The self-repellent chain: its laws in closed form, and what many replicas do."""

import numpy as np
import pytest
import scipy.sparse as sparse

from fedsim.network.topology import BarabasiAlbert, Ring, Star
from fedsim.protocols.chain import Chain

GRAPH = BarabasiAlbert(edges=2).adjacency(8, 0)
KERNELS = ("repellent", "history_driven")


def metropolis_hastings(adjacency):
    """P_ij = 1 / max(d_i, d_j), entry by entry."""
    A = adjacency.toarray()
    degree, P = A.sum(axis=1), np.zeros(A.shape)
    for i, j in np.argwhere(A):
        P[i, j] = 1 / max(degree[i], degree[j])
    return P + np.diag(1 - P.sum(axis=1))


def dense(chain, x):
    """K[x], [N, N]."""
    nodes = len(chain.degree)
    chances = chain.probabilities(np.arange(nodes), np.log(np.tile(x, (nodes, 1))))
    K = np.zeros((nodes, nodes))
    np.add.at(K, (np.arange(nodes)[:, None], chain.table), chances)
    return K


def frequencies_at_random(nodes, seed=0):
    x = np.random.Generator(np.random.Philox(seed)).exponential(size=nodes)
    return x / x.sum()


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(
    "adjacency",
    [GRAPH, Ring().adjacency(5, 0), Star().adjacency(6, 0)],
    ids=["uneven", "ring", "star"],
)
def test_without_repellence_or_at_the_target_it_is_the_base_chain(adjacency, kernel):
    P, nodes = metropolis_hastings(adjacency), adjacency.shape[0]
    np.testing.assert_allclose(
        dense(Chain(adjacency, 1, kernel=kernel, alpha=0), frequencies_at_random(nodes)),
        P,
        atol=1e-15,
    )
    np.testing.assert_allclose(
        dense(Chain(adjacency, 1, kernel=kernel, alpha=7), np.full(nodes, 1 / nodes)), P, atol=1e-15
    )


@pytest.mark.parametrize("alpha", [0.5, 3.0])
def test_kernels_are_what_they_are_defined_to_be(alpha):
    P, x = metropolis_hastings(GRAPH), frequencies_at_random(8)
    r, degree = (8 * x) ** -alpha, GRAPH.toarray().sum(axis=1)
    K = P * r / (P @ r)[:, None]
    np.testing.assert_allclose(dense(Chain(GRAPH, 1, alpha=alpha), x), K, rtol=1e-12)
    K = GRAPH.toarray() * np.minimum(1, np.outer(degree / r, r / degree)) / degree[:, None]
    K += np.diag(1 - K.sum(axis=1))
    np.testing.assert_allclose(
        dense(Chain(GRAPH, 1, kernel="history_driven", alpha=alpha), x), K, rtol=1e-12, atol=1e-15
    )


@pytest.mark.parametrize("kernel", KERNELS)
def test_at_given_frequencies_it_is_reversible(kernel):
    """With the stationary law mu_i r_i sum_k P_ik r_k, or the history-driven target mu_i r_i
    itself."""
    P, x = metropolis_hastings(GRAPH), frequencies_at_random(8, 1)
    r = x**-2.5
    law = r * (P @ r) if kernel == "repellent" else r
    law /= law.sum()
    K = dense(Chain(GRAPH, 1, kernel=kernel, alpha=2.5), x)
    np.testing.assert_allclose(law[:, None] * K, (law[:, None] * K).T, rtol=1e-10)
    np.testing.assert_allclose(law @ K, law, rtol=1e-12)


@pytest.mark.parametrize("kernel", KERNELS)
def test_large_repellence_and_long_walks_do_not_overflow(kernel):
    chain = Chain(GRAPH, 5, kernel=kernel, alpha=1e6, exponent=0.5)
    for round in range(200):
        chain.step(round)
    chain.log_v += 5e4  # as after 6e8 moves: x is what it was, and exp of neither part is a number
    chain.log_scale -= 5e4
    chances = chain.probabilities(chain.position, chain.log_v)
    assert np.isfinite(chances).all() and chances.min() >= 0
    np.testing.assert_allclose(chances.sum(axis=1), 1)
    np.testing.assert_allclose(chain.frequencies.sum(axis=1), 1, rtol=1e-8)
    chain.step(200)


@pytest.mark.parametrize("exponent", [0.6, 1.0])
def test_frequencies_follow_their_recursion(exponent):
    """x <- x + (n + 1)^-a (e_J - x) for n = 1, 2, ...; for a = 1 the mean of visits and one
    pretended visit."""
    chain, x, visits = (
        Chain(GRAPH, 3, seed=4, alpha=2, exponent=exponent),
        np.full((3, 8), 1 / 8),
        np.full((3, 8), 1 / 8),
    )
    for n in range(1, 60):
        before = chain.position.copy()
        chain.step(n)
        assert all(i == j or GRAPH[i, j] for i, j in zip(before, chain.position, strict=True))
        x += (n + 1.0) ** -exponent * (np.eye(8)[chain.position] - x)
        visits += np.eye(8)[chain.position]
    np.testing.assert_allclose(chain.frequencies, x, rtol=1e-10)
    if exponent == 1.0:
        np.testing.assert_allclose(chain.frequencies, visits / 60, rtol=1e-10)


def test_moves_follow_the_base_chain():
    """Transition counts of 400 tokens over 150 moves, each within five standard deviations."""
    P, chain, counts = metropolis_hastings(GRAPH), Chain(GRAPH, 400, alpha=0), np.zeros((8, 8))
    for round in range(150):
        before = chain.position.copy()
        chain.step(round)
        np.add.at(counts, (before, chain.position), 1)
    total = counts.sum(axis=1, keepdims=True)
    assert (np.abs(counts - total * P) <= 5 * np.sqrt(total * P * (1 - P)) + 1e-9).all()


def test_visits_vary_less_by_the_predicted_factors():
    """For gamma_n = 1 / (n + 1) the variance of x along eigenvector u_i of P falls to 1 / (2 alpha
    (1 + lambda_i) + 1) of that of the base chain, and with the history-driven target to 1 / (2
    alpha + 1). That of the base chain, stationary from the start, is exact: u_i' x after n moves is
    the mean of n + 1 numbers (the first is 0) of variance 1 / N and correlation lambda_i^lag. 1,000
    replicas: a standard error of 4.5 % each."""
    eigenvalues, vectors = np.linalg.eigh(metropolis_hastings(GRAPH))
    eigenvalues, vectors = eigenvalues[:-1], vectors[:, :-1]
    n, lags = 1500, np.arange(1, 1500)[:, None]
    base = (n + 2 * ((n - lags) * eigenvalues**lags).sum(axis=0)) / (8 * (n + 1) ** 2)
    cases = [
        ("repellent", 0.0, np.ones(7)),
        ("repellent", 2.0, 1 / (4 * (1 + eigenvalues) + 1)),
        ("history_driven", 2.0, np.full(7, 1 / 5)),
    ]
    for kernel, alpha, factors in cases:
        chain = Chain(GRAPH, 1000, 1, kernel, alpha, exponent=1.0)
        for round in range(n):
            chain.step(round)
        found = np.square(chain.frequencies @ vectors).mean(axis=0) / base / factors
        np.testing.assert_allclose(found, 1, atol=0.25)
        assert found.mean() == pytest.approx(1, abs=0.1)


def test_tokens_are_replicas_whose_draws_are_their_own():
    alone, among = Chain(GRAPH, 2, seed=3, alpha=2), Chain(GRAPH, 50, seed=3, alpha=2)
    for round in range(30):
        alone.step(round)
        among.step(round)
    np.testing.assert_array_equal(alone.frequencies, among.frequencies[:2])
    assert len(np.unique(among.frequencies, axis=0)) == 50
    assert (Chain(GRAPH, 9, start=5).position == 5).all() and len(
        set(Chain(GRAPH, 50).position)
    ) > 5


def test_a_node_without_neighbours_keeps_its_token():
    chain = Chain(sparse.csr_array((3, 3), dtype=bool), 4)
    before = chain.position.copy()
    chain.step(0)
    np.testing.assert_array_equal(chain.position, before)
