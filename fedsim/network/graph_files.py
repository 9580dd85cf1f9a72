"""Graphs from files: edge lists, GML, GraphML and MatrixMarket, plain or gzipped, with every fault
turned into one line."""

from __future__ import annotations

import csv
import os
import re
from pathlib import Path

import numpy as np

from fedsim.errors import ConfigError, reason, require
from fedsim.reading import OBJECTS, read_unpacked

KEY = "topology.path"
_COMMENT = ("#", "%")
_HEADERS = ({"source", "target"}, {"from", "to"}, {"src", "dst"}, {"node1", "node2"})


def read_graph(path: str) -> tuple[int, np.ndarray]:
    """(number of nodes, edges int64 [E, 2]) of the graph in `path`; see `topology.GraphFile` for
    formats and numbering. ConfigError names what is wrong with a file that is missing, damaged, of
    another kind, or without a node."""
    name = Path(os.path.expanduser(path))
    suffix = (name.with_suffix("") if name.suffix == ".gz" else name).suffix.lower()
    if suffix not in _READERS:
        raise ConfigError(
            KEY,
            path,
            f"a file that ends in one of {', '.join(_READERS)}, each also followed by .gz",
        )
    try:
        nodes, edges = _READERS[suffix](read_unpacked(name, OBJECTS).decode("utf-8"))
    # networkx, scipy, zlib and the XML parser raise a dozen kinds on a damaged file
    except Exception as error:
        raise ConfigError(KEY, path, f"a readable graph file ({reason(error)})") from None
    require(nodes > 0, KEY, path, "a graph with at least one node")
    return nodes, edges


def _edge_list(text: str) -> tuple[int, np.ndarray]:
    pairs = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith(_COMMENT):
            continue
        fields = next(csv.reader([line], skipinitialspace=True)) if "," in line else line.split()
        if len(fields) < 2 or not fields[0] or not fields[1]:
            raise ValueError(f"line {number} holds no pair of nodes")
        pairs.append(fields[:2])
    if pairs and _is_header(pairs):
        pairs = pairs[1:]
    labels = np.array(pairs, dtype=str).reshape(-1, 2)
    try:
        labels = labels.astype(np.int64)
    except (ValueError, OverflowError):
        pass  # names; sorted as text
    names, position = np.unique(labels, return_inverse=True)
    return len(names), position.reshape(-1, 2).astype(np.int64)


def _is_header(pairs: list[list[str]]) -> bool:
    def whole(field: str) -> bool:
        return re.fullmatch(r"[+-]?\d+", field) is not None

    if {field.lower() for field in pairs[0]} in _HEADERS:
        return True
    return (
        len(pairs) > 1
        and not any(map(whole, pairs[0]))
        and all(whole(field) for pair in pairs[1:] for field in pair)
    )


def _gml(text: str) -> tuple[int, np.ndarray]:
    import networkx

    # networkx refuses repeated edges unless the file says that it has some
    return _numbered(
        networkx.parse_gml(
            re.sub(r"(?m)^(\s*graph\s*\[)", r"\1\nmultigraph 1\n", text, count=1), label="id"
        )
    )


def _graphml(text: str) -> tuple[int, np.ndarray]:
    import networkx

    return _numbered(networkx.parse_graphml(text))


def _numbered(graph: object) -> tuple[int, np.ndarray]:
    number = {node: index for index, node in enumerate(graph.nodes())}  # type: ignore[attr-defined]
    pairs = graph.edges()  # type: ignore[attr-defined]
    edges = [(number[pair[0]], number[pair[1]]) for pair in pairs]
    return len(number), np.array(edges, dtype=np.int64).reshape(-1, 2)


def _matrix_market(text: str) -> tuple[int, np.ndarray]:
    """Read here: on some damaged files scipy's reader ends the process (1.17), or takes the memory
    that a header asks for."""
    lines = [line for line in text.splitlines() if line.strip()]
    banner = lines[0].lower().split() if lines else []
    if (
        len(banner) != 5
        or banner[0] != "%%matrixmarket"
        or any(word not in known for word, known in zip(banner[1:], _BANNER, strict=True))
    ):
        raise ValueError(
            "it does not begin with %%MatrixMarket matrix, coordinate or array, the kind of its"
            " entries and their symmetry"
        )
    _, _, form, kind, symmetry = banner
    sizes, *body = [line.split() for line in lines[1:] if not line.startswith("%")] or [[]]
    rows, columns, *entries = (int(size) for size in sizes)
    if rows != columns:
        raise ValueError(f"the matrix is {rows} x {columns}, not square")
    place = 2 if form == "coordinate" else 0  # numbers that say where an entry is
    width = place + _BANNER[2][kind]
    stored = {"general": rows**2, "skew-symmetric": rows * (rows - 1) // 2}.get(
        symmetry, rows * (rows + 1) // 2
    )
    promised = entries if form == "coordinate" else [stored]
    if promised != [len(body)] or any(len(line) != width for line in body):
        raise ValueError(
            f"the header promises {promised} lines of {width} numbers and there are {len(body)}"
            " lines"
        )
    table = np.array(body, dtype=str).reshape(-1, width)
    values = table[:, place:].astype(np.float64)
    if not np.isfinite(values).all():
        raise ValueError("an entry is not finite")
    if place:
        edges = table[:, :2].astype(np.int64) - 1
    elif symmetry == "general":
        edges = np.stack(np.divmod(np.arange(stored), rows), axis=1)
    else:  # the lower half, column by column
        edges = np.stack(np.triu_indices(rows, int(symmetry == "skew-symmetric")), axis=1)
    if edges.size and not 0 <= edges.min() <= edges.max() < rows:
        raise ValueError(f"an entry is outside of the {rows} rows and columns")
    return rows, edges[(values != 0).any(axis=1) | (kind == "pattern")]


_BANNER = (  # the words after %%MatrixMarket; a kind of entries with the numbers of each
    ("matrix",),
    ("coordinate", "array"),
    {"pattern": 0, "integer": 1, "unsigned-integer": 1, "real": 1, "double": 1, "complex": 2},
    ("general", "symmetric", "skew-symmetric", "hermitian"),
)
_READERS = {
    ".txt": _edge_list,
    ".csv": _edge_list,
    ".edgelist": _edge_list,
    ".gml": _gml,
    ".graphml": _graphml,
    ".mtx": _matrix_market,
}
