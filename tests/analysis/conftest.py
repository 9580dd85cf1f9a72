"""Synthetic run folders, written by the recorder itself."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from fedsim.analysis.curves import run_curves
from fedsim.recording.recorder import Recorder

FINAL = {"fedavg": 0.72, "fedau": 0.81, "fedspeed": 0.84}
LOSS_OF_PATTERN = {"bernoulli": 0.0, "markov": 0.04, "cyclic": 0.13}


def _config_of(algorithm: str, participation: str, seed: int, **settings) -> dict:
    """A resolved configuration as a run records it. settings: dotted names with "__" for the dot
    ("aggregator__cutoff")."""
    config = {
        "aggregator": {
            "_target_": f"fedsim.algorithms.{algorithm}.{algorithm.title()}",
            "rate": 1.0,
        },
        "participation": {
            "_target_": f"fedsim.participation.{participation}.{participation.title()}"
        },
        "local": {"rate": 0.1, "steps": 5},
        "engine": {"_target_": "fedsim.engine.inprocess.InProcess"},
        "seed": seed,
        "rounds": 100,
        "name": "",
        "choices": {"algorithm": algorithm, "participation": participation, "engine": "inprocess"},
    }
    for name, value in settings.items():
        *groups, last = name.split("__")
        part = config
        for group in groups:
            part = part.setdefault(group, {})
        part[last] = value
    return config


def _rows_of(round: int, accuracy: float, scope: str = "server") -> list[dict]:
    """The rows of one evaluation."""
    end = "_mean" if scope == "nodes" else ""
    run = {"bytes_up": 1e6 * round, "bytes_down": 2e6 * round, "seconds": 0.1 * round}
    rows = [
        {"round": round, "clock": 0.1 * round, "scope": "run", "metric": name, "value": value}
        for name, value in run.items()
    ]
    for name, value in {"accuracy": accuracy, "loss": 2 - 2 * accuracy}.items():
        rows.append(
            {
                "round": round,
                "clock": 0.1 * round,
                "scope": scope,
                "node": -1,
                "metric": name + end,
                "value": value,
            }
        )
        if scope == "nodes":
            for other, shift in {"min": -0.05, "max": 0.03}.items():
                rows.append(
                    {
                        "round": round,
                        "scope": scope,
                        "metric": f"{name}_{other}",
                        "value": value + shift,
                    }
                )
    return rows


def _write_run(
    folder: Path,
    config: dict,
    values: list[float],
    every: int = 10,
    end: str = "done",
    overrides=(),
    scope="server",
    picture=False,
) -> Path:
    """One run with an evaluation each `every` rounds. end: done, diverged, failed, killed; picture:
    let the recorder finish, with the picture that a simulation has drawn."""
    recorder = Recorder(folder, config, overrides)
    recorder.start()
    for number, value in enumerate(values):
        recorder.rows(_rows_of(number * every, value, scope))
    if end == "failed":
        recorder.fail(ValueError("out of luck"))
    elif end == "diverged":
        recorder.status("diverged", "the loss is not finite")
    elif end == "done":
        recorder.finish({}, draw=run_curves) if picture else recorder.status("done")
    recorder._close()
    return folder


def _write_sweep(
    root: Path,
    algorithms=tuple(FINAL),
    patterns=tuple(LOSS_OF_PATTERN),
    seeds=(0, 1, 2),
    rounds: int = 200,
) -> Path:
    """Every combination: curves that rise to an algorithm's level, less what the pattern costs,
    with noise common to a seed."""
    for number, (algorithm, pattern, seed) in enumerate(
        (a, p, s) for a in algorithms for p in patterns for s in seeds
    ):
        common, own = np.random.default_rng(seed), np.random.default_rng([seed, number])
        level = (
            FINAL[algorithm]
            - LOSS_OF_PATTERN[pattern] * (1.5 if algorithm == "fedavg" else 0.7)
            + common.normal(0, 0.02)
        )
        curve = [
            max(
                0.08,
                level * (1 - math.exp(-3.5 * done / rounds))
                + 0.1 * math.exp(-done / 20)
                + own.normal(0, 0.012),
            )
            for done in range(0, rounds + 1, 10)
        ]
        _write_run(root / str(number), _config_of(algorithm, pattern, seed), curve)
    return root


@pytest.fixture
def config_of():
    return _config_of


@pytest.fixture
def write_run():
    return _write_run


@pytest.fixture
def write_sweep():
    return _write_sweep
