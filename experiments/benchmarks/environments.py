"""One virtual environment for each peer, with the pinned versions of requirements/, made where it
is missing.

python environments.py makes all of them; TORCH_ARGS="--index-url ..." names the index of PyTorch's
CPU builds where pip's sources have none, and PIP_ARGS holds further arguments of every
installation.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
FOLDER = HERE / ".venvs"


def python_of(peer: str) -> Path:
    """The interpreter of a peer's environment; None of fedsim's own packages are in it. Raises
    CalledProcessError."""
    home = FOLDER / peer
    python, done = home / "bin" / "python", home / ".installed"
    wanted = HERE / "requirements" / f"{peer}.txt"
    if done.is_file() and done.read_text() == wanted.read_text():
        return python
    print(f"Installing {peer} into {home}", flush=True)
    pip = [
        str(python),
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        *os.environ.get("PIP_ARGS", "").split(),
    ]
    torch = next(line for line in wanted.read_text().splitlines() if line.startswith("torch=="))
    first = [*os.environ.get("TORCH_ARGS", "").split(), torch]
    if not python.is_file():
        subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
    cpu = subprocess.run(
        [*pip, *first[:-1], "--no-deps", f"{torch}+cpu"], stderr=subprocess.DEVNULL
    )
    if cpu.returncode:
        subprocess.run([*pip, *first], check=True)
    subprocess.run([*pip, "-r", str(wanted)], check=True)
    done.write_text(wanted.read_text())
    return python


if __name__ == "__main__":
    for each in sys.argv[1:] or ("flower", "pfl", "fluke"):
        print(python_of(each))
