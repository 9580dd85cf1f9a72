"""Installed as people do it: from a checkout, as an editable install, from a wheel; each used from
another folder."""

import os
import shutil
import site
import subprocess
import sys
from pathlib import Path

import pytest

from tests.paths import REPOSITORY

CODE = """
import fedsim
tiny = ["rounds=1", "partition.clients=6", "participation.cohort=3", "model.hidden=[4]"]
result = fedsim.simulate(tiny)
print(fedsim.__file__)
print(result.status)
"""
WITHOUT_COMPILER = {"CC": "/bin/false"}  # what is compiled is optional, and takes long


@pytest.fixture(scope="module")
def clone(tmp_path_factory) -> Path:
    """What a clone would hold, in a folder of the package's name."""
    folder = tmp_path_factory.mktemp("clones") / "fedsim"
    for part in ("fedsim", "conf"):
        shutil.copytree(
            REPOSITORY / part, folder / part, ignore=shutil.ignore_patterns("__pycache__", "*.so")
        )
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, folder)
    return folder


def run(*command: object, cwd: Path, **environment: str) -> str:
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    found = subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        env={**kept, **environment},
        capture_output=True,
        text=True,
    )
    assert found.returncode == 0, found.stderr
    return found.stdout


def used(python: object, cwd: Path, **environment: str) -> Path:
    """Where fedsim comes from in a script of this folder that runs a simulation."""
    (cwd / "script.py").write_text(CODE)
    place, status = run(python, "script.py", cwd=cwd, **environment).split()
    assert status == "done"
    return Path(place)


@pytest.fixture
def environment(tmp_path) -> Path:
    """The Python of a new virtual environment that has what this one has, but for fedsim."""
    run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv", cwd=tmp_path)
    python = tmp_path / "venv" / "bin" / "python"
    packages = Path(
        run(python, "-c", "import site; print(site.getsitepackages()[0])", cwd=tmp_path).strip()
    )
    # Its own .pth files are not read
    (packages / "beside.pth").write_text(site.getsitepackages()[0] + "\n")
    return python


def install(python: Path, what: object, *how: str) -> None:
    """As the Makefile does it."""
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--disable-pip-version-check", *how]
    run(
        sys.executable,
        "-m",
        "pip",
        "--python",
        python,
        "install",
        *options,
        what,
        cwd=python.parent,
        **WITHOUT_COMPILER,
    )


def test_a_checkout_is_used_from_its_own_folder_and_from_another(clone, tmp_path):
    assert used(sys.executable, tmp_path, PYTHONPATH=str(clone)).is_relative_to(clone)
    assert used(sys.executable, clone).is_relative_to(clone)


@pytest.mark.long
def test_an_editable_install_is_used_from_anywhere(clone, environment, tmp_path):
    """From the folder above the clone, which has the package's name, too."""
    install(environment, clone, "--config-settings", "editable_mode=compat", "--editable")
    for folder in (tmp_path, clone.parent, clone):
        assert used(environment, folder) == clone / "fedsim" / "__init__.py"
    assert (
        run(environment, "-m", "fedsim", "list", "mixing", cwd=clone.parent).count("metropolis")
        >= 1
    )


@pytest.mark.long
def test_a_wheel_has_the_options_within_the_package(clone, environment, tmp_path):
    install(environment, clone)
    assert used(environment, tmp_path).is_relative_to(tmp_path / "venv")
    packages = next((tmp_path / "venv" / "lib").glob("python*/site-packages"))
    options = {
        path.relative_to(packages / "fedsim").as_posix()
        for path in (packages / "fedsim" / "conf").rglob("*.yaml")
    }
    assert options == {
        path.relative_to(REPOSITORY).as_posix() for path in (REPOSITORY / "conf").rglob("*.yaml")
    }
    assert (packages / "fedsim" / "__init__.pyi").is_file() and not (packages / "conf").exists()
    (about,) = packages.glob("fedsim-*.dist-info")
    assert [path.name for path in (about / "licenses").rglob("*")] == ["LICENSE"]
    assert "metropolis" in run(environment, "-m", "fedsim", "list", "mixing", cwd=tmp_path)
