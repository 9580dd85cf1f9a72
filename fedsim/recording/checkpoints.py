"""Checkpoints of a run: when they are due, which are kept, and which one a run goes on from.

They are in the run folder, `checkpoints/round_000040.safetensors`: the arrays of `Rounds`, of the
participation pattern and of the totals.
"""

from __future__ import annotations

import contextlib
import hashlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from fedsim.component import PositiveInt, component
from fedsim.errors import ConfigError, cut, one_line
from fedsim.reading import raised
from fedsim.recording.checkpoint_checks import check_arrays, check_fit
from fedsim.recording.checkpoint_file import BadCheckpoint, Facts, load, save
from fedsim.recording.files import read_yaml, shown, why
from fedsim.recording.identity import first_key, settings_key
from fedsim.recording.metric_rows import MOST_ROWS
from fedsim.recording.no_links import Folder, read_inside
from fedsim.recording.recorder import CHECKPOINTS, ROWS, Recorder, checkpoint_names, versions


@component
class Checkpoint:
    """When a run with a folder writes checkpoints.

    every: rounds between them (null: only when the run is interrupted); keep: how many of the
    newest stay.
    """

    every: PositiveInt | None = None
    keep: PositiveInt = 2


class Part(Protocol):
    """What has a state that lasts between rounds."""

    def state(self) -> dict[str, np.ndarray]:
        """Arrays, which may be views of what changes."""

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Go on from what `state` gave."""


@dataclass(frozen=True)
class Saved:
    """What a run goes on from. path; round: rounds done; arrays: by part and name; rows: what
    metrics.jsonl held."""

    path: Path
    round: int
    arrays: dict[str, np.ndarray]
    rows: bytes

    def restore(self, parts: Mapping[str, Part]) -> None:
        """Give every part its state. Raises ConfigError where they do not fit it: a class of the
        user's own was changed meanwhile."""
        try:
            for part, owner in parts.items():
                start = f"{part}/"
                given = {
                    name.removeprefix(start): array
                    for name, array in self.arrays.items()
                    if name.startswith(start)
                }
                check_fit(part, owner.state(), given)
                owner.restore(given)
        except (LookupError, ValueError, TypeError, OverflowError) as error:
            raise ConfigError(
                "resume",
                shown(self.path),
                f"its arrays do not fit ({type(error).__name__}: {error})",
            ) from error


class Checkpoints:
    """The checkpoints of one run. config: its settings; sizes: numbers of clients, receivers and
    parameters; last: round of the newest checkpoint that is safe, 0: none."""

    def __init__(
        self,
        settings: Checkpoint,
        folder: Path | None,
        config: Mapping[str, Any],
        sizes: dict[str, int],
    ) -> None:
        self.settings, self.folder, self.sizes, self.key = (
            settings,
            folder,
            sizes,
            settings_key(config),
        )
        self.rounds = config.get("rounds")
        self.safe: list[Path] = []  # oldest first
        self.last = 0

    def due(self, round: int) -> bool:
        """Whether a checkpoint is written after `round` rounds."""
        return (
            self.folder is not None
            and self.settings.every is not None
            and round % self.settings.every == 0
        )

    def write(self, round: int, parts: Mapping[str, Part], recorder: Recorder) -> None:
        """Write a checkpoint, then remove the oldest. Where the disk refuses, say so and go on: the
        ones before stay."""
        arrays = {
            f"{part}/{name}": array
            for part, owner in parts.items()
            for name, array in owner.state().items()
        }
        path = Path(str(self.folder)) / CHECKPOINTS / f"round_{round:06d}.safetensors"
        try:
            length, digest = recorder.on_disk()
            if not path.parent.exists():
                path.parent.mkdir()
                with Folder(path.parent.parent) as folder:
                    folder.sync()
            save(path, arrays, Facts(round, self.key, length, digest, self.sizes, versions()))
        except OSError as error:
            before = f"that of round {self.last} stays" if self.last else "there is none before it"
            what = f"{shown(path)} cannot be written ({why(error)}); {before}"
            _say(
                f"{what}; the run goes on and tries again at the next one: make space, or make the"
                " folder writable"
            )
            return
        self.last = round
        self.safe = [each for each in self.safe if each != path] + [path]
        while len(self.safe) > self.settings.keep:
            with (
                contextlib.suppress(OSError),
                Folder(Path(str(self.folder)), CHECKPOINTS) as folder,
            ):
                folder.remove(self.safe.pop(0).name)

    def newest(self) -> Saved | None:
        """The newest checkpoint that can be used, None where there are none at all; those that
        cannot are named on standard error. Raises ConfigError where there are some, but none that
        can be used."""
        folder = Path(str(self.folder))
        try:
            found = [folder / CHECKPOINTS / name for name in checkpoint_names(folder)]
        except OSError as error:
            raise ConfigError(
                "resume", shown(folder), f"its checkpoints cannot be listed ({why(error)})"
            ) from None
        for place in reversed(range(len(found))):
            try:
                saved = self._read(found[place], folder / ROWS)
            except BadCheckpoint as error:
                _say(f"{shown(found[place])} is not used: {error}")
                continue
            self.safe, self.last = found[: place + 1], saved.round
            self._sign_anew(found[: place + 1])
            return saved
        if found:
            raise ConfigError(
                "resume",
                shown(folder),
                "none of its checkpoints can be used; without resume it starts from the beginning",
            )
        return None

    def _first_key(self) -> str | None:
        """The key that these settings had in a folder of format 1; None where they are not the
        folder's."""
        with contextlib.suppress(ConfigError):
            recorded = read_yaml(Path(str(self.folder)) / "config.yaml")
            if isinstance(recorded, dict) and settings_key(recorded) == self.key:
                return first_key(recorded)
        return None

    def _sign_anew(self, paths: Sequence[Path]) -> None:
        """Give checkpoints of format 1 the present key, before the settings that their own was made
        of are recorded anew. Where the disk refuses, they stay as they are."""
        for path in paths:
            with contextlib.suppress(BadCheckpoint, OSError):
                arrays, facts = load(path)
                if facts.settings != self.key and facts.settings == self._first_key():
                    save(path, arrays, replace(facts, settings=self.key))

    def _read(self, path: Path, rows: Path) -> Saved:
        arrays, facts = load(path)
        if facts.settings != self.key and facts.settings != self._first_key():
            raise BadCheckpoint("it is of a run with other settings")
        if facts.sizes != self.sizes:
            kept, here = (
                ", ".join(f"{count} {name}" for name, count in sizes.items())
                for sizes in (facts.sizes, self.sizes)
            )
            raise BadCheckpoint(f"it is of {cut(one_line(kept))}; here are {here}")
        if isinstance(self.rounds, int) and facts.round > self.rounds:
            raise BadCheckpoint(
                f"it is of round {facts.round}, and the run has {self.rounds} rounds"
            )
        check_arrays(arrays, facts.round, self.sizes)
        try:
            before = read_inside(rows, raised(MOST_ROWS))[: facts.rows]
        except OSError as error:
            raise BadCheckpoint(
                f"{rows.name}, which it goes with, cannot be read ({why(error)})"
            ) from None
        if len(before) != facts.rows or hashlib.sha256(before).hexdigest() != facts.rows_sha256:
            raise BadCheckpoint(f"{rows.name} no longer holds the rows it goes with")
        for package, version in versions().items():
            if (written := facts.versions.get(package, version)) != version:
                _say(
                    f"{shown(path)} was written with {package} {cut(one_line(written))}, here is"
                    f" {version}: the bytes may differ"
                )
        return Saved(path, facts.round, arrays, before)


def _say(line: str) -> None:
    print(f"fedsim: {line}", file=sys.stderr, flush=True)
