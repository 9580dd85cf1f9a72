"""Participation traces, tables of probabilities, and graphs from files."""

from __future__ import annotations

import gzip
import io
from pathlib import Path
from typing import Any

import networkx
import numpy as np
import pandas
import scipy.io
from hypothesis import strategies as st

from fedsim.network.graph_files import read_graph
from fedsim.network.topology import GraphFile
from fedsim.participation import Bernoulli, Population, Trace
from tests.fuzz.damage import damaged_files
from tests.fuzz.harness import Failure, Target
from tests.fuzz.values import TOKENS

CLIENTS = 6


def _parquet(table: pandas.DataFrame) -> bytes:
    buffer = io.BytesIO()
    table.to_parquet(buffer)
    return buffer.getvalue()


def _tables(table: pandas.DataFrame) -> dict[str, bytes]:
    text = table.to_csv(index=False).encode()
    return {
        "table.csv": text,
        "table.csv.gz": gzip.compress(text, mtime=0),
        "table.parquet": _parquet(table),
    }


def _traces() -> dict[str, bytes]:
    return _tables(
        pandas.DataFrame(
            {"round": [0, 0, 1, 3, 3, 3], "client": [0, 5, 2, 1, 3, 4], "note": list("abcdef")}
        )
    )


def _probabilities() -> dict[str, bytes]:
    return _tables(
        pandas.DataFrame(
            {"client": [3, 1, 0, 2, 5, 4], "probability": [0.5, 0.1, 1, 0, 0.25, 0.75]}
        )
    )


def follow(participation: Any) -> None:
    """Bind to six clients and draw some rounds."""
    pattern = participation.bind(Population(CLIENTS, np.arange(CLIENTS) != 4), 0)
    for round in (0, 1, 2, 7, 300):
        cohort = pattern.cohort(round)
        if (
            cohort.dtype != np.int64
            or not set(cohort.tolist()) <= {0, 1, 2, 3, 5}
            or sorted(set(cohort.tolist())) != cohort.tolist()
        ):
            raise Failure("gives a cohort that is none")
    if not ((pattern.probabilities >= 0) & (pattern.probabilities <= 1)).all():
        raise Failure("gives probabilities that are none")


def _read_all(folder: Path, make: Any) -> None:
    for name in ("table.csv", "table.csv.gz", "table.parquet"):
        follow(make(str(folder / name)))


_cell = st.sampled_from([*TOKENS, *"012345"]).map(
    lambda text: text.replace("\n", " ")
) | st.integers(-1, 7).map(str)
_rows = st.lists(st.lists(_cell, max_size=4).map(",".join), max_size=8)


def _put_table(case: tuple[str, list[str]], folder: Path) -> None:
    (folder / "table.csv").write_text("\n".join([case[0], *case[1]]), errors="surrogatepass")


_graph_kinds = (
    "g.txt",
    "g.csv",
    "g.edgelist",
    "g.gml",
    "g.graphml",
    "g.mtx",
    "dense.mtx",
    "g.gml.gz",
    "g.mtx.gz",
)


def _graphs() -> dict[str, bytes]:
    graph = networkx.cycle_graph(CLIENTS)
    text = "# a ring\n" + "\n".join(f"{a} {b}" for a, b in graph.edges()) + "\n"
    files = {
        "g.txt": text.encode(),
        "g.edgelist": text.encode(),
        "g.csv": text.replace(" ", ",").encode(),
    }
    files["g.gml"] = "\n".join(networkx.generate_gml(graph)).encode()
    files["g.graphml"] = "\n".join(networkx.generate_graphml(graph)).encode()
    for name, matrix in (
        ("g.mtx", networkx.to_scipy_sparse_array(graph, dtype=float)),
        ("dense.mtx", networkx.to_numpy_array(graph)),
    ):
        buffer = io.BytesIO()
        scipy.io.mmwrite(buffer, matrix)
        files[name] = buffer.getvalue()
    return files | {
        f"{name}.gz": gzip.compress(files[name], mtime=0) for name in ("g.gml", "g.mtx")
    }


def _read_graph(path: Path) -> None:
    adjacency = GraphFile(str(path), allow_disconnected=True).adjacency(CLIENTS, 0)
    if (
        adjacency.shape != (CLIENTS, CLIENTS)
        or (adjacency != adjacency.T).nnz
        or adjacency.diagonal().any()
    ):
        raise Failure("gives a matrix that is no graph")


def _read_any(case: tuple[str, str], folder: Path) -> None:
    """A graph of any number of nodes."""
    nodes, edges = read_graph(str(folder / f"g{case[0]}"))
    if (
        edges.shape != (len(edges), 2)
        or not 0 <= edges.min(initial=0) <= edges.max(initial=0) < nodes
    ):
        raise Failure("gives edges that are none")


def _read_graphs(folder: Path) -> None:
    for name in _graph_kinds:
        _read_graph(folder / name)


_edge_lines = st.lists(st.lists(_cell, max_size=3).map(" ".join), max_size=8).map("\n".join)
_sizes = st.sampled_from(
    ["6", "0", "-1", "7", "100000", "3000000000", "1000000000000", "1" + "0" * 30, "x", ""]
)
_matrices = st.builds(
    lambda form, kind, symmetry, sizes, body: (
        ".mtx",
        f"%%MatrixMarket matrix {form} {kind} {symmetry}\n{' '.join(sizes)}\n{body}",
    ),
    st.sampled_from(["coordinate", "array", "x"]),
    st.sampled_from(["real", "pattern", "complex", "integer", "unsigned-integer", "x"]),
    st.sampled_from(["general", "symmetric", "skew-symmetric", "hermitian", "x"]),
    st.lists(_sizes, min_size=1, max_size=4),
    _edge_lines,
)
_ENTITIES = "".join(
    f'<!ENTITY {b} "{f"&{a};" * 10}">' for a, b in zip("abcdefghij", "bcdefghijk", strict=True)
)
_bombs = st.sampled_from(
    [
        (".graphml", f'<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa">{_ENTITIES}]><graphml>&k;</graphml>'),
        (
            ".graphml",
            (
                '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><graphml><graph><node'
                ' id="&a;"/></graph></graphml>'
            ),
        ),
        (".graphml", "<graphml>" * 100_000),
        (".gml", "graph [ " * 100_000),
        (".gml", 'graph [ node [ id 0 label "&#99999999999;" ] ]'),
        (".gml", "graph [ node [ id 1" + "0" * 5000 + " ] ]"),
        (
            ".gml",
            (
                "graph [ node [ id 0 ] node [ id 1 ] edge [ source 0 target 1 key 1 ] edge [ source"
                " 0 target 1 key 1 ] ]"
            ),
        ),
        (".csv", '"0,1\n' * 50_000),
        (".csv", "0," + "1" * 200_000),
        (".txt", "1 " * 200_000),
    ]
)
_texts = (
    st.tuples(
        st.sampled_from([".txt", ".csv", ".gml", ".graphml", ".json", ".gz", ""]), _edge_lines
    )
    | _matrices
    | _bombs
)


def _put_text(case: tuple[str, str], folder: Path) -> None:
    (folder / f"g{case[0]}").write_text(case[1], errors="surrogatepass")


TARGETS = [
    damaged_files(
        "traces",
        _traces,
        lambda folder: _read_all(folder, lambda file: Trace(file=file)),
        text=True,
    ),
    damaged_files(
        "probabilities",
        _probabilities,
        lambda folder: _read_all(folder, lambda file: Bernoulli(given=file)),
        text=True,
    ),
    Target(
        "tables of any cells",
        st.tuples(
            st.sampled_from(
                ["round,client", "client,round", "round,client,x", "round,round,client", "", "a,b"]
            ),
            _rows,
        ),
        lambda case, folder: follow(Trace(file=str(folder / "table.csv"), repeat=True)),
        _put_table,
    ),
    damaged_files("graphs", _graphs, _read_graphs, text=True, share=2),
    Target("texts as graphs", _texts, _read_any, _put_text),
]
