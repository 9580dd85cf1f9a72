"""Runs from Python and notebooks, with the command line's settings."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedsim.config.building import Settings, build
from fedsim.config.composition import compose
from fedsim.config.processes import in_worker, leading
from fedsim.config.running import run, run_again
from fedsim.config.sweeps import job_folder, job_key
from fedsim.errors import ConfigError, require

if TYPE_CHECKING:
    from fedsim.simulation.simulation import Result


def simulate(
    overrides: Sequence[str] = (),
    *,
    folder: Path | str | None = None,
    config_dir: Path | str | None = None,
    progress: bool = False,
) -> Result:
    """One run, as `fedsim run` with these overrides.

        simulate(["algorithm=fedau", "participation=markov", "rounds=200"])

    folder: where to record (None: nowhere); config_dir: a folder of your own options; progress:
    show a bar. Raises ConfigError.
    """
    return run(compose(_checked(overrides), config_dir), folder, progress)


def simulate_many(
    runs: Iterable[Sequence[str]] | Mapping[str, Any],
    *,
    folder: Path | str | None = None,
    config_dir: Path | str | None = None,
    processes: int = 2,
    progress: bool = False,
) -> list[Result]:
    """Several runs, each in one of `processes` processes; the results in the order of the runs.

        simulate_many({"algorithm": ["fedavg", "fedau"], "seed": range(3), "rounds": 200},
            folder="runs/first")

    runs: the overrides of each run, or a value or several values for each key, of which every
    combination is run; folder: where each run has its own, named by what tells the runs apart and a
    key (None: nowhere); a run that is finished there is not repeated, one that was interrupted goes
    on; config_dir, progress: as in `simulate`. Raises ConfigError before any run starts if one of
    them cannot be built, and RuntimeError after the last if some failed.
    """
    from joblib import Parallel, delayed
    from rich.progress import track

    require(
        isinstance(processes, int) and processes >= 1,
        "processes",
        processes,
        "accepted is an integer of at least 1",
    )
    settings = [
        compose(_checked(overrides), config_dir)
        for overrides in (combinations(runs) if isinstance(runs, Mapping) else runs)
    ]
    folders = (
        _folders(settings, Path(folder).absolute())
        if folder is not None
        else [None] * len(settings)
    )
    for each, place in zip(settings, folders, strict=True):
        simulation = build(each, place)
        beside = processes > 1 and type(simulation.engine).__name__ == "Ray"
        require(
            not beside,
            "processes",
            processes,
            "each would start a Ray session of its own; with engine=ray use processes=1",
        )
    jobs = (
        delayed(_attempt)(each, place, os.getpid())
        for each, place in zip(settings, folders, strict=True)
    )
    with leading() if processes > 1 else contextlib.nullcontext():
        attempts = Parallel(n_jobs=processes, return_as="generator")(jobs)
        found = list(track(attempts, "runs", total=len(settings), disable=not progress))
    failed = [
        (each.overrides, error)
        for each, error in zip(settings, found, strict=True)
        if isinstance(error, Exception)
    ]
    if failed:
        overrides, error = failed[0]
        reason = (
            f"{len(failed)} of {len(found)} runs failed, the first ({' '.join(overrides)}) with"
            f" {type(error).__name__}: {error}"
        )
        raise RuntimeError(reason) from error
    return found


def combinations(axes: Mapping[str, Any]) -> list[list[str]]:
    """The overrides of every combination of values; what is no list, tuple or range is one
    value."""
    values = [
        list(value) if isinstance(value, list | tuple | range) else [value]
        for value in axes.values()
    ]
    return [
        [f"{key}={_text(value)}" for key, value in zip(axes, each, strict=True)]
        for each in itertools.product(*values)
    ]


def _text(value: Any) -> str:
    """A value in the grammar of overrides."""
    return value if isinstance(value, str) else json.dumps(value)


def _folders(settings: Sequence[Settings], folder: Path) -> list[Path]:
    """A folder for each run, named by the overrides that not all runs have."""
    typed = [
        dict(override.lstrip("+").partition("=")[::2] for override in each.overrides)
        for each in settings
    ]
    common = set.intersection(*(set(each.items()) for each in typed)) if len(typed) > 1 else set()
    apart = [
        {key: value for key, value in each.items() if (key, value) not in common} for each in typed
    ]
    keys = [job_key(each.config) for each in settings]
    places: dict[str, Path] = {}
    for own, key in zip(apart, keys, strict=True):
        places.setdefault(key, folder / job_folder(folder, own, key))
    return [places[key] for key in keys]


def _attempt(settings: Settings, folder: Path | None, leader: int) -> Result | Exception | None:
    def job() -> Result | Exception:
        try:
            return run_again(settings, folder, progress=False)
        except Exception as error:
            return error

    return job() if os.getpid() == leader else in_worker(job)


def _checked(overrides: Sequence[str]) -> list[str]:
    listed = not isinstance(overrides, str) and all(
        isinstance(override, str) for override in overrides
    )
    if not listed:
        raise ConfigError(
            "overrides",
            overrides,
            'accepted is a list of texts, such as ["algorithm=fedau", "rounds=200"]',
        )
    return list(overrides)
