"""The README's worked example of an own algorithm: the files it shows are the files that run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import fedsim
from tests.paths import REPOSITORY

ROOT = REPOSITORY
EXAMPLE = ROOT / "examples" / "server_nesterov"
TINY = [
    "partition.clients=8",
    "participation.cohort=3",
    "rounds=4",
    "evaluation.every=4",
    "aggregator=server_nesterov",
]


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLE))


def models(*overrides: str, config_dir: Path | None = EXAMPLE / "conf") -> np.ndarray:
    return fedsim.simulate([*TINY, *overrides], config_dir=config_dir).models


def test_the_readme_shows_the_files_that_run_in_under_forty_lines() -> None:
    readme = (ROOT / "README.md").read_text()
    files = [
        EXAMPLE / "server_nesterov.py",
        EXAMPLE / "conf" / "aggregator" / "server_nesterov.yaml",
    ]
    for file in files:
        assert file.read_text().strip() in readme
    assert sum(len(file.read_text().splitlines()) for file in files) < 40


def test_without_momentum_it_is_the_plain_mean() -> None:
    plain = fedsim.simulate(
        [override for override in TINY if not override.startswith("aggregator")]
        + ["algorithm=average_participating"]
    )
    assert models("aggregator.momentum=0").tobytes() == plain.models.tobytes()


def test_the_velocity_is_added_in_the_first_round_and_remembered_in_the_second() -> None:
    """With mean updates D1 and D2 the models are x + (1 + b) D1, and then (1 + b) D2 + b^2 D1
    more."""
    start = models("aggregator.momentum=0", "rounds=1", "local.rate=1e-30")
    plain, first = (
        models("aggregator.momentum=0", "rounds=1"),
        models("aggregator.momentum=0.5", "rounds=1"),
    )
    np.testing.assert_allclose(first - start, 1.5 * (plain - start), atol=1e-6)
    second = models(
        "aggregator.momentum=0.5",
        "rounds=2",
        "schedule=step",
        "schedule.every=1",
        "schedule.decay=1e-9",
    )
    # A second round that hardly trains
    np.testing.assert_allclose(second - first, 0.25 * (plain - start), atol=1e-6)


def test_it_runs_over_a_graph_without_another_line() -> None:
    found = models("protocol=gossip", "topology=ring")
    assert found.shape[0] == 8 and np.isfinite(found).all()
    assert (
        found.tobytes()
        != models("protocol=gossip", "topology=ring", "aggregator.momentum=0").tobytes()
    )
