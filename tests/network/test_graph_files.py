"""Graph files: every format, numbering, real graphs, and refusals."""

import gzip

import networkx
import numpy as np
import pytest
import scipy.io
import scipy.sparse as sparse

from fedsim.errors import ConfigError
from fedsim.network.topology import GraphFile
from tests.paths import DATA

GRAPHS = DATA / "graphs"
SQUARE = "10 2\n2 9\n9 33\n33 10\n"  # a 4-cycle, nodes 2 9 10 33


def write(tmp_path, name, text):
    path = tmp_path / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return str(path)


@pytest.mark.parametrize(
    "name, text",
    [
        ("g.txt", "# comment\n% another\n\n" + SQUARE),
        ("g.edgelist", SQUARE.replace("\n", " {'weight': 3}\n")),
        ("g.txt.gz", SQUARE.replace(" ", "\t")),
        ("g.csv", "source,target\n" + SQUARE.replace(" ", ", ")),
        ("g.csv", "a,b,distance\n" + SQUARE.replace(" ", ",").replace("\n", ",0.5\n")),
        ("g.txt", SQUARE + "2 10\n2 2\n9 2\n10 2 7\n"),  # repeated, reversed, a loop
        (
            "g.csv",
            SQUARE.replace(" ", ",")
            .replace("10", '"b, x"')
            .replace("9", "a")
            .replace("2", "A")
            .replace("33", "c"),
        ),
    ],
)
def test_edge_lists(tmp_path, name, text):
    adjacency = GraphFile(write(tmp_path, name, text)).adjacency(4, 0)
    # sorted nodes: 2 9 10 33 (numbers), A a "b, x" c (names); edges 2-10, 2-9, 9-33, 33-10
    np.testing.assert_array_equal(
        adjacency.toarray(), np.array([[0, 1, 1, 0], [1, 0, 0, 1], [1, 0, 0, 1], [0, 1, 1, 0]]) > 0
    )


@pytest.mark.parametrize(
    "suffix", [".gml", ".graphml", ".mtx", ".gml.gz", ".graphml.gz", ".mtx.gz"]
)
def test_graphs_come_back_from_files(tmp_path, suffix):
    graph = networkx.relabel_nodes(
        networkx.gnp_random_graph(30, 0.2, seed=1), {i: f"n{(i * 7) % 30}" for i in range(30)}
    )
    matrix = networkx.to_scipy_sparse_array(graph, dtype=float)  # in the order of the document
    path = tmp_path / ("graph" + suffix)
    if ".gml" in suffix:
        networkx.write_gml(graph, path)
    elif ".graphml" in suffix:
        networkx.write_graphml(graph, path)
    else:
        plain = tmp_path / "graph.mtx"
        scipy.io.mmwrite(plain, matrix, symmetry="symmetric")
        path.write_bytes(
            gzip.compress(plain.read_bytes()) if suffix.endswith("gz") else plain.read_bytes()
        )
    np.testing.assert_array_equal(
        GraphFile(str(path), allow_disconnected=True).adjacency(30, 0).toarray(),
        matrix.toarray() > 0,
    )


def test_directions_and_repetitions_in_gml_are_dropped(tmp_path):
    edges = "".join(
        f" edge [ source {a} target {b} ]\n" for a, b in [(5, 7), (7, 5), (5, 7), (7, 9), (9, 9)]
    )
    for directed in (0, 1):
        path = write(
            tmp_path,
            "g.gml",
            f"graph [ directed {directed}\n node [ id 9 ] node [ id 5 ] node [ id 7 ]\n{edges}]\n",
        )
        np.testing.assert_array_equal(
            GraphFile(path).adjacency(3, 0).toarray(),
            np.array([[0, 0, 1], [0, 0, 1], [1, 1, 0]]) > 0,
        )


@pytest.mark.parametrize(
    "name, nodes, edges, parts",
    [
        ("dolphins.gml", 62, 159, 1),
        ("soc-wiki-Vote.mtx", 889, 2914, 1),
        ("facebook_combined.txt.gz", 4039, 88234, 1),
        ("wiki-Vote.txt.gz", 7115, 100762, 24),
        ("email-Eu-core.txt.gz", 1005, 16064, 20),
        ("topologies/ebone.gml", 87, 161, 1),
    ],
)
def test_real_graphs(name, nodes, edges, parts):
    path = GRAPHS / name
    if not path.exists():
        pytest.skip(f"{path} is absent (set FEDSIM_DATA)")
    adjacency = GraphFile(str(path), allow_disconnected=True).adjacency(nodes, 0)
    assert (
        (adjacency != adjacency.T).nnz == 0
        and adjacency.diagonal().sum() == 0
        and adjacency.nnz == 2 * edges
    )
    assert sparse.csgraph.connected_components(adjacency)[0] == parts
    if parts > 1:
        with pytest.raises(ConfigError, match=f"falls into {parts} parts"):
            GraphFile(str(path)).adjacency(nodes, 0)


@pytest.mark.parametrize(
    "name, text, says",
    [
        ("absent.txt", None, "No such file"),
        ("g.json", "{}", "ends in one of .txt"),
        ("g.txt", SQUARE + "7\n", "line 5"),
        ("g.txt", "", "at least one node"),
        ("g.txt", SQUARE + "9 11\n", "clients, 4; this one has 5 nodes"),
        ("g.gml", "graph [ node [ id 0 ] node [", "readable"),
        ("g.gml", "graph [ node [ id 0 ] edge [ source 0 target 4 ] ]", "readable"),
        ("g.graphml", "<graphml><graph", "readable"),
        ("g.mtx", "%%MatrixMarket matrix coordinate pattern symmetric\n4 4 3\n2 1\n", "readable"),
        (
            "g.mtx",
            "%%MatrixMarket matrix coordinate pattern general\n4 3 1\n2 1\n",
            "4 x 3, not square",
        ),
        ("g.mtx", "%%MatrixMarket matrix coordinate real general\n4 4 1\n2 1 nan\n", "finite"),
    ],
)
def test_refused_files(tmp_path, name, text, says):
    path = str(tmp_path / name) if text is None else write(tmp_path, name, text)
    with pytest.raises(ConfigError, match=says) as caught:
        GraphFile(path).adjacency(4, 0)
    assert caught.value.key == "topology.path" and "\n" not in str(caught.value)


def test_refused_damaged_bytes(tmp_path):
    whole = gzip.compress(SQUARE.encode() * 50)
    for name, raw in (
        ("g.txt.gz", whole[: len(whole) // 2]),
        ("g.txt.gz", b"plain"),
        ("g.txt", b"1 \xff\xfe\n"),
    ):
        (tmp_path / name).write_bytes(raw)
        with pytest.raises(ConfigError, match="topology.path"):
            GraphFile(str(tmp_path / name)).adjacency(4, 0)
