"""Runs of one's own: signed with a key that only this user can read."""

import os
import shutil
import stat
import sys
from pathlib import Path

import pytest
import yaml

from fedsim.cli.main import main
from fedsim.config.trust import take_trusted
from fedsim.recording.signature import is_signed, key_folder, own_key, signature_of
from tests.cli.test_resume import TINY, fail_in_round
from tests.config.sent_folders import NET, change, refused, summary


def own_run(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """An own run, interrupted, with a model of the user's own beside it."""
    (folder / "own_net_of_a_test.py").write_text(NET.format(marker=str(folder / "imported")))
    typed = [part for part in TINY if not part.startswith("model")]
    with patch.context() as faulty:
        fail_in_round(6, faulty)
        model = ["model._target_=own_net_of_a_test.net", "checkpoint.every=2", "hydra.run.dir=mine"]
        assert main(["run", *typed, *model]) == 1
    sys.modules.pop("own_net_of_a_test")
    (folder / "imported").unlink()


def test_an_own_run_goes_on_without_a_question_and_one_with_other_settings_does_not(
    here, capfd, monkeypatch
):
    own_run(here, monkeypatch)
    shutil.copytree(here / "mine", here / "again")
    assert main(["run", "resume=mine", "checkpoint.keep=1", "progress=false"]) == 0
    assert is_signed(here / "mine", yaml.safe_load((here / "mine" / "config.yaml").read_text()))
    assert str(here) not in sys.path
    sys.modules.pop("own_net_of_a_test")
    (here / "imported").unlink()
    capfd.readouterr()
    change(here / "again", local={"rate": 0.2})
    assert refused(capfd, "resume=again").startswith(
        "model._target_='own_net_of_a_test.net': it comes from a folder not made by you"
    )
    assert not (here / "imported").exists()


def test_a_key_of_somebody_else_signs_nothing_here(here, capfd, monkeypatch):
    own_run(here, monkeypatch)
    monkeypatch.setenv("XDG_STATE_HOME", str(here / "other"))
    assert refused(capfd, "resume=mine").startswith(
        "model._target_='own_net_of_a_test.net': it comes from a folder"
    )
    assert not (here / "imported").exists() and not (here / "other").exists()
    monkeypatch.undo()
    monkeypatch.chdir(here)
    for content in (b"", b"\xff" * 65, b"0" * 64 + b"\n", b"x" * 10**6):
        (here / "mine" / "signature").write_bytes(content)
        assert refused(capfd, "resume=mine").startswith("model._target_='own_net_of_a_test.net'")
    (here / "mine" / "signature").unlink()
    os.mkfifo(here / "mine" / "signature")
    assert refused(capfd, "resume=mine").startswith("model._target_='own_net_of_a_test.net'")


def test_a_module_that_is_trusted_by_name_is_used_and_what_it_imports_is_not(
    here, capfd, monkeypatch
):
    own_run(here, monkeypatch)
    (here / "mine" / "signature").unlink()
    typed = ["resume=mine", "progress=false"]
    for trusted in (
        ["--trust", "another"],
        ["--trust=own_net"],
        ["--trust", "another", "--trust=own_net_of_a_tests"],
    ):
        assert refused(capfd, *typed, *trusted).startswith("model._target_='own_net_of_a_test.net'")
        assert not (here / "imported").exists()
    shutil.copytree(here / "mine", here / "again")
    for target in ("own_net_of_a_test.system", "own_net_of_a_test.os.system"):
        change(here / "again", model={"_target_": target})
        line = refused(capfd, "resume=again", "--trust", "own_net_of_a_test")
        assert line.startswith(f"model._target_='{target}'") and "is not trusted" in line
    assert main(["run", *typed, "--trust", "another", "--trust=own_net_of_a_test"]) == 0
    assert summary(here / "mine")["rounds"] == 8
    sys.modules.pop("own_net_of_a_test")


def test_trust_is_for_folders_and_names_a_module(capfd, here):
    assert take_trusted(["a=1", "--trust", "x.y", "--trust=z"]) == (["x.y", "z"], ["a=1"])
    assert refused(capfd, "--trust", "my_module", "rounds=1").startswith(
        "--trust='my_module': is for resume=FOLDER"
    )
    for typed in (["--trust"], ["--trust="], ["--trust", "./my_module.py"], ["--trust=a-b"]):
        assert refused(capfd, "resume=sent", *typed).startswith("--trust=")


def test_the_key_is_the_user_s_alone_and_made_once(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    before = os.umask(0)
    try:
        key = own_key(make=True)
    finally:
        os.umask(before)
    folder = tmp_path / "state" / "fedsim"
    assert key_folder() == folder and len(key) == 32 and key == own_key() == own_key(make=True)
    assert [path.name for path in folder.iterdir()] == ["key"]
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / "key").stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "harm", ["open", "open folder", "short", "link", "folder link", "pipe", "folder"]
)
def test_a_key_that_others_could_know_or_have_put_there_is_not_used(harm, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    config, folder = {"rounds": 1}, tmp_path / "state" / "fedsim"
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "signature").write_bytes(signature_of(config))
    assert is_signed(tmp_path / "run", config) and not is_signed(tmp_path / "run", {"rounds": 2})
    key, aside = folder / "key", tmp_path / "aside"
    if harm == "open":
        key.chmod(0o640)
    elif harm == "open folder":
        folder.chmod(0o750)
    elif harm == "short":
        key.write_bytes(key.read_bytes()[:31])
    elif harm == "link":
        shutil.move(key, aside)
        key.symlink_to(aside)
    elif harm == "folder link":
        shutil.move(folder, aside)
        folder.symlink_to(aside)
    else:
        key.unlink()
        os.mkfifo(key, 0o600) if harm == "pipe" else key.mkdir(0o700)
    assert not is_signed(tmp_path / "run", config) and signature_of(config) is None


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="gives a file away")
@pytest.mark.parametrize("name", ["fedsim", "fedsim/key"])
def test_a_key_of_another_owner_is_not_used(name, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert signature_of({}) is not None
    os.chown(tmp_path / name, 12345, -1)
    assert signature_of({}) is None


def test_without_a_home_that_can_be_written_a_run_is_unsigned_and_asks(here, capfd, monkeypatch):
    (here / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(here / "file"))
    own_run(here, monkeypatch)
    assert not (here / "mine" / "signature").exists()
    capfd.readouterr()
    assert refused(capfd, "resume=mine").startswith("model._target_='own_net_of_a_test.net'")
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    monkeypatch.setenv("HOME", str(here / "home"))
    assert key_folder() == here / "home" / ".local" / "state" / "fedsim"
