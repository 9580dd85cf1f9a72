"""Sweeps: what a sweep and its runs are called, and which run is the same as which.

A sweep has a name, not a date, and a run of it a key, not a number: one that is started again, or
with a larger grid, finds what it has.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedsim.errors import ConfigError, require
from fedsim.recording.files import read_json, read_yaml
from fedsim.recording.identity import FREE, settings_key
from fedsim.simulation.result import FINISHED

KEY_LENGTH = 10
NAME_LENGTH = 80  # of one folder's name; file systems take 255 bytes
# Key of a run of an older version, by sweep and name; None: it is none
_LOOKED_INTO: dict[tuple[Path, str], str | None] = {}
_UNSAFE = re.compile(r"[^\w.=,+-]+", re.ASCII)


@dataclass(frozen=True)
class Typed:
    """One override. values: as typed, "0,1,2"; swept: it stands for several values, one for each
    run."""

    key: str
    values: str
    swept: bool = False


def job_key(config: Mapping[str, Any]) -> str:
    """What tells runs apart: a hash of all settings that can change what a run gives. config:
    resolved, as recorded; where it runs, where its data are and what else is written are left out.
    """
    return settings_key(config)[:KEY_LENGTH]


def digest(text: str) -> str:
    """A short name for a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:KEY_LENGTH]


def sweep_name(typed: Sequence[Typed]) -> str:
    """The name of a sweep that was given none: its experiment, what it sweeps over, and what is
    fixed ("digits_server-algorithm-seed- rounds_20"), as it can be typed after sweep=. The values
    swept over are left out, so that a larger grid of the same kind goes on in the same folder."""
    named = [each for each in typed if _names(each.key)]
    parts = [each.values for each in named if each.key == "experiment" and not each.swept]
    parts += sorted(
        {each.key for each in named if each.swept}
        | {"seed" for each in typed if each.key == "seeds"}
    )
    parts += sorted(
        f"{each.key}={each.values}" for each in named if not each.swept and each.key != "experiment"
    )
    return file_name("-".join(parts).replace("=", "_").replace(",", "-")) or "all"


def swept_keys(typed: Sequence[Typed]) -> list[str]:
    """The settings that tell the runs of a sweep apart for a reader: those swept over, or, if there
    is only one run, those typed."""
    named = [each for each in typed if _names(each.key)]
    return [each.key for each in named if each.swept] or [each.key for each in named]


def job_folder(sweep: Path, values: Mapping[str, str], key: str) -> str:
    """The name of a run's folder in the sweep's: the one that has the key already, else what is
    swept over and the key ("algorithm=fedau,seed=1-3f2a91c07b")."""
    known = sorted(
        path.name
        for path in sweep.glob(f"*{key}")
        if path.name == key or path.name.endswith(f"-{key}")
    )
    if known or (older := _older_keys(sweep).get(key)):
        return known[0] if known else older
    readable = file_name(
        ",".join(f"{name}={value}" for name, value in values.items() if _names(name))
    )
    return f"{readable}-{key}" if readable else key


def _older_keys(sweep: Path) -> dict[str, str]:
    """Key -> name of the runs in a sweep whose names a version before this one has made: they end
    with keys of another kind. Each folder is looked into once for a process."""
    for folder in sweep.glob("*/config.yaml"):
        name = folder.parent.name
        if (sweep, name) not in _LOOKED_INTO:
            _LOOKED_INTO[sweep, name] = None
            with contextlib.suppress(ConfigError):
                recorded = read_yaml(folder)
                _LOOKED_INTO[sweep, name] = (
                    job_key(recorded) if isinstance(recorded, dict) else None
                )
    return {
        key: name
        for (place, name), key in _LOOKED_INTO.items()
        if place == sweep and key is not None
    }


def file_name(text: str, length: int = NAME_LENGTH) -> str:
    """A text as the name of a file: letters, digits and _.=,+- alone; a long one is cut, and ends
    with its hash."""
    clean = _UNSAFE.sub("_", re.sub(r"[\[\]{}\"'\s]", "", text)).strip("._-,")
    return clean if len(clean) <= length else f"{clean[: length - KEY_LENGTH - 1]}-{digest(text)}"


def check_name(key: str, value: Any) -> None:
    """Refuse a name that would leave the folder it names something in, or that no file can have.
    Raises ConfigError(key, value, ...)."""
    text = str(value)
    parts = text.split("/")
    inside = not any(part in ("", ".", "..") for part in parts)
    require(
        inside and "\\" not in text,
        key,
        value,
        "accepted is a name, or several with / between them, that stays in its folder",
    )
    require(text.isprintable(), key, value, "accepted are characters that can be printed")
    short = all(len(part.encode(errors="replace")) <= 200 for part in parts) and len(text) <= 1000
    require(
        short, key, text[:40] + "...", "accepted are at most 200 bytes, between one / and the next"
    )


def stored_summary(folder: Path, config: Mapping[str, Any]) -> dict[str, Any] | None:
    """The summary of the run in `folder` if it has these settings and is finished; None if it is to
    be run."""
    if state_of(folder) not in FINISHED or not same_run(folder, config):
        return None
    with contextlib.suppress(ConfigError):
        return read_json(folder / "summary.json")
    return None


def same_run(folder: Path, config: Mapping[str, Any]) -> bool:
    """Whether `folder` holds a run of these settings."""
    try:
        recorded = read_yaml(folder / "config.yaml")
    except ConfigError:
        return False
    return isinstance(recorded, dict) and job_key(recorded) == job_key(config)


def state_of(folder: Path) -> str | None:
    """The status recorded in a run folder; None if there is none that can be read."""
    try:
        state = read_json(folder / "status.json")
    except ConfigError:
        return None
    return state.get("status") if isinstance(state, dict) else None


@contextlib.contextmanager
def claimed(folder: Path | None, key: str = "folder", wait: bool = False) -> Iterator[None]:
    """Keep other processes from running in `folder` meanwhile. The claim is the system's and ends
    with the process, however it ends.

    wait: until the other process is done; else raises ConfigError(key, folder, ...). The folder is
    made, and removed again if it is empty.
    """
    if folder is None or os.name != "posix":
        yield
        return
    import fcntl

    handle, made = None, []
    try:
        made = [path for path in (folder, *folder.parents) if not path.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise ConfigError(
            key,
            str(folder),
            "another process is at work on this run; wait for its end, or choose another folder",
        ) from None
    # A file system without locks; or a folder that cannot be made, which the recorder explains
    except OSError:
        pass
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            for path in made:
                path.rmdir()
        if handle is not None:
            os.close(handle)


def _names(key: str) -> bool:
    """Whether a setting belongs into a name. Of seeds= each run has its own seed in its name."""
    return (
        key != "seeds"
        and key.split(".")[0] not in FREE
        and key not in FREE
        and not key.startswith("hydra")
    )
