"""The recorder: what a run leaves behind, written as it goes.

config.yaml (resolved) and its signature, overrides.yaml, metrics.jsonl (flushed at every
evaluation), metrics.parquet (the same rows), model.safetensors, summary.json (with the versions),
status.json (running, done, diverged, interrupted, or failed with its traceback), curves.png;
checkpoints are in `fedsim.recording.checkpoints`. Every file but metrics.jsonl, which grows, is
written atomically.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import json
import platform
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedsim.errors import ConfigError
from fedsim.reading import raised
from fedsim.recording.files import (
    MOST_JSON,
    json_bytes,
    plain,
    read_yaml,
    remove_temporaries,
    shown,
    why,
    write_atomic,
    yaml_bytes,
)
from fedsim.recording.identity import FORMAT
from fedsim.recording.loggers import Logger
from fedsim.recording.metric_rows import Rows, json_line, parse_lines
from fedsim.recording.metrics_file import RowFile
from fedsim.recording.no_links import Folder
from fedsim.recording.signature import SIGNATURE, is_signed, signature_of

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import torch

_RESULTS = ("metrics.parquet", "model.safetensors", "curves.png")
_WRITTEN = ("config.yaml", SIGNATURE, "overrides.yaml", "summary.json", "status.json")
ROWS, CHECKPOINTS = "metrics.jsonl", "checkpoints"


@functools.cache
def versions() -> dict[str, str]:
    """Versions of fedsim, torch, numpy and Python, and whether convolutions are compiled here, as
    other bits come of that."""
    found = {}
    for package in ("fedsim", "torch", "numpy"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return {**found, "python": platform.python_version(), "convolutions": _convolutions()}


def _convolutions() -> str:
    try:
        from fedsim.kernels.compiled import PROCESSORS
    except ImportError:  # without the folder of fast kernels
        return "of torch"
    return "compiled" if PROCESSORS else "of torch"


def checkpoint_names(folder: Path) -> list[str]:
    """Names of the checkpoints in a run folder, by round. Raises OSError where their folder is a
    link, or none."""
    try:
        with Folder(folder, CHECKPOINTS) as place:
            return [
                name
                for name in place.names()
                if name.startswith("round_") and name.endswith(".safetensors")
            ]
    except FileNotFoundError:
        return []


class Recorder:
    """Records one run; used by the driver only.

    folder: the run folder, None to keep the rows in memory; config: the resolved configuration;
    overrides: what the user typed; loggers: where rows go besides.
    """

    def __init__(
        self,
        folder: Path | str | None,
        config: Mapping[str, Any],
        overrides: Sequence[str] = (),
        loggers: Sequence[Logger] = (),
    ) -> None:
        self.folder = None if folder is None else Path(folder)
        self.config: dict[str, Any] = plain(config)
        self.overrides = [str(override) for override in overrides]
        self.loggers = list(loggers)
        self._rows = Rows()
        self._file: RowFile | None = None
        # Of a run that goes on: its files as they were found
        self._before: dict[str, bytes] | None = None
        self._begun = self._new = False  # whether files were written, whether rows were added
        self._started = datetime.now(UTC).isoformat(timespec="seconds")

    def start(self) -> None:
        """Make the folder and write what is known before the first round. Results of an earlier run
        in the same folder are removed, so that they are not taken for this run's. Raises
        ConfigError if the folder cannot be made or written."""
        with self._writable():
            if self.folder is not None:
                self.folder.mkdir(parents=True, exist_ok=True)
                old = checkpoint_names(self.folder)
            for logger in self.loggers:
                logger.start(self.folder, self.config)
            if self.folder is not None:
                # first, so that no other file is taken for one of a finished run
                self.status("running")
                (self.folder / ROWS).unlink(missing_ok=True)
                with Folder(self.folder, *[CHECKPOINTS] if old else []) as place:
                    for name in old:
                        place.remove(name)
                self._begin(self.folder, b"", own=True)

    def resume(self, rows: bytes, round: int) -> None:
        """Go on with a run after `round`. rows: what metrics.jsonl held then; what it holds beyond
        is cut. Raises ConfigError."""
        folder = Path(str(self.folder))
        with self._writable():
            with Folder(folder) as place:
                here = set(place.names()).intersection(_WRITTEN)
                self._before = {
                    name: place.read(name, raised(MOST_JSON)) for name in _WRITTEN if name in here
                }
            with contextlib.suppress(ValueError, AttributeError):  # damaged
                self._started = json.loads(self._before.get("status.json", b"{}")).get(
                    "started", self._started
                )
            self._rows = parse_lines(rows, folder / ROWS)
            for logger in self.loggers:
                logger.resume(folder, self.config, round)
            self.status("running")
            self._begin(folder, rows, _is_own(folder))

    def _begin(self, folder: Path, rows: bytes, own: bool) -> None:
        """own: sign the settings; not those of a folder that was sent, which stays one when its run
        goes on."""
        self._begun = True
        self._write("config.yaml", yaml_bytes(self.config))
        if own and (signature := signature_of(self.config)) is not None:
            self._write(SIGNATURE, signature)
        else:
            (folder / SIGNATURE).unlink(missing_ok=True)
        for inner in [(), (CHECKPOINTS,)][: 1 + (folder / CHECKPOINTS).is_dir()]:
            with Folder(folder, *inner) as place:
                remove_temporaries(place)
        for name in _RESULTS:
            (folder / name).unlink(missing_ok=True)
        self._file = RowFile(folder / ROWS, rows)
        # With this the names of all files are on the disk
        self._write("overrides.yaml", yaml_bytes(self.overrides))
        self._write("summary.json", json_bytes({"versions": versions()}))

    @contextlib.contextmanager
    def _writable(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            with contextlib.suppress(OSError, AttributeError):
                self.discard() if self._begun else self.folder.rmdir()
            raise ConfigError(
                "folder",
                str(self.folder),
                f"a folder that can be made and written ({error.strerror})",
            ) from None

    def rows(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Append the rows of one evaluation (see fedsim.recording.metric_rows) and flush them: a
        killed run keeps what it had. On a full disk they wait in memory."""
        self._new = True
        clean = [self._rows.append(row) for row in rows]
        if self._file is not None:
            self._file.append("".join(map(json_line, clean)).encode("ascii"))
        for logger in self.loggers:
            try:
                logger.rows(clean)
            except OSError as error:
                print(
                    f"fedsim: {type(logger).__name__} could not write its rows ({why(error)}); they"
                    " are missing there",
                    file=sys.stderr,
                )

    def on_disk(self) -> tuple[int, str]:
        """Bytes of metrics.jsonl, all rows so far, which are on the disk when this returns, and
        their SHA-256. Raises OSError."""
        if self._file is None:
            raise ValueError("rows are on the disk of a run with a folder alone")
        self._file.sync()
        return self._file.length, self._file.sha256.hexdigest()

    def table(self) -> pd.DataFrame:
        """All rows so far: a tidy table with columns round, clock, scope, node, metric, value."""
        return self._rows.table()

    def sha256(self) -> str:
        """SHA-256 of all rows so far, times aside."""
        return self._rows.sha256()

    def finish(
        self,
        summary: Mapping[str, Any],
        model_tensors: Mapping[str, torch.Tensor | np.ndarray] | None = None,
        status: str = "done",
        reason: str | None = None,
        draw: Callable[[pd.DataFrame, Path], object] = lambda rows, path: None,
    ) -> None:
        """Write the outcome. summary: goes to summary.json beside the versions; model_tensors: the
        final model by tensor name; status, reason: "done", or "diverged" and why; draw: makes a
        picture of all rows at the path of curves.png."""
        try:
            self._close()
            self._write("metrics.parquet", self._rows.parquet)
            if self.folder is not None:
                if model_tensors is not None:
                    self._write("model.safetensors", _safetensors(model_tensors))
                self._write("summary.json", json_bytes({**summary, "versions": versions()}))
                draw(self.table(), self.folder / "curves.png")
            self.status(status, reason)
        except OSError as error:
            where = shown(Path(str(self.folder)))
            lost = (
                f"the results cannot be written ({error.strerror or error}); make space, then go on"
                f" with: fedsim run resume={where}"
            )
            raise ConfigError("folder", str(self.folder), lost) from None

    @property
    def untouched(self) -> bool:
        """Whether no rows were added: nothing has run."""
        return not self._new

    def discard(self) -> None:
        """Undo what `start` or `resume` wrote, and remove the folder if nothing else is in it: for
        a run that is refused before its first round."""
        self._close()
        if self.folder is None:
            return
        for name in _WRITTEN if self._before is None else ():
            (self.folder / name).unlink(missing_ok=True)
        if self._before is None:
            (self.folder / ROWS).unlink(missing_ok=True)
        for name, content in (self._before or {}).items():
            self._write(name, content)
        with contextlib.suppress(OSError):
            self.folder.rmdir()

    def fail(self, error: BaseException) -> None:
        """Record that the run ended with `error`; its rows so far stay. Never raises for want of
        disk, so that `error` is what is seen."""
        with contextlib.suppress(OSError):
            self._close()
        with contextlib.suppress(OSError):
            text = "".join(traceback.format_exception(error))
            self.status(
                "failed",
                " ".join(f"{type(error).__name__}: {error}".split()).rstrip(":"),
                traceback=text,
            )

    def interrupted(self, reason: str, round: int) -> None:
        """Record that the run was stopped by a signal. round: of its last checkpoint, 0: none.
        Never raises for want of disk."""
        with contextlib.suppress(OSError):
            self._close()
        with contextlib.suppress(OSError):
            self.status("interrupted", reason, round=round)

    def status(self, name: str, reason: str | None = None, **details: Any) -> None:
        """Write status.json. name: running, done, diverged, interrupted or failed; reason: one
        line."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        known = {
            "format": FORMAT,
            "status": name,
            "reason": reason,
            "started": self._started,
            "updated": now,
            **details,
        }
        self._write(
            "status.json",
            json_bytes({key: part for key, part in known.items() if part is not None}),
        )

    def _write(self, name: str, content: bytes | Callable[[], bytes]) -> None:
        if self.folder is not None:
            write_atomic(self.folder / name, content() if callable(content) else content)

    def _close(self) -> None:
        file, self._file = self._file, None
        try:
            if file is not None:
                file.close()
        finally:
            loggers, self.loggers = self.loggers, []
            for logger in loggers:
                logger.close()


def _is_own(folder: Path) -> bool:
    """Whether the settings in a folder are signed by this user."""
    try:
        recorded = read_yaml(folder / "config.yaml")
    except ConfigError:
        return False
    return isinstance(recorded, dict) and is_signed(folder, recorded)


def _safetensors(tensors: Mapping[str, torch.Tensor | np.ndarray]) -> bytes:
    import torch
    from safetensors.torch import save

    # Copies: the format refuses tensors that share memory, as views of one flat vector do
    copies = {
        name: torch.as_tensor(part).detach().cpu().contiguous().clone()
        for name, part in tensors.items()
    }
    return save(copies, {"order": json.dumps(list(copies))})
