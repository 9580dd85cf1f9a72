"""Files of a run: written whole or not at all, and read back with one clear error."""

from __future__ import annotations

import json
import math
import os
import secrets
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fedsim.errors import ConfigError
from fedsim.reading import raised, read_file
from fedsim.recording.no_links import Folder, read_inside

# Bytes of a file, of which at worst 0.8 GB of objects are made
MOST_YAML, MOST_JSON = 4 << 20, 16 << 20
_NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def write_atomic(path: Path | str, content: bytes | Iterable[Any]) -> None:
    """Write `content` to `path` so that a reader, or a crash, sees the old file or the new one,
    never a part.

    content: bytes, or parts of them one after the other. They go to a temporary name in the same
    folder (a rename is atomic within one file system only), reach the disk, then take the place of
    `path`. Raises OSError; the temporary file is removed.
    """
    path = Path(path)
    with Folder(path.parent) as folder:
        os.close(write_inside(folder, path.name, content))


def write_inside(folder: Folder, name: str, content: bytes | Iterable[Any]) -> int:
    """`write_atomic` in a folder held open; a descriptor of the new file, to read and write."""
    temporary = f".{name}.{secrets.token_hex(4)}.tmp"
    handle = folder.create(temporary)
    parts: Iterable[Any] = [content] if isinstance(content, bytes) else content
    try:
        with open(handle, "wb", closefd=False) as file:
            file.writelines(parts)
            file.flush()
            os.fsync(handle)
        folder.replace(name, temporary)
        folder.sync()
    except BaseException:
        os.close(handle)
        folder.remove(temporary)
        raise
    return handle


def remove_temporaries(folder: Folder) -> None:
    """Remove what `write_atomic` left in `folder` when its process was killed."""
    for name in folder.names():
        if name.startswith(".") and name.endswith(".tmp"):
            folder.remove(name)


def shown(folder: Path) -> str:
    """A folder as the user would type it here."""
    here = Path.cwd()
    return str(folder.relative_to(here) if folder.is_relative_to(here) else folder)


def why(error: Exception) -> str:
    """What is wrong, without the file's name: "No space left on device"."""
    return getattr(error, "strerror", None) or str(error)


def plain(value: Any) -> Any:
    """`value` as dicts, lists, strings, numbers, booleans and None: NumPy scalars and arrays become
    Python's, anything else its text."""
    if isinstance(value, Mapping):
        return {str(key): plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    if hasattr(value, "tolist"):  # NumPy scalars and arrays, torch tensors
        return plain(value.tolist())
    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            # Also turns subclasses (enumerations, numpy.float64) into the plain type
            return kind(value)
    return None if value is None else str(value)


def flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dicts as one, by dotted key."""
    found: dict[str, Any] = {}
    for key, part in value.items():
        found |= (
            flat(part, f"{prefix}{key}.")
            if isinstance(part, Mapping) and part
            else {f"{prefix}{key}": part}
        )
    return found


def nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `flat`. Raises ValueError where a key is both a value and a group."""
    found: dict[str, Any] = {}
    for key, part in flat.items():
        *groups, name = key.split(".")
        node = found
        for group in groups:
            node = node.setdefault(group, {})
            if not isinstance(node, dict):
                raise ValueError(f"{key}: {group} is a value")
        node[name] = part
    return found


def finite(value: Any) -> Any:
    """A float that JSON lacks (NaN and the infinities) as its name, anything else unchanged; dicts
    and lists in depth."""
    if isinstance(value, dict):
        return {key: finite(part) for key, part in value.items()}
    if isinstance(value, list):
        return [finite(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def json_bytes(value: Any) -> bytes:
    """`value` as indented, strictly valid JSON; NaN and infinities are the strings "NaN",
    "Infinity" and "-Infinity"."""
    return (json.dumps(finite(plain(value)), indent=2, allow_nan=False) + "\n").encode()


def read_json(path: Path | str, links: bool = False) -> Any:
    """The inverse of `json_bytes`, NaN and infinities included. links: whether the file may be one,
    as one in a run folder may not. Raises ConfigError if the file is missing or no JSON."""

    def restore(part: Any) -> Any:
        if isinstance(part, dict):
            return {key: restore(inner) for key, inner in part.items()}
        if isinstance(part, list):
            return [restore(inner) for inner in part]
        return _NON_FINITE.get(part, part) if isinstance(part, str) else part

    try:
        read = read_file if links else read_inside
        return restore(json.loads(read(path, raised(MOST_JSON))))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError("runs", str(path), f"a readable JSON file ({why(error)})") from None


def yaml_bytes(value: Any) -> bytes:
    """`value` as YAML, keys in their given order."""
    import yaml

    return yaml.safe_dump(plain(value), sort_keys=False, allow_unicode=True).encode()


def read_yaml(path: Path | str) -> Any:
    """The content of a YAML file in a run folder. Raises ConfigError if it is missing, a link or no
    YAML."""
    import yaml

    try:
        content, loader = (
            read_inside(path, raised(MOST_YAML)),
            getattr(yaml, "CSafeLoader", yaml.SafeLoader),
        )
        if b"*" in content and any(
            isinstance(event, yaml.AliasEvent) for event in yaml.parse(content, loader)
        ):
            raise ValueError(
                "it repeats parts by *name, which lets a few bytes stand for gigabytes"
            )
        return yaml.load(content, Loader=loader)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise ConfigError("runs", str(path), f"a readable YAML file ({why(error)})") from None
