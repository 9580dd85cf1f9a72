"""Modules that lie beside config.yaml, or in the current folder, stand for no library."""

import shutil
import sys
from pathlib import Path

import pytest

from fedsim.analysis import compare, load_runs
from fedsim.cli.main import main
from tests.cli.test_resume import TINY
from tests.config.sent_folders import NET, change, fedsim, refused
from tests.helpers import mostly_long

NAMES = [
    "pandas",
    "glob",
    "tensorboard",
    "bottleneck",
    "numexpr",
    "yaml",
    "psutil",
    "scipy",
    "matplotlib",
    "evil",
]


def trap(folder: Path, marker: Path) -> None:
    """Modules that leave a file when they are imported, instead of the library of that name."""
    code = f"import os\nopen(os.path.join({str(marker)!r}, __name__), 'w').close()\n"
    marker.mkdir()
    for name in NAMES:
        (folder / f"{name}.py").write_text(code)
    (folder / "hydra_plugins" / "plugin").mkdir(parents=True)
    (folder / "hydra_plugins" / "plugin" / "__init__.py").write_text(code)


@pytest.mark.parametrize("module", mostly_long([False, True], False))
def test_nothing_beside_a_sent_config_is_imported(here, module, tmp_path):
    trap(here / "sent", marker := tmp_path / "marker")
    done = fedsim(here / "sent", "run", "resume=.", "progress=false", module=module)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    for command in (
        ["compare", "."],
        ["check", ".", "--write", "golden.json"],
        ["check", ".", "--against", "golden.json"],
    ):
        done = fedsim(here / "sent", *command, module=module)
        assert done.returncode == 0, done.stderr
    change(here / "sent", model={"_target_": "evil.Net"}, client={"_target_": "evil.Rule"})
    for command in (
        ["run", "resume=."],
        ["compare", "."],
        ["check", ".", "--write", "golden.json"],
    ):
        fedsim(here / "sent", *command, module=module)
    assert list(marker.iterdir()) == []


def test_modules_in_an_own_run_folder_that_came_later_are_not_imported(here, tmp_path):
    """A signed folder goes round too: what was put beside its config.yaml is not signed."""
    trap(here / "run", marker := tmp_path / "marker")
    done = fedsim(here / "run", "run", "resume=.", "progress=false")
    assert (done.returncode, done.stderr) == (0, "")
    assert list(marker.iterdir()) == []


@pytest.mark.parametrize("folder", ["run", "sent"])
def test_workers_of_a_cluster_do_not_start_within_a_run_folder(folder, here, capfd, monkeypatch):
    monkeypatch.chdir(here / folder)
    line = refused(capfd, "resume=.", "engine=ray", "engine.address=127.0.0.1:1")
    assert line.startswith(
        "engine.address='127.0.0.1:1': its workers would import what lies in this folder"
    )


@pytest.mark.parametrize("module", mostly_long([False, True], False))
def test_what_lies_in_the_current_folder_stands_for_no_library_of_rays_workers(
    here, tmp_path, module
):
    """And what is the user's own is found there."""
    (here / "work").mkdir()
    marker = tmp_path / "marker"
    marker.mkdir(exist_ok=True)
    for name in ("scipy", "pandas", "colorama"):
        (here / "work" / f"{name}.py").write_text(
            f"open({str(marker / name)!r}, 'w')\nraise ImportError({name!r})\n"
        )
    (here / "work" / "own_net_of_a_test.py").write_text(NET.format(marker=str(marker / "own")))
    typed = [part for part in TINY if not part.startswith("model")]
    command = [
        "run",
        *typed,
        "model._target_=own_net_of_a_test.net",
        "engine=ray",
        "engine.workers=1",
        "hydra.run.dir=run",
    ]
    done = fedsim(here / "work", *command, module=module)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert [path.name for path in marker.iterdir()] in ([], ["own"])


def test_modules_of_the_current_folder_stand_for_no_library_of_a_run(here, tmp_path):
    (here / "work").mkdir()
    trap(here / "work", marker := tmp_path / "marker")
    shutil.rmtree(here / "work" / "hydra_plugins")
    for name in ("bottleneck", "numexpr"):  # which pandas uses where they are there
        (here / "work" / f"{name}.py").unlink()
    (here / "work" / "own_net_of_a_test.py").write_text(NET.format(marker=str(marker / "own")))
    typed = [part for part in TINY if not part.startswith("model")]
    for module in (False, True):
        command = [
            "run",
            *typed,
            "model._target_=own_net_of_a_test.net",
            f"hydra.run.dir=run{module}",
        ]
        done = fedsim(here / "work", *command, module=module)
        assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert [path.name for path in marker.iterdir()] == ["own"]


def test_reading_runs_neither_imports_nor_calls_what_they_name(here, tmp_path, monkeypatch):
    assert main(["run", "resume=sent", "progress=false"]) == 0
    (here / "evil.py").write_text("raise SystemExit('imported')\n")
    monkeypatch.syspath_prepend(str(here))
    bad = {"_target_": "evil.Net", "command": "${oc.env:HOME}"}
    change(
        here / "sent",
        **{group: bad for group in ("model", "client", "engine", "logger", "aggregator")},
    )
    assert (
        not load_runs(here / "sent").empty and not compare(here / "sent", metric="loss").table.empty
    )
    assert main(["check", "sent", "--write", "golden.json"]) == 0
    assert main(["check", "sent", "--against", "golden.json"]) == 0
    assert "evil" not in sys.modules
