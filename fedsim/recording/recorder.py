"""The recorder: what a run leaves behind, written as it goes.

config.yaml (resolved), overrides.yaml, metrics.jsonl (flushed at every evaluation), metrics.parquet (the same rows, at the end),
model.safetensors, summary.json (with the versions), status.json (running, done, diverged, or failed with its traceback), curves.png.
Every file but metrics.jsonl, which grows, is written atomically.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import platform
import traceback
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from fedsim.errors import ConfigError
from fedsim.recording.files import json_bytes, plain, write_atomic, yaml_bytes
from fedsim.recording.loggers import Logger
from fedsim.recording.rows import Rows, json_line

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import torch

_RESULTS = ("metrics.jsonl", "metrics.parquet", "model.safetensors", "curves.png")


@functools.cache
def versions() -> dict[str, str]:
    """Versions of fedsim, torch, numpy and Python."""
    found = {}
    for package in ("fedsim", "torch", "numpy"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return {**found, "python": platform.python_version()}


class Recorder:
    """Records one run; used by the driver only.

    folder: the run folder, None to keep the rows in memory; config: the resolved configuration; overrides: what the user typed;
    loggers: where rows go besides.
    """

    def __init__(
        self, folder: Path | str | None, config: Mapping[str, Any], overrides: Sequence[str] = (), loggers: Sequence[Logger] = ()
    ) -> None:
        self.folder = None if folder is None else Path(folder)
        self.config: dict[str, Any] = plain(config)
        self.overrides = [str(override) for override in overrides]
        self.loggers = list(loggers)
        self._rows = Rows()
        self._lines: TextIO | None = None
        self._started = datetime.now(UTC).isoformat(timespec="seconds")

    def start(self) -> None:
        """Make the folder and write what is known before the first round. Results of an earlier run in the same folder are removed, so
        that they are not taken for this run's. Raises ConfigError if the folder cannot be made or written."""
        try:
            if self.folder is not None:
                self.folder.mkdir(parents=True, exist_ok=True)
            for logger in self.loggers:
                logger.start(self.folder, self.config)
            if self.folder is not None:
                self._write("config.yaml", yaml_bytes(self.config))
                for name in _RESULTS:
                    (self.folder / name).unlink(missing_ok=True)
                self._write("overrides.yaml", yaml_bytes(self.overrides))
                self._write("summary.json", json_bytes({"versions": versions()}))
                self.status("running")
                self._lines = open(self.folder / "metrics.jsonl", "x", encoding="ascii")
        except OSError as error:
            raise ConfigError("folder", str(self.folder), f"a folder that can be made and written ({error.strerror})") from None

    def rows(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Append the rows of one evaluation (see fedsim.recording.rows) and flush them: a killed run keeps what it had."""
        clean = [self._rows.append(row) for row in rows]
        if self._lines is not None:
            self._lines.writelines(map(json_line, clean))
            self._lines.flush()
        for logger in self.loggers:
            logger.rows(clean)

    def table(self) -> pd.DataFrame:
        """All rows so far: a tidy table with columns round, clock, scope, node, metric, value."""
        return self._rows.table()

    def finish(
        self,
        summary: Mapping[str, Any],
        model_tensors: Mapping[str, torch.Tensor | np.ndarray] | None = None,
        status: str = "done",
        reason: str | None = None,
    ) -> None:
        """Write the outcome. summary: goes to summary.json beside the versions; model_tensors: the final model by tensor name;
        status, reason: "done", or "diverged" and why."""
        self._close()
        self._write("metrics.parquet", self._rows.parquet)
        if self.folder is not None:
            if model_tensors is not None:
                self._write("model.safetensors", _safetensors(model_tensors))
            from fedsim.analysis.curves import run_curves

            self._write("summary.json", json_bytes({**summary, "versions": versions()}))
            run_curves(self.table(), self.folder / "curves.png")
        self.status(status, reason)

    @property
    def empty(self) -> bool:
        """Whether there are no rows yet."""
        return len(self._rows) == 0

    def discard(self) -> None:
        """Remove what `start` wrote, and the folder if nothing else is in it: for a run that is refused before its first round."""
        self._close()
        if self.folder is not None:
            for name in ("config.yaml", "overrides.yaml", "summary.json", "status.json", "metrics.jsonl"):
                (self.folder / name).unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                self.folder.rmdir()

    def fail(self, error: BaseException) -> None:
        """Record that the run ended with `error`; its rows so far stay. Never raises for want of disk, so that `error` is what is seen."""
        with contextlib.suppress(OSError):
            self._close()
        with contextlib.suppress(OSError):
            text = "".join(traceback.format_exception(error))
            self.status("failed", " ".join(f"{type(error).__name__}: {error}".split()).rstrip(":"), traceback=text)

    def status(self, name: str, reason: str | None = None, **details: Any) -> None:
        """Write status.json. name: running, done, diverged or failed; reason: one line."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        known = {"status": name, "reason": reason, "started": self._started, "updated": now, **details}
        self._write("status.json", json_bytes({key: part for key, part in known.items() if part is not None}))

    def _write(self, name: str, content: bytes | Callable[[], bytes]) -> None:
        if self.folder is not None:
            write_atomic(self.folder / name, content() if callable(content) else content)

    def _close(self) -> None:
        lines, self._lines = self._lines, None
        try:
            if lines is not None:
                lines.close()
        finally:
            loggers, self.loggers = self.loggers, []
            for logger in loggers:
                logger.close()


def _safetensors(tensors: Mapping[str, torch.Tensor | np.ndarray]) -> bytes:
    import torch
    from safetensors.torch import save

    # Copies: the format refuses tensors that share memory, as views of one flat vector do
    return save({name: torch.as_tensor(part).detach().cpu().contiguous().clone() for name, part in tensors.items()})
