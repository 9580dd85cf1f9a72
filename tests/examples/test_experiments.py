"""The settings of experiments/ are accepted."""

import pytest

from fedsim.config.building import build
from fedsim.config.composition import compose
from tests.paths import REPOSITORY

FILES = sorted((REPOSITORY / "experiments").glob("*/*/experiment/*.yaml"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parents[2].name}-{file.stem}")
def test_settings_of_an_experiment_compose_and_build(file):
    simulation = build(compose([f"experiment={file.stem}"], file.parents[1]))
    described = [line for line in file.read_text().splitlines() if line.startswith("#")]
    # What fedsim list shows
    assert described[0] == "# @package _global_" and len(described[1]) > 20
    assert simulation.rounds > 0
