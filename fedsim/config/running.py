"""Running what settings describe, as one run or as a job of many."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fedsim.config.building import Settings, build, in_settings
from fedsim.config.sweeps import (
    claimed,
    digest,
    file_name,
    job_folder,
    job_key,
    same_run,
    state_of,
    stored_summary,
)
from fedsim.errors import ConfigError, one_line
from fedsim.recording.files import shown
from fedsim.recording.find_runs import find_runs
from fedsim.simulation.result import FINISHED

if TYPE_CHECKING:
    from fedsim.simulation.simulation import Result


def run(
    settings: Settings,
    folder: Path | str | None = None,
    progress: bool | Literal["auto"] | None = None,
    resume: bool = False,
) -> Result:
    """Build and run a simulation, alone in its folder. resume: see `Simulation.run`. Raises
    ConfigError, its key being the setting's."""
    with claimed(None if folder is None else Path(folder)):
        return _run(settings, folder, progress, resume)


def run_again(settings: Settings, folder: Path | None, progress: bool | None = None) -> Result:
    """A run of many: as `run`, but what `folder` has of the same run is not computed again. Where
    another process is at work on it, its end is waited for."""
    if folder is None:
        return _run(settings, None, progress, False)
    with claimed(folder, wait=True):
        before = _stamp(folder)
        try:
            return _run(settings, folder, progress, resume=_goes_on(folder, settings))
        except Exception as error:
            # The run itself has not said so
            if _stamp(folder) == before or state_of(folder) != "failed":
                record_failure(settings, folder, error)
            raise


def run_one(settings: Settings, folder: Path, resume: bool = False) -> float:
    """The run of a command line: says how it ended; returns its main value."""
    result = run(settings, folder, resume=resume)
    print(ending(result.summary, result.status, folder, settings), flush=True)
    return main_value(result.summary)


def run_job(settings: Settings, folder: Path, progress: bool | None = None) -> float:
    """A job of the command line's multirun: as `run_one`, and a finished one is not even built."""
    with claimed(folder, wait=True):
        summary = stored_summary(folder, settings.config)
    if summary is not None:
        print(ending(summary, f"{summary['status']} before", folder, settings), flush=True)
        return main_value(summary)
    result = run_again(settings, folder, progress)
    print(ending(result.summary, result.status, folder, settings), flush=True)
    return main_value(result.summary)


def run_seeds(
    settings: Settings, folders: Sequence[Path], progress: bool | None = None, record: bool = False
) -> float:
    """The runs of `settings.seeds`, trained together; each says how it ended. What a folder has of
    its run is not computed again.

    record: also what was refused, as a run that has failed, and raise nothing. The mean of the
    runs' main values. Raises what the first that failed has raised, when all have ended.
    """
    from fedsim.simulation.batched_seeds import run_together

    each = list(zip(settings.of_each_seed(), folders, strict=True))
    values, left = [], []
    with contextlib.ExitStack() as claims:
        for folder in sorted(folders):  # in one order, or two processes could wait for each other
            claims.enter_context(claimed(folder, wait=True))
        for own, folder in each:
            if (summary := stored_summary(folder, own.config)) is None:
                left.append((own, folder))
                continue
            print(ending(summary, f"{summary['status']} before", folder, own), flush=True)
            values.append(main_value(summary))
        before = {folder: _stamp(folder) for _, folder in left}
        found: list[Result | BaseException]
        try:
            simulations = [
                build(own, folder, progress if n == 0 else False)
                for n, (own, folder) in enumerate(left)
            ]
            found = run_together(simulations, [_goes_on(folder, own) for own, folder in left])
        except Exception as error:  # before any has started
            found = [error] * len(left)
        errors = []
        for (own, folder), result in zip(left, found, strict=True):
            if not isinstance(result, BaseException):
                print(ending(result.summary, result.status, folder, own), flush=True)
                values.append(main_value(result.summary))
                continue
            errors.append(in_settings(result, own) if isinstance(result, ConfigError) else result)
            if record and (_stamp(folder) == before[folder] or state_of(folder) != "failed"):
                record_failure(own, folder, errors[-1])
    if errors and not record:
        raise errors[0]
    return sum(values) / len(values) if values else math.nan


def seeds_key(config: Mapping[str, Any]) -> str:
    """As `job_key`, of a job that is several runs."""
    return digest(f"seeds of {job_key(config)}")


def seed_folders(settings: Settings, folder: Path, in_sweep: bool) -> list[Path]:
    """Where the runs of `settings.seeds` record: in a sweep beside each other, where a sweep over
    seed= has them too, else in `folder`."""
    if not in_sweep:
        return [folder / f"seed={seed}" for seed in settings.seeds]
    swept, found = folder.name.removesuffix(seeds_key(settings.config)).rstrip("-"), []
    for own in settings.of_each_seed():
        name = job_folder(folder.parent, {}, key := job_key(own.config))
        readable = file_name(",".join(filter(None, (swept, f"seed={own.config['seed']}"))))
        found.append(folder.parent / (f"{readable}-{key}" if name == key else name))
    return found


def main_value(summary: dict[str, Any]) -> float:
    """The final accuracy (regression: the loss), for sweepers that optimise."""
    return float(summary.get("accuracy", summary.get("loss", math.nan)))


def ending(summary: dict[str, Any], status: str, folder: Path, settings: Settings) -> str:
    """One line: "fedau: accuracy 0.912 after 100 rounds in 12 s, done: outputs/fedau/..."."""
    metric = next((metric for metric in ("accuracy", "loss") if metric in summary), None)
    value = f"{metric} {summary[metric]:.4g} " if metric else ""
    # It may be of a folder that somebody sent
    name = one_line(str(settings.config.get("name", "")))
    return (
        f"{name}: {value}after {summary['rounds']} rounds in {summary['seconds']:.3g} s, {status}:"
        f" {shown(folder)}"
    )


def record_failure(settings: Settings, folder: Path, error: BaseException) -> None:
    """Leave a run folder that says why there is no run; what an earlier attempt at the same run has
    left stays."""
    from fedsim.recording.recorder import Recorder

    recorder = Recorder(folder, settings.recorded, settings.overrides)
    if not same_run(folder, settings.config):
        recorder.start()
    recorder.fail(error)


def failures(folder: Path, before: dict[Path, Any]) -> list[tuple[str, str]]:
    """(run folder, reason) of every run in and below `folder` that has failed, or never ended,
    since `before` (see `states`)."""
    changed = {
        path.resolve() for path, stamp in states(folder).items() if before.get(path) != stamp
    }
    try:
        found = find_runs(folder)
    except ConfigError:  # no run at all
        return []
    bad = [run for run in found if run.status not in FINISHED and run.folder in changed]
    return [(shown(run.folder), run.reason) for run in bad]


def states(folder: Path) -> dict[Path, Any]:
    """Run folder -> what changes when its status is written anew."""
    return {path.parent: _stamp(path.parent) for path in folder.rglob("status.json")}


def _run(
    settings: Settings,
    folder: Path | str | None,
    progress: bool | Literal["auto"] | None,
    resume: bool,
) -> Result:
    try:
        simulation = build(settings, folder, progress)
        return simulation.run(resume=True) if resume else simulation.run()
    except ConfigError as error:
        raise in_settings(error, settings) from error.__cause__


def _goes_on(folder: Path, settings: Settings) -> bool:
    """Whether there is something to go on from: not where a run of these settings was refused."""
    refused = state_of(folder) == "failed" and not any((folder / "checkpoints").glob("*"))
    return not refused and same_run(folder, settings.config)


def _stamp(folder: Path) -> tuple[int, int] | None:
    """Differs whenever the folder's status has been written again: every time as a new file."""
    try:
        status = (folder / "status.json").stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns
