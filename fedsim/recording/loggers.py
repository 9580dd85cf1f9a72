"""Loggers: where metric rows go besides the run folder. A new one is a class with `rows`, here or
anywhere, and one YAML in conf/logger."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedsim.component import component
from fedsim.errors import ConfigError, require


class Logger:
    """Receives metric rows as they are made. `start` and `close` do nothing unless a logger needs
    them."""

    def start(self, folder: Path | None, config: dict[str, Any]) -> None:
        """Called once before the first rows. folder: the run's, None for a run in memory; config:
        the run's, as plain dicts."""

    def resume(self, folder: Path | None, config: dict[str, Any], round: int) -> None:
        """Called in place of `start` where a run goes on after `round`; rows of later rounds, if
        there are any, do not count."""
        self.start(folder, config)

    def rows(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Take the rows of one evaluation (see fedsim.recording.metric_rows)."""
        raise NotImplementedError("a logger takes rows")

    def close(self) -> None:
        """Called once at the end, also of a failed run."""


@component
class NoLogger(Logger):
    """Rows go to the run folder alone."""

    def rows(self, rows: Sequence[Mapping[str, Any]]) -> None:
        return None


@component
class TensorBoard(Logger):
    """TensorBoard event files: one scalar "scope/metric" per metric, by round.

    folder: where they go (default: `tensorboard` in the run folder); nodes: also write the rows of
    single nodes and clients, as "scope/metric/number" (many files' worth on large populations).
    Raises ConfigError if the package tensorboard is missing.
    """

    folder: str | None = None
    nodes: bool = False

    def __post_init__(self) -> None:
        require(
            importlib.util.find_spec("tensorboard") is not None,
            "TensorBoard",
            "tensorboard",
            "this logger needs the package tensorboard, in the extra `tracking`: pip install"
            " 'fedsim[tracking]'",
        )
        self._writer: Any = None

    def start(self, folder: Path | None, config: dict[str, Any]) -> None:
        self._open(folder, None)

    def resume(self, folder: Path | None, config: dict[str, Any], round: int) -> None:
        self._open(folder, round + 1)

    def _open(self, folder: Path | None, purge_step: int | None) -> None:
        if self.folder is None and folder is None:
            raise ConfigError(
                "TensorBoard.folder", None, "a folder must be given, because this run has none"
            )
        from torch.utils.tensorboard import SummaryWriter

        target = Path(self.folder) if self.folder is not None else Path(str(folder)) / "tensorboard"
        accepted = "a folder and no link, since links in a run folder are not followed"
        require(
            self.folder is not None or not target.is_symlink(),
            "TensorBoard.folder",
            str(target),
            accepted,
        )
        try:
            self._writer = SummaryWriter(str(target), purge_step=purge_step)
        except OSError as error:
            raise ConfigError(
                "TensorBoard.folder",
                str(target),
                f"a folder that can be written ({error.strerror or error})",
            ) from None

    def rows(self, rows: Sequence[Mapping[str, Any]]) -> None:
        for row in rows:
            if row["node"] < 0:
                self._writer.add_scalar(
                    f"{row['scope']}/{row['metric']}", row["value"], row["round"]
                )
            elif self.nodes:
                self._writer.add_scalar(
                    f"{row['scope']}/{row['metric']}/{row['node']}", row["value"], row["round"]
                )
        self._writer.flush()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None
