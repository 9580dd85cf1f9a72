"""Files of a run: written whole or not at all, and read back with one clear error."""

from __future__ import annotations

import json
import math
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedsim.errors import ConfigError

_NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def write_atomic(path: Path | str, content: bytes) -> None:
    """Write `content` to `path` so that a reader, or a crash, sees the old file or the new one, never a part.

    The bytes go to a temporary name in the same folder (a rename is atomic within one file system only), reach the disk, then take
    the place of `path`. Raises OSError; the temporary file is removed.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if os.name == "posix":  # the new name itself is safe once the folder's entry is on the disk
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def plain(value: Any) -> Any:
    """`value` as dicts, lists, strings, numbers, booleans and None: NumPy scalars and arrays become Python's, anything else its text."""
    if isinstance(value, Mapping):
        return {str(key): plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    if hasattr(value, "tolist"):  # NumPy scalars and arrays, torch tensors
        return plain(value.tolist())
    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            return kind(value)  # also turns subclasses (enumerations, numpy.float64) into the plain type
    return None if value is None else str(value)


def finite(value: Any) -> Any:
    """A float that JSON lacks (NaN and the infinities) as its name, anything else unchanged; dicts and lists in depth."""
    if isinstance(value, dict):
        return {key: finite(part) for key, part in value.items()}
    if isinstance(value, list):
        return [finite(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def json_bytes(value: Any) -> bytes:
    """`value` as indented, strictly valid JSON; NaN and infinities are the strings "NaN", "Infinity" and "-Infinity"."""
    return (json.dumps(finite(plain(value)), indent=2, allow_nan=False) + "\n").encode()


def read_json(path: Path | str) -> Any:
    """The inverse of `json_bytes`, NaN and infinities included. Raises ConfigError if the file is missing or no JSON."""

    def restore(part: Any) -> Any:
        if isinstance(part, dict):
            return {key: restore(inner) for key, inner in part.items()}
        if isinstance(part, list):
            return [restore(inner) for inner in part]
        return _NON_FINITE.get(part, part) if isinstance(part, str) else part

    try:
        return restore(json.loads(Path(path).read_bytes()))
    except (OSError, ValueError) as error:
        raise ConfigError("runs", str(path), f"a readable JSON file ({_reason(error)})") from None


def yaml_bytes(value: Any) -> bytes:
    """`value` as YAML, keys in their given order."""
    import yaml

    return yaml.safe_dump(plain(value), sort_keys=False, allow_unicode=True).encode()


def read_yaml(path: Path | str) -> Any:
    """The content of a YAML file. Raises ConfigError if it is missing or no YAML."""
    import yaml

    try:
        return yaml.load(Path(path).read_bytes(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigError("runs", str(path), f"a readable YAML file ({_reason(error)})") from None


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
