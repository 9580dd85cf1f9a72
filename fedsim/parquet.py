"""Parquet files that somebody else has written: what one declares is looked at before it is read,
since a few bytes can stand for millions of rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fedsim.reading import check_size

_CELL = 16  # bytes of a number or of a reference, once here and once on its way
# Other encodings can say a long text by a few bytes
_PLAIN = {"PLAIN", "RLE", "BIT_PACKED", "PLAIN_DICTIONARY", "RLE_DICTIONARY"}


def read_columns(content: bytes, columns: Sequence[str], bound: int) -> dict[str, np.ndarray]:
    """Those of these columns that a Parquet file has, numbers or texts, if they take at most
    `bound` bytes.

    Raises TooLargeError, ValueError for columns of another type, and whatever pyarrow finds wrong.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = pq.ParquetFile(pa.BufferReader(content))
    present = [name for name in columns if name in file.schema_arrow.names]
    check_size(file.metadata.num_rows * len(present) * _CELL, bound)
    for name in present:
        _check_type(name, file.schema_arrow.field(name).type)
    for group in range(file.metadata.num_row_groups):
        row_group = file.metadata.row_group(group)
        parts = [row_group.column(number) for number in range(row_group.num_columns)]
        wanted = [part for part in parts if part.path_in_schema in present]
        check_size(sum(part.total_uncompressed_size for part in wanted), bound)
        if odd := sorted({encoding for part in wanted for encoding in part.encodings} - _PLAIN):
            raise ValueError(f"it is encoded as {odd[0]}; accepted are {', '.join(sorted(_PLAIN))}")
    # Texts are read as they are stored, each different one once
    table = pq.ParquetFile(pa.BufferReader(content), read_dictionary=present).read(columns=present)
    check_size(sum(_text_bytes(column) for column in table.columns), bound)
    return {name: _plain(table.column(name)) for name in present}


def _check_type(name: str, kind) -> None:
    import pyarrow as pa

    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    tests = ("integer", "floating", "boolean", "decimal", "string", "large_string", "null")
    if not any(getattr(pa.types, f"is_{test}")(kind) for test in tests):
        raise ValueError(f"its column {name} is of type {kind}; accepted are numbers and texts")


def _text_bytes(column) -> int:
    """Bytes of all texts of a column, each row's by itself."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not pa.types.is_dictionary(column.type):
        return 0
    total = 0
    for chunk in column.chunks:
        values = chunk.dictionary
        if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
            lengths = np.asarray(pc.binary_length(values).fill_null(0), np.int64)
            used = np.asarray(chunk.indices.drop_null(), np.int64)
            counts = np.bincount(used, minlength=len(lengths))
            # Of Python's integers: no overflow
            total += sum(map(int.__mul__, lengths.tolist(), counts.tolist()))
    return total


def _plain(column) -> np.ndarray:
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    return column.to_numpy()
