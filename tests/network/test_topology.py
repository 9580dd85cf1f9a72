"""Topologies: degrees and shape of each graph, drawing per round, spectra, and refusals."""

import networkx
import numpy as np
import pytest
import scipy.sparse as sparse
import yaml
from hypothesis import given, settings, strategies as st

import fedsim.network.topology as topology
from fedsim.config.building import locate
from fedsim.errors import ConfigError
from fedsim.network.directed_graphs import Exponential, RandomOut
from fedsim.network.mixing import Metropolis, OwnShare, Uniform
from fedsim.network.topology import (
    BarabasiAlbert,
    Complete,
    ErdosRenyi,
    GraphFile,
    RandomRegular,
    Ring,
    SmallWorld,
    Star,
    StochasticBlocks,
    Torus,
    second_largest_modulus,
    spectral_gap,
)
from tests.paths import CONF

RANDOM = [
    RandomRegular(degree=4),
    ErdosRenyi(probability=0.2),
    SmallWorld(degree=4, rewire=0.3),
    BarabasiAlbert(edges=2),
    StochasticBlocks(blocks=3, p_in=0.5, p_out=0.1),
]


def degrees(adjacency):
    return np.diff(adjacency.indptr)


def check(adjacency, nodes):
    assert (
        adjacency.shape == (nodes, nodes) and adjacency.dtype == bool and adjacency.format == "csr"
    )
    assert adjacency.data.all() and adjacency.has_sorted_indices and adjacency.has_canonical_format
    assert (adjacency != adjacency.T).nnz == 0 and adjacency.diagonal().sum() == 0
    assert sparse.csgraph.connected_components(adjacency)[0] == 1


@pytest.mark.parametrize(
    "kind, nodes, expected",
    [
        (Complete(), 7, networkx.complete_graph(7)),
        (Complete(), 1, networkx.complete_graph(1)),
        (Star(), 6, networkx.star_graph(5)),
        (Ring(), 9, networkx.cycle_graph(9)),
        (Torus(), 12, networkx.grid_2d_graph(3, 4, periodic=True)),
        (Torus(cols=3), 15, networkx.grid_2d_graph(5, 3, periodic=True)),
        (Torus(rows=3, cols=20), 60, networkx.grid_2d_graph(3, 20, periodic=True)),
    ],
    ids=lambda value: str(value),
)
def test_regular_shapes_are_those_of_networkx(kind, nodes, expected):
    adjacency = kind.adjacency(nodes, 0)
    check(adjacency, nodes)
    np.testing.assert_array_equal(
        adjacency.toarray(), networkx.to_numpy_array(expected, nodelist=sorted(expected)) > 0
    )


@pytest.mark.parametrize("kind", RANDOM, ids=lambda kind: type(kind).__name__)
def test_random_graphs_are_keyed_by_the_seed(kind):
    adjacency = kind.adjacency(60, 3)
    check(adjacency, 60)
    assert kind.fixed and (adjacency != kind.adjacency(60, 3, round=8)).nnz == 0
    assert (adjacency != kind.adjacency(60, 4)).nnz > 0


@settings(max_examples=30, deadline=None)
@given(st.integers(4, 30), st.integers(1, 29), st.integers(0, 5))
def test_every_possible_degree_gives_a_regular_graph(nodes, degree, seed):
    if degree >= nodes or degree * nodes % 2:
        with pytest.raises(ConfigError, match="topology.degree"):
            RandomRegular(degree=degree).adjacency(nodes, seed)
    else:
        adjacency = RandomRegular(degree=degree, allow_disconnected=True).adjacency(nodes, seed)
        assert (
            set(degrees(adjacency)) == {degree}
            and (adjacency != adjacency.T).nnz == 0
            and adjacency.diagonal().sum() == 0
        )


def test_a_graph_per_round_is_fresh_and_reproducible():
    kind = RandomRegular(degree=3, per_round=True)
    assert not kind.fixed
    first = [kind.adjacency(20, 0, round) for round in range(5)]
    for a, graph in enumerate(first):
        assert set(degrees(graph)) == {3} and (graph != kind.adjacency(20, 0, a)).nnz == 0
        assert all((graph != other).nnz > 0 for other in first[:a])
    matchings = RandomRegular(degree=1, per_round=True)
    # Only the first round's graph must be connected
    assert set(degrees(matchings.adjacency(20, 0, round=1))) == {1}
    with pytest.raises(ConfigError, match="10 parts"):
        matchings.adjacency(20, 0)


def test_numbers_of_edges():
    nodes = 400
    edges = ErdosRenyi(probability=0.05).adjacency(nodes, 0).nnz / 2
    pairs = nodes * (nodes - 1) / 2
    assert abs(edges - 0.05 * pairs) < 5 * np.sqrt(pairs * 0.05 * 0.95)
    assert SmallWorld(degree=6, rewire=0.2).adjacency(nodes, 0).nnz / 2 == 3 * nodes
    assert set(degrees(SmallWorld(degree=6, rewire=0.0).adjacency(nodes, 0))) == {6}
    albert = BarabasiAlbert(edges=3).adjacency(nodes, 0)
    assert albert.nnz / 2 == 3 * (nodes - 3) and degrees(albert).max() > 30
    blocks = StochasticBlocks(blocks=4, p_in=0.3, p_out=0.01).adjacency(nodes, 0).toarray()
    inside = blocks[:100, :100].sum() / 2
    assert abs(inside - 0.3 * 4950) < 5 * np.sqrt(4950 * 0.21) and abs(
        blocks[:100, 100:].sum() - 300
    ) < 5 * np.sqrt(300)


def test_disconnected_graphs_are_refused_unless_asked_for():
    with pytest.raises(ConfigError, match="30 nodes falls into 3 parts") as caught:
        StochasticBlocks(blocks=3, p_in=1.0, p_out=0.0).adjacency(30, 0)
    assert caught.value.key == "topology.allow_disconnected"
    parts = StochasticBlocks(blocks=3, p_in=1.0, p_out=0.0, allow_disconnected=True).adjacency(
        31, 0
    )
    assert sorted(degrees(parts)) == [9] * 20 + [10] * 11
    assert spectral_gap(Metropolis().links(parts)) == pytest.approx(0, abs=1e-12)


def test_ten_thousand_nodes_stay_sparse():
    adjacency = RandomRegular(degree=8).adjacency(10_000, 0)
    check(adjacency, 10_000)
    links = Metropolis().links(adjacency)
    held = sum(
        part.nbytes
        for part in (
            adjacency.data,
            adjacency.indices,
            adjacency.indptr,
            links.receiver,
            links.sender,
            links.weight,
        )
    )
    assert len(links) == 90_000 and held < 4e6  # a dense matrix of float64 takes 800e6
    # A random regular graph is nearly Ramanujan (Friedman): lambda_2 of the adjacency is about 2
    # sqrt(d - 1)
    bound = 2 * np.sqrt(7)
    assert second_largest_modulus(links) == pytest.approx((1 + bound) / 9, abs=0.01)


# --- Directed graphs
# --------------------------------------------------------------------------------------------------


def sends_to(adjacency, node):
    return set(np.flatnonzero(adjacency.toarray()[:, node]).tolist())


@pytest.mark.parametrize("nodes", [2, 3, 8, 13])
def test_exponential_graph_by_hand(nodes):
    hops = [hop for hop in (1, 2, 4, 8) if hop < nodes]
    every = Exponential(rotate=False).adjacency(nodes, 0)
    for round in range(2 * len(hops)):
        adjacency = Exponential().adjacency(nodes, 0, round)
        assert adjacency.dtype == bool and adjacency.has_sorted_indices
        for node in range(nodes):
            assert sends_to(adjacency, node) == {(node + hops[round % len(hops)]) % nodes}
            assert sends_to(every, node) == {(node + hop) % nodes for hop in hops}
    assert Exponential(rotate=False).fixed and not Exponential().fixed


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 30), st.integers(1, 29), st.booleans(), st.integers(0, 3))
def test_random_receivers_are_so_many_different_others(nodes, degree, per_round, seed):
    kind = RandomOut(degree=degree, per_round=per_round)
    if degree >= nodes:
        with pytest.raises(ConfigError, match="topology.degree"):
            kind.adjacency(nodes, seed)
        return
    adjacency = kind.adjacency(nodes, seed)
    assert set(adjacency.sum(axis=0)) == {degree} and adjacency.diagonal().sum() == 0
    if not per_round:
        assert sparse.csgraph.connected_components(adjacency, connection="strong")[0] == 1


def test_random_receivers_are_chosen_with_equal_chances():
    kind, counts = RandomOut(degree=2, per_round=True), np.zeros((5, 5))
    rounds = [kind.adjacency(5, 0, round).toarray() for round in range(2000)]
    counts = np.sum(rounds, axis=0)
    assert counts.diagonal().sum() == 0
    others = counts[~np.eye(5, dtype=bool)]
    assert np.abs(others - 1000).max() < 5 * np.sqrt(2000 / 4)
    both = np.mean([graph[1, 0] & graph[2, 0] for graph in rounds])  # of six pairs one
    assert abs(both - 1 / 6) < 5 * np.sqrt(5 / 36 / 2000)
    assert not kind.fixed and (kind.adjacency(20, 0, 3) != kind.adjacency(20, 0, 3)).nnz == 0


def test_a_directed_graph_in_which_not_all_reach_all_is_refused():
    class OneWay(topology.Topology):
        directed = True

        def edge_list(self, nodes, seed):
            return np.stack([np.arange(nodes - 1), np.arange(1, nodes)], axis=1)

    with pytest.raises(ConfigError, match="falls into 5 parts"):
        OneWay().adjacency(5, 0)
    chain = OneWay(allow_disconnected=True).adjacency(3, 0)
    # Receivers in rows
    np.testing.assert_array_equal(chain.toarray(), [[0, 0, 0], [1, 0, 0], [0, 1, 0]])


# --- Spectra
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("nodes", [3, 10, 499, 5000])
def test_second_eigenvalue_of_a_ring(nodes):
    expected = (
        max(
            abs(1 + 2 * np.cos(2 * np.pi / nodes)),
            abs(1 + 2 * np.cos(2 * np.pi * (nodes // 2) / nodes)),
        )
        / 3
    )
    assert second_largest_modulus(Metropolis().links(Ring().adjacency(nodes, 0))) == pytest.approx(
        expected, abs=1e-11
    )


@pytest.mark.parametrize("kind", [*RANDOM, Star(), Torus()], ids=lambda kind: type(kind).__name__)
@pytest.mark.parametrize(
    "mixing",
    [Metropolis(), Uniform(), OwnShare(share=0.01)],
    ids=lambda mixing: type(mixing).__name__,
)
def test_the_sparse_search_finds_what_all_eigenvalues_show(monkeypatch, kind, mixing):
    links = mixing.links(kind.adjacency(300, 0))
    dense = second_largest_modulus(links)
    monkeypatch.setattr(topology, "_DENSE_NODES", 2)
    assert second_largest_modulus(links) == pytest.approx(dense, abs=1e-8)
    assert spectral_gap(links) == pytest.approx(1 - dense, abs=1e-8)


def test_spectra_at_the_ends():
    assert second_largest_modulus(Metropolis().links(Complete().adjacency(40, 0))) == pytest.approx(
        0, abs=1e-12
    )
    assert spectral_gap(Metropolis().links(Complete().adjacency(1, 0))) == 1
    # lambda_N = -1: two halves that exchange their models for ever
    for swap in (Star().adjacency(2, 0), Ring().adjacency(2000, 0)):
        assert second_largest_modulus(OwnShare(share=0.0).links(swap)) == pytest.approx(1, abs=1e-9)


# --- Refusals
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "build, key",
    [
        (lambda: Ring().adjacency(2, 0), "partition.clients"),
        (lambda: Star().adjacency(1, 0), "partition.clients"),
        (lambda: Complete().adjacency(10_000, 0), "partition.clients"),
        (lambda: ErdosRenyi(probability=0.5).adjacency(10_000, 0), "partition.clients"),
        (lambda: Torus().adjacency(22, 0), "topology.rows"),
        (lambda: Torus().adjacency(97, 0), "topology.rows"),
        (lambda: Torus(rows=4).adjacency(30, 0), "topology.rows"),
        (lambda: Torus(cols=50).adjacency(30, 0), "topology.cols"),
        (lambda: Torus(rows=2, cols=15).adjacency(30, 0), "topology.rows"),
        (lambda: SmallWorld(degree=3), "SmallWorld.degree"),
        (lambda: SmallWorld(degree=4).adjacency(4, 0), "topology.degree"),
        (lambda: BarabasiAlbert(edges=5).adjacency(5, 0), "topology.edges"),
        (lambda: StochasticBlocks(blocks=6).adjacency(5, 0), "topology.blocks"),
        (lambda: ErdosRenyi(probability=0), "ErdosRenyi.probability"),
        (lambda: ErdosRenyi(probability=0.001).adjacency(50, 0), "topology.allow_disconnected"),
        (lambda: RandomRegular(degre=4), "RandomRegular.degre"),
        (lambda: GraphFile(), "GraphFile.path"),
    ],
)
def test_refused_settings(build, key):
    with pytest.raises(ConfigError) as caught:
        build()
    assert caught.value.key == key


@pytest.mark.parametrize("path", sorted(CONF.glob("topology/[!n]*.yaml")), ids=lambda p: p.stem)
def test_configuration_repeats_the_defaults(path):
    given = yaml.safe_load(path.read_text())
    required = {name: given.pop(name) for name, value in list(given.items()) if value == "???"}
    if path.stem.endswith("per_round"):
        required["per_round"] = given.pop("per_round")
    cls = locate(given.pop("_target_"), "topology._target_")
    assert path.read_text().startswith("# ") and cls(**given, **required) == cls(**required)
