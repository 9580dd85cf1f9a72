"""Checkpoints of an interrupted run that a user was sent: going on from them, or from the one
before, or saying why not."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st

from fedsim.config.building import build
from fedsim.config.resuming import recorded_settings
from fedsim.errors import ConfigError
from fedsim.recording.checkpoint_file import BadCheckpoint, Facts, load, save
from tests.fuzz.command_line import command
from tests.fuzz.configurations import tiny
from tests.fuzz.damage import content_edits, damaged_files, edits, put_files
from tests.fuzz.data_files import written
from tests.fuzz.harness import Failure, Target, check_line

_OPTIONS = [
    "participation=markov",
    "algorithm=fedspeed",
    "rounds=3",
    "evaluation.every=1",
    "checkpoint.every=1",
]


def _interrupted(folder: Path) -> None:
    """A run of three rounds, as if it had been killed before its end."""
    if said := command(["run", *tiny(), *_OPTIONS, f"hydra.run.dir={folder / 'run'}"]):
        raise Failure("no run to begin with", said)
    for name in ("curves.png", "metrics.parquet", "model.safetensors"):
        (folder / "run" / name).unlink()
    (folder / "run" / "status.json").write_text('{"status": "running"}')


@functools.cache
def _run() -> dict[str, bytes]:
    return written(_interrupted)()


_LOST = [
    f"run/{name}"
    for name in (
        "metrics.jsonl",
        "checkpoints/round_000002.safetensors",
        "checkpoints/round_000003.safetensors",
    )
]
# anew: a folder there is no input
_WRITTEN = [f"run/{name}" for name in ("status.json", "overrides.yaml", "summary.json")]
_cases = st.fixed_dictionaries(
    {},
    optional={name: edits(True) for name in _LOST}
    | {name: content_edits(True) for name in _WRITTEN},
)


def _put(case: dict[str, Any], folder: Path) -> None:
    put_files(_run(), case, folder)


def _resume(case: Any, folder: Path) -> str:
    refused = command(["run", "resume=run"])
    if not refused and json.loads((folder / "run" / "status.json").read_text())["status"] not in (
        "done",
        "diverged",
    ):
        raise Failure("goes on without an end")
    return refused


_any = st.sampled_from(
    [
        np.zeros(0),
        np.ones((1, 15), np.float32),
        np.full((6, 15), np.nan, np.float32),
        np.array(-1),
        np.array(2**62),
    ]
)
_any |= st.sampled_from(
    [
        np.zeros(6, bool),
        np.zeros((6, 15), np.int64),
        np.ones((2, 2, 2)),
        np.arange(6, dtype=np.uint8),
    ]
)
_changes = st.tuples(
    st.integers(0, 30),
    _any | st.none(),
    st.sampled_from(["", "round", "rows", "settings", "format"]),
    st.integers(-1, 4),
)


def _put_signed(case: tuple[int, np.ndarray | None, str, int], folder: Path) -> None:
    """Both checkpoints with another array, or without it, or with another fact, and with the
    SHA-256 that belongs to that."""
    number, array, fact, value = case
    put_files(_run(), {}, folder)
    for path in (folder / "run" / "checkpoints").iterdir():
        arrays, facts = load(path)
        name = sorted(arrays)[number % len(arrays)]
        arrays = {key: each for key, each in arrays.items() if key != name} | (
            {name: array} if array is not None else {}
        )
        said = vars(facts) | ({fact: str(value) if fact == "settings" else value} if fact else {})
        save(path, arrays, Facts(**said))


def _load(folder: Path) -> str:
    """The file alone."""
    try:
        for path in sorted((folder / "run" / "checkpoints").iterdir()):
            load(path)
    except BadCheckpoint as error:
        return check_line(str(error))
    return ""


def _settings(folder: Path) -> None:
    """The settings that a run folder records; a run of them may be of any length, so it is not
    begun."""
    settings = recorded_settings(folder / "run")
    try:
        build(settings, None, False).prepare()
    except ConfigError as error:
        raise ConfigError("resume", error.value, error.accepted) from None


TARGETS = [
    Target("resumed runs", _cases, _resume, _put, records=True, settings=True, share=0.3),
    Target(
        "checkpoints of other arrays",
        _changes,
        _resume,
        _put_signed,
        records=True,
        settings=True,
        share=0.2,
    ),
    damaged_files(
        "files of checkpoints",
        lambda: {name: each for name, each in _run().items() if "round_" in name},
        _load,
        share=2,
    ),
    damaged_files(
        "settings of a run",
        lambda: {name: each for name, each in _run().items() if ".yaml" in name},
        _settings,
        text=True,
    ),
]
