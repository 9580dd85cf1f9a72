"""Finding run folders, and reading what they say of their runs; nothing in them is imported."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from fedsim.errors import ConfigError, require
from fedsim.recording.files import plain, read_json, read_yaml
from fedsim.recording.identity import with_present_names


@dataclass(frozen=True)
class RunFolder:
    """One run. name: its path relative to the folder asked for; reason: why it is not done, else
    ""."""

    name: str
    folder: Path
    status: str
    reason: str
    config: dict[str, Any]


def find_runs(runs: str | Path | Iterable[str | Path]) -> list[RunFolder]:
    """The run folders (those with config.yaml and metrics.jsonl or metrics.parquet) in and below
    the given ones, by path. Raises ConfigError if a folder is missing or no run is found."""
    roots = [Path(runs)] if isinstance(runs, str | os.PathLike) else [Path(root) for root in runs]
    for root in roots:
        if not os.path.isdir(root):  # False for what can be no path at all
            raise ConfigError("runs", str(root), "an existing folder with runs")
    folders = {folder for root in roots for folder in _below(root)}
    if not folders:
        raise ConfigError(
            "runs",
            [str(root) for root in roots],
            "a folder with runs, that is with config.yaml and metrics.jsonl in or below it",
        )
    top = Path(os.path.commonpath([root.resolve() for root in roots]))
    names = {
        folder: folder.name if folder == top else folder.relative_to(top).as_posix()
        for folder in folders
    }
    return [
        _read(folder, os.fsencode(names[folder]).decode(errors="replace"))
        for folder in sorted(folders, key=_natural)
    ]


def _below(root: Path) -> Iterator[Path]:
    """The run folders in and below a folder. What is below a run folder belongs to that run (a
    refined schedule's first run)."""
    for parent, folders, files in os.walk(root):
        if _is_run(files):
            folders.clear()
            yield Path(parent).resolve()


def _natural(path: Path) -> list[list[tuple[Decimal, str]]]:
    """Sorts job 2 before 10, seed=2 before seed=10 and rate=0.05 before rate=0.1."""
    # A text, a number, a text, ...
    pieces = [re.split(r"([0-9]+(?:\.[0-9]+)?)", part) for part in path.parts]
    return [
        [(Decimal(piece if place % 2 else -1), piece) for place, piece in enumerate(part)]
        for part in pieces
    ]


def _is_run(files: list[str]) -> bool:
    return "config.yaml" in files and ("metrics.jsonl" in files or "metrics.parquet" in files)


def _read(folder: Path, name: str) -> RunFolder:
    config = read_yaml(folder / "config.yaml")
    choices = (config.get("choices") or {}) if isinstance(config, dict) else None
    whole = isinstance(choices, dict) and all(
        isinstance(each, str | None) for each in choices.values()
    )
    whole = whole and isinstance(config.get("seed", 0), int)
    require(
        whole,
        "runs",
        str(folder / "config.yaml"),
        "a mapping of settings, with a mapping `choices` and a whole number `seed`",
    )
    if "overrides" not in config and (folder / "overrides.yaml").is_file():
        config["overrides"] = read_yaml(folder / "overrides.yaml")
    require(
        isinstance(config.get("overrides") or [], list),
        "runs",
        str(folder / "overrides.yaml"),
        "a list of what was typed",
    )
    state = read_json(folder / "status.json") if (folder / "status.json").is_file() else {}
    told = isinstance(state, dict) and all(
        isinstance(state.get(key, ""), str) for key in ("status", "reason")
    )
    require(
        told,
        "runs",
        str(folder / "status.json"),
        "a mapping, `status` and `reason` in it being texts",
    )
    status = state.get("status", "unknown")
    reasons = {
        "running": "no end was recorded: still running, or killed",
        "unknown": "no status.json",
    }
    return RunFolder(
        name,
        folder,
        status,
        state.get("reason") or reasons.get(status, ""),
        with_present_names(plain(config)),
    )
