"""Golden curves: what a run measured, kept in a small JSON file, and how far another run of the
same settings may be from it.

The tolerance is measured, not picked. Runs of the same seed that are executed differently
(`local.execution`, `local.clients_per_batch`, `local.groups`, another machine) show what rounding
does to a curve, runs of other seeds what chance does. The tolerance of a round is the geometric
mean of the two spreads so far, as far in logarithms from what a machine changes as from what a seed
changes:

    numeric_t = max over rounds up to t of |difference between executions|, at least RELATIVE
        |value|, for an accuracy one step of it
    seeds_t   = max over rounds up to t of the standard deviation over seeds
    tolerance_t = sqrt(numeric_t * max(seeds_t, numeric_t))
"""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fedsim.errors import ConfigError, require
from fedsim.recording.files import finite, nested, read_json, read_yaml, write_atomic
from fedsim.recording.identity import differing_key, telling, value_of
from fedsim.recording.metric_rows import read_table

if TYPE_CHECKING:
    import pandas as pd

FORMAT = 1
# Of a value, the least that rounding is taken to change; float32 has 6e-8 in one operation
RELATIVE = 1e-6
EXECUTION = ("local.execution", "local.clients_per_batch", "local.groups")
_LISTS, _NUMBERS = ("round", "value", "tolerance"), ("numeric", "seeds")  # of a curve


@dataclass(frozen=True)
class Curves:
    """What is compared of a run. settings: flat, less those that change no result; values:
    "scope/metric" -> rounds [n] and values [n]; sha256: of the metric rows."""

    settings: dict[str, Any]
    values: dict[str, tuple[np.ndarray, np.ndarray]]
    sha256: str

    @classmethod
    def of(cls, config: Mapping[str, Any], table: pd.DataFrame, sha256: str) -> Curves:
        """From a run's recorded settings and its metric rows. Times, and rows of single nodes and
        clients, are left out."""
        settings = telling(config)
        whole = table[(table.node < 0) & ~table.metric.str.startswith("seconds")]
        groups = whole.groupby(["scope", "metric"], sort=True)
        return cls(
            settings,
            {
                f"{s}/{m}": (part["round"].to_numpy(), part["value"].to_numpy())
                for (s, m), part in groups
            },
            sha256,
        )

    @classmethod
    def read(cls, folder: Path) -> Curves:
        """From a run folder. Raises ConfigError if it is none, or the run is not finished."""
        require(folder.is_dir(), "run", str(folder), "accepted is the folder of a finished run")
        state, config = read_json(folder / "status.json"), read_yaml(folder / "config.yaml")
        status = state.get("status") if isinstance(state, dict) else None
        require(
            status in ("done", "diverged"),
            "run",
            str(folder),
            f"accepted is a finished run, and this one is {status}",
        )
        require(
            isinstance(config, dict),
            "run",
            str(folder / "config.yaml"),
            "accepted is a mapping of settings",
        )
        summary = read_json(folder / "summary.json")
        return cls.of(
            config,
            read_table(folder),
            summary.get("metrics_sha256", "") if isinstance(summary, dict) else "",
        )


@dataclass(frozen=True)
class Golden:
    """settings, sha256: of the reference run; machine: where it ran; curves: "scope/metric" ->
    "round", "value" and "tolerance", lists, and the spreads at the end, "numeric" and "seeds"."""

    settings: dict[str, Any]
    sha256: str
    machine: str
    curves: dict[str, dict[str, Any]]

    @property
    def blind(self) -> list[str]:
        """Curves that chance moves, and whose tolerance is more than half of that at the end."""
        return [
            name
            for name, curve in self.curves.items()
            if 1e-9 < curve["seeds"] < 2 * curve["tolerance"][-1]
        ]

    @classmethod
    def measure(cls, runs: Sequence[Curves]) -> Golden:
        """From the run to be kept and others of the same settings but for the seed or the
        execution. Raises ConfigError for others."""
        reference, *others = runs
        executions, seeds = [reference], [reference]
        for other in others:
            seed = other.settings.get("seed") != reference.settings.get("seed")
            _refuse_difference(reference.settings, other.settings, {*EXECUTION, "seed"})
            (seeds if seed else executions).append(other)
        curves = {}
        for name, (rounds, values) in reference.values.items():
            alike = _stacked(name, rounds, executions)
            numeric = np.abs(alike - alike[0]).max(axis=0)
            least = RELATIVE * np.abs(values)
            if name.split("/")[1].startswith("accuracy"):
                least = np.full(len(values), _quantum(alike))
            numeric = np.maximum.accumulate(np.maximum(numeric, least))
            chance = (
                np.maximum.accumulate(_stacked(name, rounds, seeds).std(axis=0, ddof=1))
                if len(seeds) > 1
                else np.zeros(len(rounds))
            )
            tolerance = np.sqrt(numeric * np.maximum(chance, numeric))
            lists = {
                "round": rounds.tolist(),
                "value": _short(values),
                "tolerance": _short(tolerance),
            }
            curves[name] = lists | dict(
                zip(_NUMBERS, _short([numeric[-1], chance[-1]]), strict=True)
            )
        return cls(
            reference.settings,
            reference.sha256,
            f"{platform.system()} {platform.machine()}, torch {version('torch')}",
            curves,
        )

    def write(self, path: Path) -> None:
        """Raises ConfigError if the file cannot be written."""
        head = {
            "format": FORMAT,
            "machine": self.machine,
            "metrics_sha256": self.sha256,
            "settings": self.settings,
        }
        lines = [
            f"  {json.dumps(name)}: {json.dumps(finite(curve), allow_nan=False)}"
            for name, curve in self.curves.items()
        ]
        text = (
            json.dumps(finite(head), indent=1, allow_nan=False)[:-2]
            + ',\n "curves": {\n'
            + ",\n".join(lines)
            + "\n }\n}\n"
        )
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, text.encode())
        except OSError as error:
            raise ConfigError(
                "--write", str(path), f"accepted is a file that can be written ({error.strerror})"
            ) from None

    @classmethod
    def read(cls, path: Path) -> Golden:
        """Raises ConfigError if the file is missing, no golden file, or of another format."""
        content = read_json(path, links=True)

        def accepted(fits: bool) -> None:
            require(
                fits,
                "--against",
                str(path),
                f"accepted is a file of format {FORMAT} that `fedsim check --write` made",
            )

        accepted(isinstance(content, dict) and content.get("format") == FORMAT)
        parts = [content.get(key) for key in ("settings", "metrics_sha256", "machine", "curves")]
        kinds = zip(parts, (dict, str, str, dict), strict=True)
        accepted(all(isinstance(part, kind) for part, kind in kinds) and bool(parts[3]))
        for curve in parts[3].values():
            accepted(isinstance(curve, dict) and set(curve) == {*_LISTS, *_NUMBERS})
            accepted(
                all(
                    isinstance(curve[key], list) and all(map(_number, curve[key])) for key in _LISTS
                )
            )
            accepted(
                all(_number(curve[key]) for key in _NUMBERS)
                and len({len(curve[key]) for key in _LISTS}) == 1
                and bool(curve["round"])
            )
        try:
            return cls(telling(nested(parts[0])), *parts[1:])
        except (ValueError, TypeError):
            accepted(False)
            raise


@dataclass(frozen=True)
class Moved:
    """A curve that left its tolerance. round: the first time; value, golden, tolerance: then;
    worst: greatest distance in tolerances."""

    curve: str
    round: int
    value: float
    golden: float
    tolerance: float
    worst: float


def moved(golden: Golden, run: Curves) -> list[Moved]:
    """The curves that are out of tolerance, the worst first; a curve that one of the two lacks
    counts as infinitely far. Raises ConfigError if the settings differ, the execution aside."""
    _refuse_difference(golden.settings, run.settings, set(EXECUTION))
    found = []
    for name in sorted({*golden.curves, *run.values}):
        curve, (rounds, values) = (
            golden.curves.get(name),
            run.values.get(name, (np.zeros(0), np.zeros(0))),
        )
        if curve is None or list(rounds) != curve["round"]:
            first = next(iter(curve["round"] if curve else rounds.tolist()))
            found.append(Moved(name, int(first), np.nan, np.nan, 0.0, np.inf))
            continue
        kept, tolerance = np.array(curve["value"]), np.array(curve["tolerance"])
        # The file holds nine digits
        same = np.isclose(values, kept, rtol=1e-8, atol=0, equal_nan=True)
        distance = np.where(same, 0.0, np.abs(values - kept))
        ratio = np.where(
            same, 0.0, np.nan_to_num(distance / np.maximum(tolerance, 1e-300), nan=np.inf)
        )
        if (ratio > 1).any():
            at = int(np.argmax(ratio > 1))
            worst = float(ratio.max())
            found.append(
                Moved(
                    name,
                    int(rounds[at]),
                    float(values[at]),
                    float(kept[at]),
                    float(tolerance[at]),
                    worst,
                )
            )
    return sorted(found, key=lambda each: -each.worst)


def _refuse_difference(golden: Mapping[str, Any], run: Mapping[str, Any], free: set[str]) -> None:
    kept, here = ({k: v for k, v in part.items() if k not in free} for part in (golden, run))
    if (key := differing_key(kept, here)) is not None:
        raise ConfigError(key, value_of(run, key), f"the golden run has {value_of(golden, key)!r}")


def _stacked(name: str, rounds: np.ndarray, runs: Sequence[Curves]) -> np.ndarray:
    """Values of one curve of several runs [runs, n]; a curve that ends early (a run diverged) is no
    help to measure a spread."""
    fitting = [
        run.values[name][1]
        for run in runs
        if name in run.values and np.array_equal(run.values[name][0], rounds)
    ]
    return np.stack(fitting)


def _quantum(values: np.ndarray) -> float:
    """The least step between different values of an accuracy."""
    steps = np.diff(np.unique(values))
    return float(steps[steps > 1e-9].min(initial=1.0)) if (steps > 1e-9).any() else 0.0


def _short(values: Sequence[float] | np.ndarray) -> list[float]:
    """Nine digits, as many as tell float32 values apart."""
    return [float(f"{value:.9g}") for value in values]


def _number(part: Any) -> bool:
    return isinstance(part, int | float) and not isinstance(part, bool)
