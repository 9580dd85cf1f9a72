"""`fedsim.kernels` exists for speed alone: without it results are the same within rounding."""

import shutil
import subprocess
import sys
from functools import partial

import numpy as np
import pytest

from fedsim import Simulation
from fedsim.algorithms import FedSpeed
from fedsim.data import Digits, Dirichlet, Synthetic
from fedsim.models import MLP, LeNet
from fedsim.participation import Uniform
from fedsim.training import LocalTraining, execution
from tests.paths import REPOSITORY

CASES = {
    "dense": (Digits(), partial(MLP, hidden=[16])),
    "convolutions": (Synthetic(samples=120, test=20, shape=[1, 14, 14], classes=3), LeNet),
}


@pytest.mark.parametrize("case", CASES)
def test_models_are_the_same_within_rounding_with_nothing_registered(case, monkeypatch):
    data, model = CASES[case]

    def models() -> np.ndarray:
        simulation = Simulation(
            data=data,
            partition=Dirichlet(clients=6, alpha=10.0),
            model=model,
            client=FedSpeed(),
            participation=Uniform(cohort=4),
            local=LocalTraining(steps=3, rate=0.05),
            rounds=5,
            progress=False,
        )
        return simulation.run().models

    found = models()
    monkeypatch.setattr(execution, "FASTER", [])
    without = models()
    assert not np.array_equal(found, without)  # else nothing was left out
    np.testing.assert_allclose(found, without, rtol=0, atol=2e-6)


@pytest.mark.long
def test_a_part_of_the_suite_passes_with_the_folder_removed(tmp_path):
    """Golden curves within their tolerances, laws, algorithms against plain loops."""
    for part in ("fedsim", "conf", "tests"):
        ignored = shutil.ignore_patterns(
            "__pycache__", "old_runs", *(["kernels"] if part == "fedsim" else [])
        )
        shutil.copytree(REPOSITORY / part, tmp_path / part, ignore=ignored)
    shutil.copy(REPOSITORY / "pyproject.toml", tmp_path)
    where = (
        "import fedsim, importlib.util as u; print(fedsim.__file__, u.find_spec('fedsim.kernels'))"
    )
    place = subprocess.run(
        [sys.executable, "-c", where], cwd=tmp_path, capture_output=True, text=True
    )
    assert place.stdout.split() == [str(tmp_path / "fedsim" / "__init__.py"), "None"]
    chosen = [
        f"tests/{name}" for name in ("convergence", "laws", "algorithms", "protocols", "rounds")
    ]
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-m",
        "not long",
        "-p",
        "no:cacheprovider",
        *chosen,
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]
