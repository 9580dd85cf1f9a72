"""Metric rows: {"round", "clock" (seconds), "scope", "node" (-1: none), "metric", "value"}; in
memory, as JSON lines and as Parquet.

    scopes   server | nodes (aggregates over nodes) | mean_model | node | client | run
    metrics  loss, accuracy, objective, consensus_distance, participants, bytes_up, bytes_down,
             seconds, rounds_to_target (scope nodes: accuracy_mean, accuracy_min, ...)

bytes_up, bytes_down and seconds are totals since the run began.
"""

from __future__ import annotations

import hashlib
import io
import json
from array import array
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fedsim.errors import ConfigError
from fedsim.parquet import read_columns
from fedsim.reading import TooLargeError, raised
from fedsim.recording.files import finite, why
from fedsim.recording.no_links import LinkError, read_inside

if TYPE_CHECKING:
    import pandas as pd

_TYPES = {
    "round": "int64",
    "clock": "float64",
    "scope": "str",
    "node": "int64",
    "metric": "str",
    "value": "float64",
}
COLUMNS = tuple(_TYPES)
# Bytes of metric rows, some ten million of them; a few times as much memory is taken on the way
MOST_ROWS = 1 << 30


class Rows:
    """Metric rows held by column: a run over many nodes has millions of them."""

    def __init__(self) -> None:
        self.round, self.node = array("q"), array("q")
        self.clock, self.value = array("d"), array("d")
        self.scope: list[str] = []
        self.metric: list[str] = []

    def __len__(self) -> int:
        return len(self.round)

    def append(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Add one row (clock and node may be left out: 0 and -1) and return it in plain types.
        Raises KeyError for a wrong name."""
        unknown = set(row) - set(COLUMNS)
        if unknown:
            raise KeyError(
                f"metric row has unknown names {sorted(unknown)}; a row has {', '.join(COLUMNS)}"
            )
        clean = {
            "round": int(row["round"]),
            "clock": float(row.get("clock", 0.0)),
            "scope": str(row["scope"]),
            "node": int(row.get("node", -1)),
            "metric": str(row["metric"]),
            "value": float(row["value"]),
        }
        for name, part in clean.items():
            getattr(self, name).append(part)
        return clean

    def columns(self) -> dict[str, np.ndarray | list[str]]:
        """Copies of the columns."""
        numbers = {
            name: np.array(getattr(self, name)) for name in ("round", "clock", "node", "value")
        }
        texts = {name: list(getattr(self, name)) for name in ("scope", "metric")}
        return {name: numbers[name] if name in numbers else texts[name] for name in COLUMNS}

    def table(self) -> pd.DataFrame:
        """All rows as one tidy table."""
        import pandas as pd

        return pd.DataFrame(self.columns()).astype(_TYPES)

    def sha256(self) -> str:
        """SHA-256 of all rows in order, times aside: `clock`, and the metrics whose name starts
        with "seconds"."""
        digest = hashlib.sha256()
        for round, scope, node, metric, value in zip(
            self.round, self.scope, self.node, self.metric, self.value, strict=True
        ):
            if not metric.startswith("seconds"):
                digest.update(f"{round} {scope} {node} {metric} {value.hex()}\n".encode())
        return digest.hexdigest()

    def parquet(self) -> bytes:
        """All rows as a Parquet file."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        types = {"scope": pa.string(), "metric": pa.string()}
        table = pa.table(
            {name: pa.array(part, types.get(name)) for name, part in self.columns().items()}
        )
        buffer = io.BytesIO()
        pq.write_table(table, buffer)
        return buffer.getvalue()


def json_line(row: Mapping[str, Any]) -> str:
    """One plain row as a line of strictly valid JSON."""
    return (
        json.dumps(
            {**row, "clock": finite(row["clock"]), "value": finite(row["value"])}, allow_nan=False
        )
        + "\n"
    )


def read_table(folder: Path) -> pd.DataFrame:
    """The rows of a run folder: metrics.parquet if it is there and whole, else metrics.jsonl, its
    last line possibly cut off.

    Raises ConfigError if neither can be read.
    """
    parquet, lines = folder / "metrics.parquet", folder / "metrics.jsonl"
    if parquet.is_file():
        try:
            return _read_parquet(parquet)
        except (LinkError, TooLargeError) as error:
            raise ConfigError(
                "runs", str(parquet), f"a Parquet file of metric rows ({why(error)})"
            ) from None
        except ConfigError:
            if not lines.is_file():
                raise
    return _read_lines(lines).table()


def _read_parquet(path: Path) -> pd.DataFrame:
    import pandas as pd
    import pyarrow as pa

    try:
        found = read_columns(read_inside(path, raised(MOST_ROWS)), COLUMNS, raised(MOST_ROWS))
        return pd.DataFrame({name: found[name] for name in COLUMNS}).astype(_TYPES)
    except (LinkError, TooLargeError):
        raise
    except (OSError, KeyError, TypeError, ValueError, pa.ArrowException) as error:
        raise ConfigError(
            "runs", str(path), f"a whole Parquet file of metric rows ({error})"
        ) from None


def _read_lines(path: Path) -> Rows:
    try:
        content = read_inside(path, raised(MOST_ROWS))
    except OSError as error:
        raise ConfigError(
            "runs", str(path), f"a readable file of metric rows ({why(error)})"
        ) from None
    return parse_lines(content, path)


def parse_lines(content: bytes, path: Path) -> Rows:
    """The rows of JSON lines, the last one possibly cut off. path: where they are from, for the
    ConfigError where they cannot be read."""
    rows, lines = Rows(), content.split(b"\n")
    for number, line in enumerate(lines):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            value = row["value"]
            if not all(-(2**63) <= int(row.get(name, 0)) < 2**63 for name in ("round", "node")):
                raise ValueError("a number out of range")
            # float() reads "NaN" and "Infinity" too
            rows.append({**row, "value": float("nan") if value is None else value})
        except (
            AttributeError,
            KeyError,
            TypeError,
            ValueError,
            OverflowError,
            RecursionError,
        ) as error:
            # The last line, if cut off, has no line end; anywhere else the file is damaged
            if number < len(lines) - 1:
                raise ConfigError(
                    "runs",
                    f"{path}:{number + 1}",
                    f"a line of JSON with {', '.join(COLUMNS)} ({error})",
                ) from None
    return rows
