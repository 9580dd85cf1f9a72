"""Columns of a user's CSV or Parquet file, with every fault turned into one line."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np

from fedsim.errors import ConfigError, reason, require
from fedsim.parquet import read_columns
from fedsim.reading import ARRAYS, TABLE, bound_of, read_unpacked


def read_table(path: str, key: str, columns: tuple[str, ...]) -> list[np.ndarray]:
    """The named columns of a CSV (also .csv.gz) or Parquet file: float64 [rows] each. ConfigError
    under `key` where the file cannot be read, a column is missing or holds anything but numbers, or
    there is no row."""
    import pandas  # slow to import

    accepted = f"a readable CSV or Parquet file with columns {', '.join(columns)}"
    name = Path(os.path.expanduser(path))
    try:
        if name.suffix in (".parquet", ".pq"):
            table = pandas.DataFrame(read_columns(read_unpacked(name), columns, bound_of(ARRAYS)))
        else:  # read here, since pandas would also follow web addresses
            table = pandas.read_csv(io.BytesIO(read_unpacked(name, TABLE)), skipinitialspace=True)
    except Exception as error:  # pandas and pyarrow raise a dozen kinds on a damaged file
        raise ConfigError(key, path, f"{accepted} ({reason(error)})") from None
    missing = [column for column in columns if column not in table.columns]
    require(not missing, key, path, f"{accepted}; {', '.join(missing)} is missing")
    require(len(table) > 0, key, path, f"{accepted} and at least one row")
    try:
        values = [table[column].to_numpy(dtype=np.float64) for column in columns]
    except (TypeError, ValueError):
        raise ConfigError(key, path, f"{accepted}, all of them numbers") from None
    require(
        all(np.isfinite(column).all() for column in values),
        key,
        path,
        f"{accepted}, without empty or infinite entries",
    )
    return values


def integers(
    values: np.ndarray, key: str, path: str, column: str, below: int | None = None
) -> np.ndarray:
    """The values as int64 if all are whole, at least 0 and less than `below`; ConfigError that
    shows the first that is not, otherwise."""
    limit = 2**53 if below is None else below
    wrong = (values != np.floor(values)) | (values < 0) | (values >= limit)
    accepted = "whole numbers from 0" + ("" if below is None else f" to {below - 1}")
    if wrong.any():
        raise ConfigError(
            key, path, f"a table whose column {column} holds {accepted}, not {values[wrong][0]:g}"
        )
    return values.astype(np.int64)
