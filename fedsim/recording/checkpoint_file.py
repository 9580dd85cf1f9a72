"""The file of a checkpoint: arrays as safetensors, what they are in its metadata, and a SHA-256
over both. Nothing is pickled."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from fedsim.errors import cut, one_line
from fedsim.reading import TooLargeError
from fedsim.recording.files import why, write_inside
from fedsim.recording.no_links import Folder, LinkError

FORMAT = 1  # of what the arrays mean; another number is refused
_KEY = "fedsim_checkpoint"


class BadCheckpoint(Exception):
    """A checkpoint that cannot be used, and why."""


@dataclass(frozen=True)
class Facts:
    """What a checkpoint says of itself.

    round: rounds done; settings: key of the run's settings; rows, rows_sha256: bytes of
    metrics.jsonl that belong to it, and their SHA-256; sizes: numbers of clients, receivers and
    parameters; versions: of the packages that wrote it; format: of this file.
    """

    round: int
    settings: str
    rows: int
    rows_sha256: str
    sizes: dict[str, int]
    versions: dict[str, str]
    format: int = FORMAT


def save(path: Path, arrays: dict[str, np.ndarray], facts: Facts) -> None:
    """Write a checkpoint, whole or not at all; its folder may not be a link. Raises OSError."""
    # Written here rather than by the library, whose own temporary file a killed process would
    # leave, and whose error has no errno
    arrays = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    names = sorted(arrays, key=lambda name: (-arrays[name].itemsize, name))  # every array aligned
    said = asdict(facts)
    header: dict[str, Any] = {
        "__metadata__": {_KEY: json.dumps({**said, "sha256": _digest(arrays, said)})}
    }
    end = 0
    for name in names:
        start, end = end, end + arrays[name].nbytes
        header[name] = {
            "dtype": _type(arrays[name].dtype),
            "shape": list(arrays[name].shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)

    def parts() -> Iterator[Any]:
        yield len(text).to_bytes(8, "little") + text
        for name in names:
            yield arrays[name].reshape(-1).view(np.uint8)

    with _folder(path) as folder:
        os.close(write_inside(folder, path.name, parts()))


def load(path: Path) -> tuple[dict[str, np.ndarray], Facts]:
    """The arrays and facts of a checkpoint. Raises BadCheckpoint where the file is cut off,
    damaged, or none of ours."""
    from safetensors import SafetensorError, safe_open

    try:
        with (
            _folder(path) as folder,
            folder.mapped(path.name) as place,
            safe_open(place, framework="np") as file,
        ):
            said = json.loads((file.metadata() or {}).get(_KEY, "null"))
            _check_facts(said)
            arrays = {name: file.get_tensor(name) for name in file.keys()}
        expected = said.pop("sha256")
        if expected != _digest(arrays, said):
            raise BadCheckpoint("it is damaged: its content does not have the SHA-256 it says")
        return arrays, Facts(**said)
    except (LinkError, TooLargeError) as error:
        raise BadCheckpoint(why(error)) from None
    except (SafetensorError, OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise BadCheckpoint(
            f"it is cut off or damaged ({cut(one_line(why(error)), 200)})"
        ) from None


def _folder(path: Path) -> Folder:
    """The folder of checkpoints in a run folder."""
    return Folder(path.parent.parent, path.parent.name)


def _check_facts(said: Any) -> None:
    """Raise BadCheckpoint unless every fact has its type and a value that can be: the file may be
    of anybody's making."""
    if not isinstance(said, dict):
        raise BadCheckpoint("it is no checkpoint of fedsim")
    if said.get("format") != FORMAT or type(said["format"]) is not int:
        raise BadCheckpoint(
            f"its format is {_brief(said.get('format'))}, this fedsim reads {FORMAT}"
        )
    if set(said) != {"sha256", *(field.name for field in fields(Facts))}:
        raise BadCheckpoint("it is damaged: it does not say what a checkpoint says")
    for name, (right, accepted) in _ACCEPTED.items():
        if not right(said[name]):
            raise BadCheckpoint(f"its {name} is {_brief(said[name])}, not {accepted}")


def _count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _digits(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None


def _named(value: Any, right: Callable[[Any], bool]) -> bool:
    return isinstance(value, dict) and all(map(right, value.values()))


def _brief(value: Any) -> str:
    return cut(one_line(repr(value)), 60)


_ACCEPTED: dict[str, tuple[Callable[[Any], bool], str]] = {
    "round": (lambda value: _count(value) and value > 0, "a whole number from 1"),
    "settings": (lambda value: isinstance(value, str), "a text"),
    "rows": (_count, "a whole number from 0"),
    "rows_sha256": (_digits, "64 hexadecimal digits"),
    "sizes": (lambda value: _named(value, _count), "whole numbers by name"),
    "versions": (lambda value: _named(value, lambda each: isinstance(each, str)), "texts by name"),
}


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
