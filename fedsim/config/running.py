"""Running what settings describe, as one run or as a job of many."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fedsim.config.building import Settings, build, in_settings
from fedsim.errors import ConfigError

if TYPE_CHECKING:
    from fedsim.simulation import Result


def run(settings: Settings, folder: Path | str | None = None, progress: bool | Literal["auto"] | None = None) -> Result:
    """Build and run a simulation. Raises ConfigError, its key being the setting's."""
    try:
        return build(settings, folder, progress).run()
    except ConfigError as error:
        raise in_settings(error, settings) from error.__cause__


def run_job(settings: Settings, folder: Path, progress: bool | None = None) -> float:
    """A run of the command line: says how it ended; returns the final accuracy (regression: the loss), for sweepers that optimise."""
    result = run(settings, folder, progress)
    print(ending(result, str(settings.config.get("name", ""))), flush=True)
    return float(result.summary.get("accuracy", result.summary.get("loss", math.nan)))


def ending(result: Result, name: str) -> str:
    """One line: "fedau: accuracy 0.912 after 100 rounds in 12 s, done: outputs/fedau/..."."""
    summary: dict[str, Any] = result.summary
    metric = next((metric for metric in ("accuracy", "loss") if metric in summary), None)
    value = f"{metric} {summary[metric]:.4g} " if metric else ""
    where = f": {shown(result.folder)}" if result.folder is not None else ""
    return f"{name}: {value}after {summary['rounds']} rounds in {summary['seconds']:.3g} s, {result.status}{where}"


def record_failure(settings: Settings, folder: Path, error: Exception) -> None:
    """Leave a run folder that says why there is no run, unless the run itself has said so."""
    from fedsim.recording.recorder import Recorder

    if not (folder / "status.json").exists():
        recorder = Recorder(folder, settings.recorded, settings.overrides)
        recorder.start()
        recorder.fail(error)


def failures(folder: Path) -> list[tuple[str, str]]:
    """(run folder, reason) of every run in and below `folder` that failed or never ended."""
    from fedsim.analysis import failed_runs

    try:
        table = failed_runs(folder)
    except ConfigError:  # no run at all
        return []
    bad = table[table["status"] != "diverged"]
    return [
        (shown(folder / run if (folder / run).is_dir() else folder), reason) for run, reason in zip(bad["run"], bad["reason"], strict=True)
    ]


def shown(folder: Path) -> str:
    """A folder as the user would type it here."""
    here = Path.cwd()
    return str(folder.relative_to(here) if folder.is_relative_to(here) else folder)
