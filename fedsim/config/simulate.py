"""Runs from Python and notebooks, with the command line's settings."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedsim.config.building import Settings, build
from fedsim.config.composition import compose
from fedsim.config.running import run
from fedsim.errors import ConfigError, require

if TYPE_CHECKING:
    from fedsim.simulation import Result


def simulate(
    overrides: Sequence[str] = (), *, folder: Path | str | None = None, config_dir: Path | str | None = None, progress: bool = False
) -> Result:
    """One run, as `fedsim run` with these overrides.

        simulate(["algorithm=fedau", "participation=markov", "rounds=200"])

    folder: where to record (None: nowhere); config_dir: a folder of your own options; progress: show a bar. Raises ConfigError.
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

        simulate_many({"algorithm": ["fedavg", "fedau"], "seed": range(3), "rounds": 200}, folder="runs/first")

    runs: the overrides of each run, or a value or several values for each key, of which every combination is run; folder: run n is
    recorded in <folder>/<n> (None: nowhere); config_dir, progress: as in `simulate`.
    Raises ConfigError before any run starts if one of them cannot be built, and RuntimeError after the last if some failed.
    """
    from joblib import Parallel, delayed
    from rich.progress import track

    require(isinstance(processes, int) and processes >= 1, "processes", processes, "accepted is an integer of at least 1")
    settings = [compose(_checked(overrides), config_dir) for overrides in (combinations(runs) if isinstance(runs, Mapping) else runs)]
    folders = [None if folder is None else Path(folder).absolute() / str(number) for number in range(len(settings))]
    for each, place in zip(settings, folders, strict=True):
        build(each, place)
    jobs = (delayed(_attempt)(each, place) for each, place in zip(settings, folders, strict=True))
    attempts = Parallel(n_jobs=processes, return_as="generator")(jobs)
    found = list(track(attempts, "runs", total=len(settings), disable=not progress))
    failed = [(each.overrides, error) for each, error in zip(settings, found, strict=True) if isinstance(error, Exception)]
    if failed:
        overrides, error = failed[0]
        reason = f"{len(failed)} of {len(found)} runs failed, the first ({' '.join(overrides)}) with {type(error).__name__}: {error}"
        raise RuntimeError(reason) from error
    return found


def combinations(axes: Mapping[str, Any]) -> list[list[str]]:
    """The overrides of every combination of values; what is no list, tuple or range is one value."""
    values = [list(value) if isinstance(value, list | tuple | range) else [value] for value in axes.values()]
    return [[f"{key}={_text(value)}" for key, value in zip(axes, each, strict=True)] for each in itertools.product(*values)]


def _text(value: Any) -> str:
    """A value in the grammar of overrides."""
    return value if isinstance(value, str) else json.dumps(value)


def _attempt(settings: Settings, folder: Path | None) -> Result | Exception:
    try:
        return run(settings, folder, progress=False)
    except Exception as error:
        return error


def _checked(overrides: Sequence[str]) -> list[str]:
    listed = not isinstance(overrides, str) and all(isinstance(override, str) for override in overrides)
    if not listed:
        raise ConfigError("overrides", overrides, 'accepted is a list of texts, such as ["algorithm=fedau", "rounds=200"]')
    return list(overrides)
