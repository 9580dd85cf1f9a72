"""Step sizes chosen on the validation split: every method at every point of a grid of quarter
decades, over several seeds.

`Search` decides which points are tried and knows nothing of runs; `tune` runs them.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from fedsim.analysis.comparison import main_curves
from fedsim.analysis.targets import LOWER_IS_BETTER
from fedsim.errors import ConfigError, require

if TYPE_CHECKING:
    import pandas as pd

PER_DECADE = 4
RATES = {"client": "local.rate", "server": "aggregator.rate"}  # axis -> setting
BATCH = 64  # runs whose results are in memory at once
Point = tuple[float, ...]  # a rate for each axis
SearchName = Literal["grid", "coordinates"]


def step_size(quarter: int) -> float:
    """10 ** (quarter / 4) to six digits: ..., 0.1, 0.177828, 0.316228, 0.562341, 1, ..."""
    return float(f"{10 ** (quarter / PER_DECADE):.6g}")


@dataclass(frozen=True)
class Range:
    """Step sizes from 10 ** (low / 4) to 10 ** (high / 4), a quarter decade apart."""

    low: int
    high: int

    @property
    def rates(self) -> list[float]:
        return [step_size(quarter) for quarter in range(self.low, self.high + 1)]

    @staticmethod
    def parse(text: str, key: str) -> Range:
        """ "-2:0" (exponents of ten) as a range; "-1" is a single step size. Raises
        ConfigError(key, text, ...)."""
        accepted = (
            "accepted is LOW:HIGH, exponents of ten in steps of 0.25 from -10 to 10, such as -2:0"
            " for step sizes from 0.01 to 1"
        )
        try:
            ends = [float(part) * PER_DECADE for part in text.split(":")]
        except ValueError:
            raise ConfigError(key, text, accepted) from None
        whole = len(ends) in (1, 2) and all(
            abs(end) <= 10 * PER_DECADE and end == int(end) for end in ends
        )
        require(whole and ends[0] <= ends[-1], key, text, accepted)
        return Range(int(ends[0]), int(ends[-1]))


@dataclass(frozen=True)
class Runner:
    """What makes settings and runs of overrides: three functions of `fedsim.config`, which knows
    more than an analysis does and is therefore handed in.

    compose(overrides, config_dir) -> settings; build(config) -> simulation; simulate_many: runs.
    """

    compose: Callable[..., Any]
    build: Callable[[Mapping[str, Any]], Any]
    simulate_many: Callable[..., list]


class Search:
    """Which points of a grid are tried: all of them, or along one axis after the other, client
    first.

    ranges: by axis; start: the value of an axis while another one is searched (coordinates only),
    or the end of its range that is nearer; widen: by how many steps the range of an axis may grow
    where the best point is at its end. `asked` and `told` go on until nothing is asked.
    """

    def __init__(
        self,
        ranges: Mapping[str, Range],
        search: SearchName,
        start: Mapping[str, float],
        widen: int,
    ) -> None:
        self.ranges = dict(ranges)
        self.held = {
            axis: min(max(value, ranges[axis].rates[0]), ranges[axis].rates[-1])
            for axis, value in start.items()
        }
        self.phases: list[list[str]] = (
            [list(ranges)] if search == "grid" else [[axis] for axis in ranges]
        )
        self.left = {axis: widen if each.low < each.high else 0 for axis, each in ranges.items()}
        self.scores: dict[Point, float] = {}

    def asked(self) -> list[Point]:
        """The points to be tried next; none: the search has ended."""
        while self.phases:
            free = self.phases[0]
            points = list(
                product(
                    *(
                        self.ranges[axis].rates if axis in free else [self.held[axis]]
                        for axis in self.ranges
                    )
                )
            )
            if missing := [point for point in points if point not in self.scores]:
                return missing
            best = self._best(points)
            if not any(
                [self._widen(axis, end) for axis, end in self._ends(best).items() if axis in free]
            ):
                self.phases.pop(0)
                self.held = dict(zip(self.ranges, best, strict=True))
        return []

    def told(self, point: Point, score: float) -> None:
        """The score of a point, larger is better; -inf: of no use."""
        self.scores[point] = score

    @property
    def best(self) -> Point:
        """The best point of all; of equal ones that with the smaller step sizes."""
        return self._best(list(self.scores))

    @property
    def at_edge(self) -> list[str]:
        """The axes on which the best point is at an end of the range."""
        return list(self._ends(self.best))

    def _best(self, points: list[Point]) -> Point:
        return max(sorted(points), key=self.scores.__getitem__)  # max takes the first of equals

    def _ends(self, point: Point) -> dict[str, int]:
        """Axis -> -1 or 1: the end at which the point is."""
        found = {}
        for (axis, grid), rate in zip(self.ranges.items(), point, strict=True):
            if grid.low < grid.high and rate in (grid.rates[0], grid.rates[-1]):
                found[axis] = -1 if rate == grid.rates[0] else 1
        return found

    def _widen(self, axis: str, end: int) -> bool:
        if not self.left[axis]:
            return False
        self.left[axis] -= 1
        old = self.ranges[axis]
        self.ranges[axis] = (
            replace(old, low=old.low - 1) if end < 0 else replace(old, high=old.high + 1)
        )
        return True


@dataclass
class Tuned:
    """What was found for one algorithm. settings: those it starts from; metric: accuracy, or loss
    for regression, on the validation split; axes: what was searched; values: by point, the value of
    each seed (NaN: diverged or refused); notes: what there is to know."""

    algorithm: str
    settings: Any
    metric: str
    axes: list[str]
    search: Search
    seeds: list[int]
    values: dict[Point, list[float]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def found(self) -> bool:
        """Whether a point can be chosen at all."""
        return self.search.scores[self.search.best] > -math.inf

    @property
    def chosen(self) -> dict[str, float]:
        """Axis -> the rate chosen."""
        return dict(zip(self.axes, self.search.best, strict=True))

    def mean(self, point: Point) -> float:
        """Mean over seeds; NaN if one of them diverged."""
        return float(np.mean(self.values[point]))

    def note_outcome(self) -> None:
        """Add notes on what the table does not show."""
        if not self.found:
            self.notes.append(
                "no step size can be used: every point diverged or was refused; try smaller ones"
            )
        for axis in self.search.at_edge if self.found else []:
            self.notes.append(
                f"the best {axis} rate is at the end of its range: widen it with --{axis}-rates or"
                " --widen"
            )


def tune(
    overrides: Sequence[str],
    algorithms: Sequence[str],
    ranges: Mapping[str, Range],
    runner: Runner,
    *,
    folder: Path | str,
    seeds: Sequence[int] = (0, 1),
    search: SearchName = "grid",
    last: int = 3,
    widen: int = 2,
    processes: int = 2,
    config_dir: Path | str | None = None,
    progress: bool = False,
) -> list[Tuned]:
    """Choose step sizes for each algorithm with otherwise the same settings, on the validation
    split.

    overrides: the settings, as `fedsim run` takes them; runner: what runs them; ranges: for
    "client" (local.rate), "server" (aggregator.rate), or both; seeds: a point's value is the mean
    over them of the mean of the `last` evaluations, the first models' left out, and a point where
    one of them diverges is of no use; search, widen: see `Search`; folder: where the runs are
    recorded: those that are there are not run again. Raises ConfigError before any run starts;
    RuntimeError if runs fail.
    """
    typed = dict(override.lstrip("+~").partition("=")[::2] for override in overrides)
    for key in ("algorithm", "seed", *(RATES[axis] for axis in ranges)):
        require(key not in typed, key, typed.get(key), "tuning sets it by itself; leave it out")
    require(bool(ranges), "--client-rates", None, "give --client-rates, --server-rates, or both")
    require(
        len(set(algorithms)) == len(algorithms) > 0,
        "algorithm",
        list(algorithms),
        "accepted are different algorithms, at least one",
    )
    require(
        len(set(seeds)) == len(seeds) > 0,
        "--seeds",
        list(seeds),
        "accepted are different seeds, at least one",
    )
    require(last >= 1, "--last", last, "accepted is a number of evaluations, at least 1")
    require(widen >= 0, "--widen", widen, "accepted is a number of steps, at least 0")
    fixed = [*overrides, *([] if "evaluation.split" in typed else ["evaluation.split=validation"])]
    methods = {
        name: _begin(name, fixed, ranges, runner, search, list(seeds), widen, config_dir)
        for name in algorithms
    }

    while wanted := [
        (method, point) for method in methods.values() for point in method.search.asked()
    ]:
        runs: list[tuple[Tuned, Point, list[str]]] = []
        for method, point in wanted:
            rates = [
                f"{RATES[axis]}={rate:g}" for axis, rate in zip(method.axes, point, strict=True)
            ]
            of_point = [
                [*fixed, f"algorithm={method.algorithm}", *rates, f"seed={seed}"]
                for seed in method.seeds
            ]
            refusal = _refusal(method, point, runner)
            method.values[point] = [math.nan] * len(method.seeds) if refusal else []
            method.notes += [f"{', '.join(rates)} is refused: {refusal}"] if refusal else []
            runs += [] if refusal else [(method, point, run) for run in of_point]
        for start in range(0, len(runs), BATCH):
            part = runs[start : start + BATCH]
            results = runner.simulate_many(
                [run for *_, run in part],
                folder=folder,
                config_dir=config_dir,
                processes=processes,
                progress=progress,
            )
            for (method, point, _), result in zip(part, results, strict=True):
                method.values[point].append(
                    final_value(result.status, result.metrics, method.metric, last)
                )
        for method, point in wanted:
            mean = method.mean(point)
            method.search.told(
                point,
                (
                    -math.inf
                    if math.isnan(mean)
                    else -mean
                    if method.metric in LOWER_IS_BETTER
                    else mean
                ),
            )
    for method in methods.values():
        method.note_outcome()
    return list(methods.values())


def final_value(status: str, metrics: pd.DataFrame, metric: str, last: int) -> float:
    """Mean of a metric over the last evaluations of a run, that of the first models left out; NaN
    if the run diverged. status, metrics: of its result."""
    if status != "done":
        return math.nan
    curve = main_curves(metrics.assign(run="this"), metric)
    return float(curve.loc[curve["round"] > 0, "value"].to_numpy()[-last:].mean())


def _begin(
    algorithm: str,
    fixed: list[str],
    ranges: Mapping[str, Range],
    runner: Runner,
    search: SearchName,
    seeds: list[int],
    widen: int,
    config_dir: Path | str | None,
) -> Tuned:
    """An algorithm before its first run: everything that can be refused is."""
    settings = runner.compose([*fixed, f"algorithm={algorithm}", f"seed={seeds[0]}"], config_dir)
    split, share = (
        settings.config["evaluation"].get("split"),
        settings.config["data"].get("validation"),
    )
    require(
        split == "validation",
        "evaluation.split",
        split,
        "step sizes are chosen on the validation split; leave this out",
    )
    accepted = (
        "step sizes are chosen on the validation split; accepted is its share of the training"
        " examples, such as 0.1"
    )
    require(share is None or share > 0, "data.validation", share, accepted)
    prepared = runner.build(settings.config).prepare()
    has = {axis: _rate_of(settings.config, setting) for axis, setting in RATES.items()}
    require(
        "client" in ranges or has["server"] is not None,
        "--server-rates",
        algorithm,
        "its aggregator has no rate; give --client-rates",
    )
    axes = [axis for axis in RATES if axis in ranges and has[axis] is not None]
    start = {axis: float(has[axis] or 0) for axis in axes}
    metric = "accuracy" if prepared.task.classification else "loss"
    tuned = Tuned(
        algorithm,
        settings,
        metric,
        axes,
        Search({axis: ranges[axis] for axis in axes}, search, start, widen),
        seeds,
    )
    tuned.notes += [
        "its aggregator has no rate: only the client's is tuned"
        for axis in ranges
        if axis not in axes
    ]
    return tuned


def _rate_of(config: Mapping[str, Any], setting: str) -> float | None:
    group, _, name = setting.partition(".")
    return config[group].get(name)


def _refusal(method: Tuned, point: Point, runner: Runner) -> str | None:
    """Why a method cannot work with these rates; None if it can."""
    config = copy.deepcopy(method.settings.config)
    for axis, rate in zip(method.axes, point, strict=True):
        group, _, name = RATES[axis].partition(".")
        config[group][name] = rate
    try:
        simulation = runner.build(config)
        simulation.client.check(simulation.local.rate, simulation.protocol.place)
    except ConfigError as error:
        return str(error)
    return None
