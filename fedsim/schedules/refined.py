"""The refined schedule: learning rates computed from the gradient norms of an earlier run.

Source: Defazio, Cutkosky, Mehta, Mishchenko, "When, Why and How Much? Adaptive Learning Rate
Scheduling by Refinement", 2023 (arXiv 2310.07831).

    w_t = G_t^-power;
        eta_t proportional to w_t * sum of w_p over p > t;   then divided by the largest

Symbols: G_t norm in round t, t = 0..T-1, smoothed by a median filter about 0.1 T wide (an odd
number of rounds), its edges by reflection. Where the norms stay the same this is linear decay;
where they fall towards the end, the rate falls late.

Departures, all because rounds take the place of steps: G_t is the mean norm over the cohort of a
client's update divided by the round's learning rate, that is of its summed local directions
(Euclidean also where power = 1, for which the paper takes l1 norms). The sum has one term more, the
reflection of the last one, so that the rate reaches zero just after the last round and not in it,
as `Linear`. A round in which nobody took part has the norm that lies between its neighbours'. Norms
of a run of another length are stretched to this one.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from fedsim.component import NonNegative, Positive, Probability, component
from fedsim.errors import require
from fedsim.recording.descriptions import describe
from fedsim.schedules.decays import REX, Constant, Cosine, Linear, Schedule

if TYPE_CHECKING:
    import pandas as pd


BASES: dict[str, type[Schedule]] = {
    "constant": Constant,
    "linear": Linear,
    "cosine": Cosine,
    "rex": REX,
}


@component
class Refined(Schedule):
    """The rate that the norms recorded in a run ask for (Defazio et al. 2023). By default the run
    is made first, with the same settings and the schedule `base`; it is recorded in the folder
    `base` within the run folder. If it diverges, this run repeats it.

    norms: the folder of an earlier run, or its norms, one for each round (null: make the run
    first); base: schedule of that run; power: 2 for SGD, 1 for Adam; smoothing: width of the median
    filter, as a share of the rounds.
    """

    norms: str | list[NonNegative] | None = None
    base: Literal["constant", "linear", "cosine", "rex"] = "linear"
    power: Positive = 2.0
    smoothing: Probability = 0.1

    def __post_init__(self) -> None:
        self._factors: dict[int, np.ndarray] = {}  # by number of rounds, warm-up included
        self._norms: np.ndarray | None = None
        if self.norms is not None:
            self._norms = (
                read_norms(Path(self.norms).expanduser())
                if isinstance(self.norms, str)
                else np.array(self.norms)
            )
            require(
                bool((self._norms > 0).any()),
                "Refined.norms",
                self.norms,
                "accepted are norms of which one at least is above 0",
            )

    def ready(self, simulation: Any, resume: bool = False) -> Schedule:
        if self._norms is not None:
            return self
        base = BASES[self.base](warmup=self.warmup)
        result = run_with(simulation, base, resume)
        if result.status != "done":
            # diverged: nothing to compute a schedule from, and this run is to end like it
            return base
        return replace(self, norms=norms_of(result.metrics).tolist())

    def shape(self, round: int, rounds: int) -> float:
        if self._norms is None:
            raise RuntimeError(
                "the norms are not there yet; a simulation asks `ready` for the schedule that has"
                " them"
            )
        total = rounds + self.warmup
        if total not in self._factors:
            steady = stretch(self._norms, total)[self.warmup :]
            self._factors[total] = refine(steady, self.power, self.smoothing)
        return float(self._factors[total][round])


def refine(norms: np.ndarray, power: float = 2.0, smoothing: float = 0.1) -> np.ndarray:
    """Factors in [0, 1], the largest 1, float64 [T], from norms above zero [T]. power, smoothing:
    see `Refined`."""
    from scipy.ndimage import median_filter

    width = 2 * int(smoothing * len(norms) / 2) + 1
    smooth = median_filter(np.asarray(norms, float), size=width, mode="reflect")
    # The scale cancels; in (0, 1], so that no power overflows
    weights = (smooth.min() / smooth) ** power
    later = np.append(weights[1:], weights[-1])[::-1].cumsum()[::-1]
    return weights * later / (weights * later).max()


def stretch(norms: np.ndarray, rounds: int) -> np.ndarray:
    """Norms [T] as norms of `rounds` rounds, zeros and NaN (rounds without a norm) replaced by what
    lies between their neighbours."""
    known = np.flatnonzero(np.isfinite(norms) & (norms > 0))
    return np.interp((np.arange(rounds) + 0.5) * len(norms) / rounds - 0.5, known, norms[known])


def run_with(simulation: Any, schedule: Schedule, resume: bool = False) -> Any:
    """The result of a simulation's settings with another schedule, recorded in the folder `base`
    within its own."""
    config = dict(simulation.config)
    if config:
        name = next(
            (option for option, cls in BASES.items() if isinstance(schedule, cls)),
            type(schedule).__name__,
        )
        config |= {
            "schedule": describe(schedule),
            "choices": {**config.get("choices", {}), "schedule": name},
        }
    folder = None if simulation.folder is None else Path(simulation.folder) / "base"
    accepted = "a folder and no link, since links in a run folder are not followed"
    require(folder is None or not folder.is_symlink(), "schedule.base", str(folder), accepted)
    name = f"{simulation.name}: base run".removeprefix(": ")
    again = replace(
        simulation,
        schedule=schedule,
        folder=folder,
        name=name,
        config=config,
        overrides=(),
        loggers=(),
        plots=False,
    )
    return again.run(**({"resume": True} if resume else {}))


def norms_of(table: pd.DataFrame) -> np.ndarray:
    """Norms [T] of the rounds of one run from its metric rows: update_norm over rate, 0 where
    nobody took part or the rate was 0. Raises ConfigError if not every round was recorded."""
    run = table[
        (table["scope"] == "run")
        & table["metric"].isin(("update_norm", "rate"))
        & (table["round"] > 0)
    ]
    rows = run.pivot_table(index="round", columns="metric", values="value", aggfunc="last")
    whole = (
        set(rows.columns) == {"update_norm", "rate"}
        and len(rows) > 0
        and rows.index[-1] == len(rows)
    )
    require(
        whole,
        "schedule.norms",
        f"{len(rows)} rounds",
        "accepted is a run that recorded update_norm and rate in every round",
    )
    update, rate = rows["update_norm"].to_numpy(), rows["rate"].to_numpy()
    return np.divide(update, rate, out=np.zeros(len(rows)), where=rate > 0)


def read_norms(folder: Path) -> np.ndarray:
    """Norms [T] of the run recorded in a folder. Raises ConfigError."""
    from fedsim.recording.metric_rows import read_table

    present = any((folder / name).is_file() for name in ("metrics.parquet", "metrics.jsonl"))
    require(
        present,
        "Refined.norms",
        str(folder),
        "accepted is the folder of a run (with metrics.jsonl), or null: it is then made first",
    )
    return norms_of(read_table(folder))
