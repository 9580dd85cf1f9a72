"""The short form of experiments/faults/kill_driver.py: the driver is killed for real, three
times."""

import re
import subprocess
import sys

from tests.paths import REPOSITORY

SCRIPT = REPOSITORY / "experiments" / "faults" / "kill_driver.py"


def test_a_driver_killed_three_times_gives_the_bytes_of_one_that_was_not():
    command = [
        sys.executable,
        SCRIPT,
        "--times",
        "3",
        "--each",
        "3",
        "--rounds",
        "60",
        "--scenarios",
        "in process",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(
        r"^3 kills in [1-3] runs: 1 hash, 0 things left behind$", done.stdout, re.MULTILINE
    )
