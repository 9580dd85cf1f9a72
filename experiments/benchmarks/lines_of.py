"""Files of one JSON object a line, in which results are kept."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path


def read(path: Path) -> list[dict]:
    """The objects of a file, none if it is not there."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def replace_lines(path: Path, keys: Sequence[str], lines: list[dict]) -> None:
    """Put these lines into a file in place of those that have the same values of `keys`."""
    new = {tuple(line[key] for key in keys) for line in lines}
    kept = [line for line in read(path) if tuple(line[key] for key in keys) not in new]
    path.write_text("".join(json.dumps(line) + "\n" for line in (*kept, *lines)))
