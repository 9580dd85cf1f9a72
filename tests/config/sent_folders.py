"""What tests of folders that somebody sent share."""

import json
import os
import subprocess
import sys
from pathlib import Path

import yaml

from fedsim.cli.main import main
from tests.paths import REPOSITORY

NET = """
from pathlib import Path
from os import system
import os

Path({marker!r}).touch()

def net(input_shape, outputs):
    from torch import nn
    return nn.Linear(input_shape[0], outputs)
"""


def change(folder: Path, **groups: object) -> None:
    """Other settings in a folder's config.yaml; of a group, those that are given."""
    config = yaml.safe_load((folder / "config.yaml").read_text())
    for group, part in groups.items():
        config[group] = {**config[group], **part} if isinstance(part, dict) else part
    (folder / "config.yaml").write_text(yaml.safe_dump(config))


def refused(capfd, *typed: str) -> str:
    """What a command says that is refused in one line."""
    capfd.readouterr()
    assert main(["run", *typed]) == 2
    shown = capfd.readouterr()
    assert shown.err.count("\n") == 1 and shown.out == "", shown
    return shown.err


def fedsim(folder: Path, *typed: str, module: bool = False) -> subprocess.CompletedProcess:
    """A command in a process of its own, as the installed command or as `python -m fedsim`."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    command = "import sys; sys.path.remove(''); from fedsim.cli.main import main; sys.exit(main())"
    start = ["-m", "fedsim"] if module else ["-c", command]
    return subprocess.run(
        [sys.executable, *start, *typed],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


def summary(folder: Path) -> dict:
    return json.loads((folder / "summary.json").read_text())
