"""A run folder that somebody sent: links in it lead to the user's own files, and are neither read
nor written through."""

import hashlib
import os
import shutil
from dataclasses import replace

import pytest

from fedsim import analysis
from fedsim.analysis.golden import Curves, Golden
from fedsim.errors import ConfigError
from fedsim.recording import TensorBoard, read_table
from fedsim.recording.checkpoint_file import load, save
from fedsim.recording.checkpoints import Checkpoint
from fedsim.recording.files import write_atomic
from fedsim.recording.no_links import Folder, LinkError, read_inside
from fedsim.schedules import Refined
from tests.helpers import blobs_simulation
from tests.recording.test_checkpoint_resume import ROUNDS, hashes, simulation, stopped

OWN = b"my thesis\n" * 1000


@pytest.fixture(autouse=True)
def no_picture(monkeypatch):
    monkeypatch.setattr("fedsim.analysis.curves.run_curves", lambda *_: None)


@pytest.fixture
def outside(tmp_path):
    """A folder of the user's own, which must be as it was when the test is over."""
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / "thesis.txt").write_bytes(OWN)
    for name in (".half.tmp", "round_000001.safetensors", "events.txt"):
        (folder / name).write_bytes(b"mine")
    before = {path: (path.read_bytes(), path.stat().st_ino) for path in folder.iterdir()}
    yield folder
    assert {path: (path.read_bytes(), path.stat().st_ino) for path in folder.iterdir()} == before


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a finished run with checkpoints."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    simulation(folder, checkpoint=Checkpoint(every=3)).run()
    return folder


@pytest.fixture
def finished(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "run")


def link(path, target):
    path.unlink(missing_ok=True) if not path.is_dir() else shutil.rmtree(path)
    path.symlink_to(target)


def without_rows(folder):
    """Let the checkpoints say that no rows belong to them, with the SHA-256 of that."""
    for path in (folder / "checkpoints").iterdir():
        arrays, facts = load(path)
        save(path, arrays, replace(facts, rows=0, rows_sha256=hashlib.sha256(b"").hexdigest()))


# ------------------------------------------------------------------------------------------------
# going on


def test_rows_that_are_a_link_are_not_cut(tmp_path, outside, capsys):
    stopped(tmp_path / "run", 3)
    without_rows(tmp_path / "run")
    link(tmp_path / "run" / "metrics.jsonl", outside / "thesis.txt")
    with pytest.raises(ConfigError, match="none of its checkpoints can be used"):
        simulation(tmp_path / "run").run(resume=True)
    said = capsys.readouterr().err
    assert (
        "is not used: metrics.jsonl, which it goes with, cannot be read (metrics.jsonl is a link,"
        " and links in a run folder" in said
    )


def test_rows_that_have_another_name_outside_are_not_cut(tmp_path, outside):
    stopped(tmp_path / "run", 3)
    without_rows(tmp_path / "run")
    (tmp_path / "run" / "metrics.jsonl").unlink()
    os.link(outside / "thesis.txt", tmp_path / "run" / "metrics.jsonl")
    result = simulation(tmp_path / "run").run(resume=True)
    assert result.metrics["round"].min() == 4 and read_table(tmp_path / "run").equals(
        result.metrics
    )


@pytest.mark.parametrize(
    "name",
    [
        "metrics.jsonl",
        "curves.png",
        "model.safetensors",
        "metrics.parquet",
        "summary.json",
        "config.yaml",
    ],
)
def test_a_new_run_takes_the_place_of_links(finished, outside, name):
    link(finished / name, outside / "thesis.txt")
    simulation(finished).run()
    assert not (finished / name).is_symlink()


@pytest.mark.parametrize("name", ["config.yaml", "overrides.yaml", "summary.json"])
def test_settings_that_are_a_link_are_refused_when_a_run_goes_on(tmp_path, outside, name):
    stopped(tmp_path / "run", 3)
    link(tmp_path / "run" / name, outside / "thesis.txt")
    with pytest.raises(
        ConfigError, match=f"{name} is a link, and links in a run folder are not followed"
    ) as error:
        simulation(tmp_path / "run").run(resume=True)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("resume", [False, True])
def test_a_folder_of_checkpoints_that_is_a_link_is_refused(tmp_path, outside, resume):
    stopped(tmp_path / "run", 3)
    link(tmp_path / "run" / "checkpoints", outside)
    with pytest.raises(
        ConfigError, match="checkpoints is a link, and links in a run folder are not followed"
    ):
        simulation(tmp_path / "run").run(resume=resume)


def test_checkpoints_are_not_written_through_a_link_made_meanwhile(
    tmp_path, outside, capsys, monkeypatch
):
    run, write = tmp_path / "run", write_atomic

    def turned(path, content):
        write(path, content)
        if path.name == "summary.json" and not (run / "checkpoints").is_symlink():
            (run / "checkpoints").symlink_to(outside)

    monkeypatch.setattr("fedsim.recording.recorder.write_atomic", turned)
    simulation(run, checkpoint=Checkpoint(every=3, keep=1)).run()
    assert (
        "round_000003.safetensors cannot be written (checkpoints is a link"
        in capsys.readouterr().err
    )


def test_a_checkpoint_that_is_a_link_is_not_used(tmp_path, capsys):
    stopped(tmp_path / "run", 4, checkpoint=Checkpoint(every=3))
    newest = tmp_path / "run" / "checkpoints" / "round_000004.safetensors"
    shutil.move(newest, tmp_path / "elsewhere")
    newest.symlink_to(tmp_path / "elsewhere")
    assert hashes(simulation(tmp_path / "run").run(resume=True)) == hashes(simulation().run())
    said = capsys.readouterr().err
    assert (
        "round_000004.safetensors is not used: round_000004.safetensors is a link, and links in a"
        " run folder" in said
    )


def test_a_finished_run_whose_model_is_a_link_is_not_read_back(finished, tmp_path, capsys):
    shutil.move(finished / "model.safetensors", tmp_path / "model")
    (finished / "model.safetensors").symlink_to(tmp_path / "model")
    simulation(finished).run(resume=True)
    assert "cannot be read as a finished run, and goes on: model=" in (
        said := capsys.readouterr().err
    )
    assert "model.safetensors is a link, and links in a run folder are not followed" in said


def test_pictures_events_and_first_runs_do_not_follow_links(tmp_path, outside):
    run = tmp_path / "run"
    run.mkdir()
    (run / "labels.png").symlink_to(outside / "thesis.txt")
    simulation(run, plots=True).run()
    assert not (run / "labels.png").is_symlink()
    (run / "tensorboard").symlink_to(outside)
    with pytest.raises(ConfigError, match=r"^TensorBoard\.folder=.*a folder and no link"):
        blobs_simulation(ROUNDS, folder=run, loggers=[TensorBoard()]).run()
    (run / "base").symlink_to(outside)
    with pytest.raises(ConfigError, match=r"^schedule\.base=.*a folder and no link"):
        simulation(run, schedule=Refined()).run()


# ------------------------------------------------------------------------------------------------
# reading


@pytest.mark.parametrize("name", ["config.yaml", "status.json", "metrics.parquet"])
def test_what_is_compared_is_not_read_through_links(finished, tmp_path, name):
    shutil.move(finished / name, tmp_path / name)
    (finished / name).symlink_to(tmp_path / name)
    with pytest.raises(
        ConfigError, match=f"{name} is a link, and links in a run folder are not followed"
    ) as error:
        analysis.load_runs(finished)
    assert "\n" not in str(error.value) and str(finished / name) in str(error.value)
    with pytest.raises(ConfigError, match=f"{name} is a link"):
        Curves.read(finished)


def test_rows_are_not_read_through_links(finished, tmp_path):
    (finished / "metrics.parquet").unlink()
    shutil.move(finished / "metrics.jsonl", tmp_path / "rows")
    (finished / "metrics.jsonl").symlink_to(tmp_path / "rows")
    with pytest.raises(ConfigError, match=r"metrics\.jsonl is a link"):
        analysis.load_runs(finished)


def test_a_folder_that_the_user_typed_and_files_of_the_users_may_be_links(finished, tmp_path):
    (tmp_path / "typed").symlink_to(finished)
    (tmp_path / "golden").symlink_to(tmp_path / "golden.json")
    assert len(analysis.load_runs(tmp_path / "typed")) and Curves.read(tmp_path / "typed").sha256
    Golden.measure([Curves.read(finished)]).write(tmp_path / "golden.json")
    assert Golden.read(tmp_path / "golden").curves
    assert hashes(simulation(tmp_path / "typed").run(resume=True)) == hashes(simulation().run())


# ------------------------------------------------------------------------------------------------ a
# folder held open


def test_a_folder_held_open_is_left_neither_upwards_nor_by_what_takes_its_place(tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    with Folder(tmp_path, "one") as folder:
        os.close(folder.create("a"))
        (tmp_path / "one").rename(tmp_path / "three")
        (tmp_path / "one").symlink_to(tmp_path / "two")
        os.close(folder.create("b"))
        assert folder.names() == ["a", "b"] and not any((tmp_path / "two").iterdir())
        with pytest.raises(FileExistsError):
            folder.create("a")
    with pytest.raises(LinkError, match="one is a link"):
        Folder(tmp_path, "one")
    with pytest.raises(NotADirectoryError):
        Folder(tmp_path, "three", "a")


def test_pipes_and_folders_are_no_files(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="Not a regular file"):
        read_inside(tmp_path / "pipe")
    with pytest.raises(IsADirectoryError):
        read_inside(tmp_path)


def test_no_descriptor_is_left_open(finished):
    def count():
        return len(os.listdir("/proc/self/fd"))

    before = count()
    for _ in range(3):
        analysis.load_runs(finished)
        simulation(finished).run(resume=True)
        with pytest.raises(OSError):
            Folder(finished, "missing")
    assert count() == before
