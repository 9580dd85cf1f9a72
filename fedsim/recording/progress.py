"""The progress bar: round, accuracy, rate and time left, on standard error."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import TYPE_CHECKING, Literal

from fedsim.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console


class RoundProgress:
    """A bar over rounds, used as a context manager.

        with RoundProgress(rounds=200) as progress:
            progress.update(12, accuracy=0.87)

    rounds: how many the run has; done: of them before; show: "auto" shows it if the output is a
    terminal, True always, False never.
    """

    def __init__(
        self,
        rounds: int,
        show: bool | Literal["auto"] = "auto",
        name: str = "",
        console: Console | None = None,
        done: int = 0,
    ) -> None:
        if show not in (True, False, "auto"):
            raise ConfigError("progress", show, "auto, true or false")
        self._bar = None
        terminal = (
            console.is_terminal and not console.is_dumb_terminal
            if console is not None
            else sys.stderr.isatty()
        )
        if show is False or (show == "auto" and not terminal):
            return
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TextColumn(
                "round {task.completed:.0f}/{task.total:.0f} "
                " {task.fields[accuracy]}{task.fields[rate]}"
            ),
            TimeRemainingColumn(compact=True),
            console=console or Console(stderr=True, force_terminal=True if show is True else None),
            refresh_per_second=4,
        )
        self._task = self._bar.add_task(name, total=rounds, completed=done, accuracy="", rate="")

    @property
    def shown(self) -> bool:
        """Whether there is a bar."""
        return self._bar is not None

    def update(self, done: int, accuracy: float | None = None) -> None:
        """done: rounds finished so far; accuracy: a fraction, the last known one stays shown if
        None."""
        if self._bar is None:
            return
        self._bar.update(
            self._task,
            completed=done,
            **({} if accuracy is None else {"accuracy": f"accuracy {accuracy:.3f}  "}),
        )
        speed = self._bar.tasks[self._task].finished_speed or self._bar.tasks[self._task].speed
        if speed:
            self._bar.update(
                self._task,
                rate=f"{speed:,.0f} rounds/s" if speed >= 100 else f"{speed:.3g} rounds/s",
            )

    def __enter__(self) -> RoundProgress:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
