"""Who can talk to whom: graphs over the clients as sparse matrices, and the spectral gap of their
mixing matrices. Here are the undirected ones; `fedsim.network.directed_graphs` has those whose
links carry one way only."""

from __future__ import annotations

from dataclasses import KW_ONLY
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import scipy.sparse as sparse

from fedsim.component import OpenProbability, PositiveInt, Probability, component
from fedsim.errors import require
from fedsim.rng import derived_seed

if TYPE_CHECKING:
    from fedsim.network.links import Links

# A round holds several numbers per edge and direction; the complete graph reaches this at 4,472
# nodes
MAX_EDGES = 10_000_000
_DENSE_NODES = 500  # up to here all eigenvalues at once are quicker than the search for one


@component
class Topology:
    """A graph over N nodes.

    allow_disconnected: accept a graph that falls into several parts, between which nothing is ever
    exchanged. A subclass gives the edges; `fixed` is False where each round has a graph of its own;
    `directed` says that edges are (sender, receiver) and carry one way only.
    """

    directed: ClassVar[bool] = False

    _: KW_ONLY
    allow_disconnected: bool = False

    @property
    def fixed(self) -> bool:
        return True

    def adjacency(self, nodes: int, seed: int, round: int = 0) -> sparse.csr_array:
        """bool [N, N], receivers in rows and senders in columns, no diagonal, indices sorted;
        symmetric unless the graph is directed. A random graph is keyed by (seed, "topology",
        round), with round 0 where the graph is fixed. Raises ConfigError where the settings do not
        fit N, and for a disconnected graph (a directed one: where not everybody can reach
        everybody). Of graphs drawn afresh each round only an undirected one of round 0 is held to
        be connected: a later one that falls apart for a round does no harm."""
        _affordable(self, nodes, nodes)
        edges = self.round_edges(nodes, seed, round)
        edges = edges[edges[:, 0] != edges[:, 1]]
        column, row = (edges if self.directed else np.concatenate([edges, edges[:, ::-1]])).T
        matrix = sparse.coo_array(
            (np.ones(len(row), dtype=bool), (row, column)), shape=(nodes, nodes)
        ).tocsr()
        matrix.sort_indices()
        if not self.allow_disconnected and (self.fixed or (round == 0 and not self.directed)):
            parts = sparse.csgraph.connected_components(
                matrix, directed=self.directed, connection="strong", return_labels=False
            )
            accepted = (
                f"a connected graph; this one of {nodes} nodes falls into {parts} parts (true"
                " accepts it)"
            )
            require(parts == 1, "topology.allow_disconnected", False, accepted)
        return matrix

    def round_edges(self, nodes: int, seed: int, round: int) -> np.ndarray:
        """The edges of a round, as `edge_list` gives them."""
        return self.edge_list(nodes, derived_seed(seed, "topology", 0 if self.fixed else round))

    def edge_list(self, nodes: int, seed: int) -> np.ndarray:
        """The edges, int64 [E, 2], in any order and direction; repetitions and loops do not matter.
        Raises ConfigError."""
        raise NotImplementedError("a topology lists its edges")


@component
class Complete(Topology):
    """Everybody is a neighbour of everybody."""

    def edge_list(self, nodes: int, seed: int) -> np.ndarray:
        _affordable(self, nodes, nodes * (nodes - 1) / 2)
        return np.stack(np.triu_indices(nodes, 1), axis=1)


@component
class Star(Topology):
    """Node 0 is the neighbour of all others."""

    def edge_list(self, nodes: int, seed: int) -> np.ndarray:
        _enough(self, nodes, 2)
        leaves = np.arange(1, nodes)
        return np.stack([np.zeros_like(leaves), leaves], axis=1)


@component
class Ring(Topology):
    """A cycle."""

    def edge_list(self, nodes: int, seed: int) -> np.ndarray:
        _enough(self, nodes, 3)
        ids = np.arange(nodes)
        return np.stack([ids, (ids + 1) % nodes], axis=1)


@component
class Torus(Topology):
    """A grid wrapped around in both directions; node i lies in row i // cols. Without `rows` and
    `cols` the most nearly square form is taken, as long as it is at least 3 wide and at most four
    times as long as wide."""

    rows: PositiveInt | None = None
    cols: PositiveInt | None = None

    def edge_list(self, nodes: int, seed: int) -> np.ndarray:
        rows, cols = self._shape(nodes)
        grid = np.arange(nodes).reshape(rows, cols)
        ends = [
            np.stack([grid.ravel(), np.roll(grid, -1, axis).ravel()], axis=1) for axis in (0, 1)
        ]
        return np.concatenate(ends)

    def _shape(self, nodes: int) -> tuple[int, int]:
        if self.rows is None and self.cols is None:
            rows = max(divisor for divisor in range(1, int(nodes**0.5) + 1) if nodes % divisor == 0)
            accepted = (
                f"{nodes} clients have no near-square form; give rows and cols, or another number"
                " of clients"
            )
            require(rows >= 3 and nodes // rows <= 4 * rows, "topology.rows", None, accepted)
            return rows, nodes // rows
        rows = self.rows or max(nodes // (self.cols or 1), 1)
        cols = self.cols or max(nodes // rows, 1)
        name, value = ("rows", self.rows) if self.rows else ("cols", self.cols)
        fits = rows * cols == nodes and rows >= 3 and cols >= 3
        require(
            fits,
            f"topology.{name}",
            value,
            f"rows and cols of at least 3 each whose product is the number of clients, {nodes}",
        )
        return rows, cols


@component
class RandomRegular(Topology):
    """Every node has `degree` neighbours, all such graphs (nearly) equally likely; `per_round`
    draws a fresh graph each round (Epidemic Learning's oracle, De Vos et al. 2023)."""

    degree: PositiveInt = 4
    per_round: bool = False

    @property
    def fixed(self) -> bool:
        return not self.per_round

    def edge_list(self, nodes: int, seed: int) -> np.ndarray:
        require(
            self.degree < nodes,
            "topology.degree",
            self.degree,
            f"less than the number of clients, {nodes}",
        )
        even = self.degree * nodes % 2 == 0
        require(
            even,
            "topology.degree",
            self.degree,
            f"an even degree for the odd number of clients {nodes}",
        )
        _affordable(self, nodes, self.degree * nodes / 2)
        import networkx

        # Dense ones take networkx minutes; their complements are quick
        sparser = min(self.degree, nodes - 1 - self.degree)
        edges = _edge_array(networkx.random_regular_graph(sparser, nodes, seed=seed))
        if sparser == self.degree:
            return edges
        missing = np.zeros((nodes, nodes), dtype=bool)
        missing[edges[:, 0], edges[:, 1]] = missing[edges[:, 1], edges[:, 0]] = True
        return np.argwhere(np.triu(~missing, 1))


@component
class ErdosRenyi(Topology):
    """Each pair is joined with `probability`, independently; connected with high probability above
    ln(N) / N."""

    probability: OpenProbability = 0.1

    def edge_list(self, nodes: int, seed: int) -> np.ndarray:
        _affordable(self, nodes, self.probability * nodes * (nodes - 1) / 2)
        import networkx

        return _edge_array(
            networkx.fast_gnp_random_graph(nodes, _chance(self.probability), seed=seed)
        )


@component
class SmallWorld(Topology):
    """A ring in which each node is joined to its `degree` nearest nodes (an even number) and each
    edge then moved with probability `rewire` (Watts and Strogatz 1998)."""

    degree: PositiveInt = 4
    rewire: Probability = 0.1

    def __post_init__(self) -> None:
        require(self.degree % 2 == 0, "SmallWorld.degree", self.degree, "an even number")

    def edge_list(self, nodes: int, seed: int) -> np.ndarray:
        require(
            self.degree < nodes,
            "topology.degree",
            self.degree,
            f"less than the number of clients, {nodes}",
        )
        _affordable(self, nodes, self.degree * nodes / 2)
        import networkx

        return _edge_array(
            networkx.watts_strogatz_graph(nodes, self.degree, self.rewire, seed=seed)
        )


@component
class BarabasiAlbert(Topology):
    """Scale-free: nodes come one by one, each joined by `edges` edges to earlier ones in proportion
    to their degrees."""

    edges: PositiveInt = 2

    def edge_list(self, nodes: int, seed: int) -> np.ndarray:
        require(
            self.edges < nodes,
            "topology.edges",
            self.edges,
            f"less than the number of clients, {nodes}",
        )
        _affordable(self, nodes, self.edges * nodes)
        import networkx

        return _edge_array(networkx.barabasi_albert_graph(nodes, self.edges, seed=seed))


@component
class StochasticBlocks(Topology):
    """`blocks` communities of equal size (give or take one) of consecutive nodes; pairs are joined
    with probability `p_in` inside a community and `p_out` between two."""

    blocks: PositiveInt = 2
    p_in: Probability = 0.3
    p_out: Probability = 0.02

    def edge_list(self, nodes: int, seed: int) -> np.ndarray:
        require(
            self.blocks <= nodes,
            "topology.blocks",
            self.blocks,
            f"at most the number of clients, {nodes}",
        )
        _affordable(self, nodes, self.blocks**2 / 2)  # networkx looks at each pair of blocks
        sizes = [
            nodes // self.blocks + (block < nodes % self.blocks) for block in range(self.blocks)
        ]
        inside = sum(size * (size - 1) / 2 for size in sizes)
        _affordable(
            self, nodes, self.p_in * inside + self.p_out * (nodes * (nodes - 1) / 2 - inside)
        )
        import networkx

        probabilities = [
            [_chance(self.p_in if a == b else self.p_out) for b in range(self.blocks)]
            for a in range(self.blocks)
        ]
        return _edge_array(
            networkx.stochastic_block_model(sizes, probabilities, seed=seed, sparse=True)
        )


@component
class GraphFile(Topology):
    """A graph from a file, told by its ending, each also with .gz: edge list (.txt, .csv,
    .edgelist), .gml, .graphml, MatrixMarket (.mtx).

    Nodes of an edge list are numbered in sorted order (as integers if all are), others in the order
    of the file. Directions, weights, loops and repetitions are dropped. The graph must have as many
    nodes as there are clients.
    """

    path: str

    def edge_list(self, nodes: int, seed: int) -> np.ndarray:
        from fedsim.network.graph_files import read_graph

        found, edges = read_graph(self.path)
        accepted = (
            f"a graph with as many nodes as there are clients, {nodes}; this one has {found} nodes"
            f" (partition.clients={found} fits)"
        )
        require(found == nodes, "topology.path", self.path, accepted)
        return edges


def second_largest_modulus(links: Links) -> float:
    """max(|lambda_2|, |lambda_N|) of the nominal mixing matrix W [N, N]: the factor by which one
        round of plain averaging shrinks the
    distance from consensus (symmetric W), at worst. 0 for one node. Rows or columns of W sum to 1.
    """
    nodes = links.receivers
    matrix = sparse.csr_array((links.weight, (links.receiver, links.sender)), shape=(nodes, nodes))
    symmetric = abs(matrix - matrix.T).max() < 1e-12
    if nodes <= _DENSE_NODES:
        eigenvalues = (np.linalg.eigvalsh if symmetric else np.linalg.eigvals)(matrix.toarray())
        return float(np.sort(np.abs(eigenvalues))[-2]) if nodes > 1 else 0.0
    from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigs, eigsh

    search = eigsh if symmetric else eigs
    start = np.random.Generator(np.random.Philox(0)).standard_normal(nodes)
    # W - 11'/N has the eigenvalues of W with one eigenvalue 1 replaced by 0 (Brauer's theorem; 1 is
    # a right or left eigenvector of W)
    deflated = LinearOperator(
        matrix.shape, matvec=lambda x: matrix @ x - x.sum() / nodes, dtype=np.float64
    )
    try:
        found = search(
            deflated,
            k=2,
            which="LM",
            v0=start,
            ncv=60,
            maxiter=20,
            tol=1e-10,
            return_eigenvectors=False,
        )
        return float(np.abs(found).max())
    except ArpackNoConvergence:
        # Eigenvalues crowd at 1, as on a long ring; such graphs have few cuts to cross, so
        # factorising W - I is cheap
        pass

    def nearest(point: float, count: int) -> np.ndarray:
        return np.sort(
            np.abs(
                search(matrix.tocsc(), k=count, sigma=point, v0=start, return_eigenvectors=False)
            )
        )

    upper = float(nearest(1 + 1e-9, 3)[-2])
    # Gershgorin: lambda_N is at least minus this
    lower = 1 - 2 * float(links.weight[links.own].min())
    return upper if lower <= upper else max(upper, float(nearest(-1 - 1e-9, 1)[-1]))


def spectral_gap(links: Links) -> float:
    """1 - max(|lambda_2|, |lambda_N|) of the nominal mixing matrix; 0 for a disconnected graph."""
    return 1.0 - second_largest_modulus(links)


def _chance(probability: float) -> float:
    """The probability, or 0 where one less it is 1, by whose logarithm networkx divides."""
    return probability if 1 - probability < 1 else 0.0


def _edge_array(graph: object) -> np.ndarray:
    edges = list(graph.edges())  # type: ignore[attr-defined]
    return np.array(edges, dtype=np.int64).reshape(-1, 2)


def _enough(topology: Topology, nodes: int, least: int) -> None:
    require(
        nodes >= least,
        "partition.clients",
        nodes,
        f"at least {least} for the topology {type(topology).__name__}",
    )


def _affordable(topology: Topology, nodes: int, edges: float) -> None:
    accepted = (
        f"{type(topology).__name__} would have about {edges:.3g} edges; at most {MAX_EDGES:,} are"
        " accepted, so take a sparser graph"
    )
    require(edges <= MAX_EDGES, "partition.clients", nodes, accepted)
