"""The file of a checkpoint: arrays as safetensors, what they are in its metadata, and a SHA-256 over both. Nothing is pickled."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from fedsim.recording.files import why, write_atomic

FORMAT = 1  # of what the arrays mean; another number is refused
_KEY = "fedsim_checkpoint"


class BadCheckpoint(Exception):
    """A checkpoint that cannot be used, and why."""


@dataclass(frozen=True)
class Facts:
    """What a checkpoint says of itself.

    round: rounds done; settings: key of the run's settings; rows, rows_sha256: bytes of metrics.jsonl that belong to it, and their
    SHA-256; sizes: numbers of clients, receivers and parameters; versions: of the packages that wrote it; format: of this file.
    """

    round: int
    settings: str
    rows: int
    rows_sha256: str
    sizes: dict[str, int]
    versions: dict[str, str]
    format: int = FORMAT


def save(path: Path, arrays: dict[str, np.ndarray], facts: Facts) -> None:
    """Write a checkpoint, whole or not at all. Raises OSError."""
    # Written here rather than by the library, whose own temporary file a killed process would leave, and whose error has no errno
    arrays = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    names = sorted(arrays, key=lambda name: (-arrays[name].itemsize, name))  # every array aligned
    said = asdict(facts)
    header: dict[str, Any] = {"__metadata__": {_KEY: json.dumps({**said, "sha256": _digest(arrays, said)})}}
    end = 0
    for name in names:
        start, end = end, end + arrays[name].nbytes
        header[name] = {"dtype": _type(arrays[name].dtype), "shape": list(arrays[name].shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)

    def parts() -> Iterator[Any]:
        yield len(text).to_bytes(8, "little") + text
        for name in names:
            yield arrays[name].reshape(-1).view(np.uint8)

    write_atomic(path, parts())


def load(path: Path) -> tuple[dict[str, np.ndarray], Facts]:
    """The arrays and facts of a checkpoint. Raises BadCheckpoint where the file is cut off, damaged, or none of ours."""
    from safetensors import SafetensorError, safe_open

    if path.exists() and not path.is_file():
        raise BadCheckpoint("it is no regular file")
    try:
        with safe_open(path, framework="np") as file:
            said = json.loads((file.metadata() or {}).get(_KEY, "null"))
            if not isinstance(said, dict):
                raise BadCheckpoint("it is no checkpoint of fedsim")
            if said.get("format") != FORMAT:
                raise BadCheckpoint(f"its format is {said.get('format')}, this fedsim reads {FORMAT}")
            arrays = {name: file.get_tensor(name) for name in file.keys()}
        expected = said.pop("sha256", None)
        if expected != _digest(arrays, said) or set(said) != {field.name for field in fields(Facts)}:
            raise BadCheckpoint("it is damaged: its content does not have the SHA-256 it says")
        return arrays, Facts(**said)
    except (SafetensorError, OSError, ValueError, TypeError, KeyError) as error:
        raise BadCheckpoint(f"it is cut off or damaged ({' '.join(why(error).split())})") from None


def _type(dtype: np.dtype) -> str:
    """The format's name of a type: F32, I64, BOOL."""
    return "BOOL" if dtype.kind == "b" else f"{'FIU'['fiu'.index(dtype.kind)]}{8 * dtype.itemsize}"


def _digest(arrays: dict[str, np.ndarray], said: dict[str, Any]) -> str:
    """SHA-256 over the facts and over name, type, shape and bytes of every array."""
    digest = hashlib.sha256(json.dumps(said, sort_keys=True).encode())
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(json.dumps([name, array.dtype.name, array.shape]).encode())
        digest.update(array.reshape(-1).view(np.uint8))
    return digest.hexdigest()
