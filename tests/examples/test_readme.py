"""The README's Python examples run as they are printed."""

import re

from tests.paths import REPOSITORY

BLOCKS = re.findall(r"```python\n(.*?)```", (REPOSITORY / "README.md").read_text(), re.S)


def test_the_simulation_built_from_objects_runs():
    (block,) = [each for each in BLOCKS if "Simulation(" in each]
    names: dict = {}
    exec(compile(block, "README.md", "exec"), names)
    assert names["simulation"].run().accuracy > 0.3
