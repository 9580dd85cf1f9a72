"""Folders that somebody sent: nothing they name is imported, called or resolved; own ones go on."""

import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from fedsim.analysis import compare, load_runs
from fedsim.cli.main import main
from fedsim.config.model_targets import builds_models
from fedsim.config.trust import check_targets, own_class, take_trusted
from fedsim.errors import ConfigError
from fedsim.recording.signature import is_signed, key_folder, own_key, signature_of
from tests.cli.test_resume import TINY, fail_in_round
from tests.helpers import mostly_long
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


@pytest.fixture(scope="module")
def kept(tmp_path_factory) -> Path:
    """A run that failed after its checkpoint of round 4."""
    folder = tmp_path_factory.mktemp("kept")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        fail_in_round(6, patch)
        assert main(["run", *TINY, "checkpoint.every=2", "hydra.run.dir=run"]) == 1
    return folder / "run"


@pytest.fixture
def here(kept, tmp_path, monkeypatch) -> Path:
    """A folder with `run`, signed by this user, and `sent`, which is not."""
    shutil.copytree(kept, tmp_path / "run")
    shutil.copytree(kept, tmp_path / "sent")
    (tmp_path / "sent" / "signature").unlink()
    monkeypatch.chdir(tmp_path)
    return tmp_path


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


# ---------------------------------------------------------------- targets of a folder that was sent


@pytest.mark.parametrize(
    ("group", "part", "key"),
    [
        (
            "model",
            {"_target_": "os.system", "command": "touch marker"},
            "model._target_='os.system'",
        ),
        (
            "model",
            {"_target_": "shutil.rmtree", "path": "precious"},
            "model._target_='shutil.rmtree'",
        ),
        (
            "model",
            {"_target_": "numpy.load", "file": "a.npy", "allow_pickle": True},
            "model._target_='numpy.load'",
        ),
        (
            "model",
            {"_target_": "fedsim.cli.main.os.system", "command": "touch marker"},
            "model._target_='fedsim.cli.main.os.system'",
        ),
        (
            "model",
            {"_target_": "fedsim.config.building.importlib.import_module", "name": "evil"},
            "model._target_=",
        ),
        (
            "model",
            {"_target_": "fedsim.models.build.nn.Linear", "in_features": 4, "out_features": 3},
            "model._target_=",
        ),
        (
            "model",
            {"_target_": "fedsim.cli.main.main", "arguments": ["demo"]},
            "model._target_='fedsim.cli.main.main'",
        ),
        (
            "model",
            {"_target_": "fedsim.recording.files.write_atomic", "path": "marker", "content": "x"},
            "model._target_=",
        ),
        ("model", {"_target_": "fedsim.__main__.main"}, "model._target_='fedsim.__main__.main'"),
        ("model", {"_target_": "fedsim_evil.Net"}, "model._target_='fedsim_evil.Net'"),
        ("model", {"_target_": "evil.Net"}, "model._target_='evil.Net'"),
        ("model", {"_target_": ["evil", "Net"]}, "model._target_="),
        ("model", {"hidden": [{"_target_": "evil.Net"}]}, "model.hidden.0._target_='evil.Net'"),
        ("client", {"_target_": "evil.Rule"}, "client._target_='evil.Rule'"),
        ("metrics", [{"_target_": "evil.Metric"}], "metrics.0._target_='evil.Metric'"),
        ("metrics", {"mine": {"_target_": "evil.Metric"}}, "metrics.mine._target_='evil.Metric'"),
        ("checkpoint", {"_target_": "evil.Checkpoint"}, "checkpoint._target_='evil.Checkpoint'"),
        ("progress", {"_target_": "evil.Bar"}, "progress._target_='evil.Bar'"),
        ("more", {"a": {"b": [{"_target_": "evil.Net"}]}}, "more.a.b.0._target_='evil.Net'"),
    ],
)
def test_what_is_no_class_of_fedsim_is_refused_before_anything_is_imported(
    here, group, part, key, capfd, monkeypatch
):
    (here / "precious").mkdir()
    monkeypatch.syspath_prepend(str(here))
    for module in ("evil", "fedsim_evil"):
        (here / f"{module}.py").write_text("import pathlib\npathlib.Path('marker').touch()\n")
    if group in ("metrics", "more"):
        config = yaml.safe_load((here / "sent" / "config.yaml").read_text())
        (here / "sent" / "config.yaml").write_text(yaml.safe_dump({**config, group: part}))
    elif group == "progress":
        change(here / "sent", progress=None)
        change(here / "sent", **{group: [part]})
        key = key.replace("progress.", "progress.0.")
    else:
        change(here / "sent", **{group: part})
    before = {path: path.read_bytes() for path in here.rglob("*") if path.is_file()}
    line = refused(capfd, "resume=sent")
    assert (
        line.startswith(key)
        and "it comes from a folder not made by you on this machine and is not a" in line
    )
    assert (
        "--trust MODULE" in line and "evil" not in sys.modules and "fedsim_evil" not in sys.modules
    )
    assert {path: path.read_bytes() for path in here.rglob("*") if path.is_file()} == before
    assert (here / "precious").is_dir()


def test_every_class_that_fedsim_records_is_a_class_of_fedsim():
    from fedsim.config.options import find_options

    nodes = [
        yaml.safe_load(option.path.read_text()) or {}
        for options in find_options().values()
        for option in options
    ]
    targets = {node["_target_"] for node in nodes if "_target_" in node}
    assert len(targets) > 60 and [target for target in targets if own_class(target) is None] == []
    for path in (
        "fedsim",
        "fedsim.models",
        "fedsim.models.none",
        "fedsim.cli.main.Path",
        "fedsim._part",
        "os.path",
        "fedsim.errors.cut",
    ):
        assert own_class(path) is None
    assert "fedsim.__main__" not in sys.modules


def test_a_sent_folder_with_classes_of_fedsim_goes_on_without_a_question(here, capfd):
    assert main(["run", "resume=sent", "progress=false"]) == 0
    assert main(["run", "resume=run", "progress=false"]) == 0
    assert summary(here / "sent")["model_sha256"] == summary(here / "run")["model_sha256"]
    assert capfd.readouterr().err == ""
    assert not (here / "sent" / "signature").exists()  # it stays one that was sent
    assert (here / "run" / "signature").exists()


# ------------------------------------------------------------------------------------- signatures


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


# ----------------------------------------------------------- what is of the machine, and not of the
# run


def test_no_text_of_a_folder_is_resolved(here, capfd, monkeypatch):
    monkeypatch.setenv("SECRET_OF_A_TEST", "hunter2")
    secret = "${oc.env:SECRET_OF_A_TEST}"
    for folder in ("sent", "run"):
        for group in ("engine", "logger", "checkpoint"):
            shutil.copytree(here / folder, here / "copy")
            change(here / "copy", **{group: {"_target_": f"fedsim.{secret}"}}, name=secret)
            if folder == "run":
                config = yaml.safe_load((here / "copy" / "config.yaml").read_text())
                (here / "copy" / "signature").write_bytes(signature_of(config))
            main(["run", "resume=copy", f"{group}.every=3", "progress=false"])
            shown = capfd.readouterr()
            assert "hunter2" not in shown.out + shown.err
            for path in (here / "copy").rglob("*.[yj]*"):
                assert "hunter2" not in path.read_text()
            shutil.rmtree(here / "copy")


def test_the_engine_the_logger_and_the_place_of_data_are_not_taken_from_a_sent_folder(here, capfd):
    pytest.importorskip("tensorboard")
    logger = {
        "_target_": "fedsim.recording.loggers.TensorBoard",
        "folder": str(here / "anywhere"),
        "nodes": False,
    }
    engine = {"_target_": "fedsim.engine.ray.Ray", "address": "cluster.example:6379", "workers": 2}
    config = yaml.safe_load((here / "sent" / "config.yaml").read_text())
    changed = {
        **config,
        "logger": logger,
        "engine": engine,
        "data": {**config["data"], "root": "/elsewhere"},
    }
    (here / "sent" / "config.yaml").write_text(yaml.safe_dump(changed))
    shutil.copytree(here / "sent", here / "given")
    assert main(["run", "resume=sent", "progress=false"]) == 0
    line = (
        "fedsim: sent was not made by you on this machine: its engine, logger, data.root are not"
        " used; what you want of it, give here\n"
    )
    assert capfd.readouterr().err == line
    assert not (here / "anywhere").exists()
    recorded = yaml.safe_load((here / "sent" / "config.yaml").read_text())
    assert recorded["logger"]["_target_"].endswith("NoLogger") and recorded["engine"][
        "_target_"
    ].endswith("InProcess")
    assert "root" not in recorded["data"]
    assert (
        main(["run", "resume=given", "logger=tensorboard", "logger.folder=mine", "progress=false"])
        == 0
    )
    assert "its engine, data.root are not used" in capfd.readouterr().err
    assert list((here / "mine").glob("events*")) and not (here / "anywhere").exists()


def test_a_logger_of_an_own_run_is_used(here, monkeypatch):
    pytest.importorskip("tensorboard")
    with monkeypatch.context() as faulty:
        fail_in_round(6, faulty)
        assert (
            main(["run", *TINY, "checkpoint.every=2", "logger=tensorboard", "hydra.run.dir=own"])
            == 1
        )
    shutil.rmtree(here / "own" / "tensorboard")
    assert main(["run", "resume=own", "progress=false"]) == 0
    assert list((here / "own" / "tensorboard").glob("events*"))


def test_data_are_not_downloaded_from_where_a_sent_folder_says(here, capfd):
    data = {
        "_target_": "fedsim.data.images.MNIST",
        "root": "/elsewhere",
        "url": ["http://evil.invalid"],
    }
    config = yaml.safe_load((here / "sent" / "config.yaml").read_text())
    (here / "sent" / "config.yaml").write_text(yaml.safe_dump({**config, "data": data}))
    line = refused(capfd, "resume=sent", f"data.root={here}")
    assert line.startswith(
        "data.url=['http://evil.invalid']: its data would be downloaded from there"
    )
    from fedsim.config.resuming import recorded_settings

    given = recorded_settings(
        here / "sent", ["data.url=['http://evil.invalid']", f"data.root={here}"]
    )
    expected = {**data, "_target_": "fedsim.data.MNIST", "root": str(here)}
    assert given.config["data"] == expected
    capfd.readouterr()
    (here / "sent" / "config.yaml").write_text(
        yaml.safe_dump({**config, "data": {**data, "url": []}})
    )
    data["_target_"] = "fedsim.data.MNIST"
    assert recorded_settings(here / "sent").config["data"] == {
        "_target_": data["_target_"],
        "url": [],
    }


def test_files_that_a_sent_folder_has_the_run_read_are_told(here, capfd):
    part = {"_target_": "fedsim.participation.Trace", "file": "\x1b[2Jabsent.csv"}
    config = yaml.safe_load((here / "sent" / "config.yaml").read_text())
    (here / "sent" / "config.yaml").write_text(yaml.safe_dump({**config, "participation": part}))
    assert main(["run", "resume=sent"]) == 2
    told = capfd.readouterr().err.splitlines()
    assert told[0].startswith(
        "fedsim: sent was not made by you on this machine, and has the run read"
        " participation.file='"
    )
    assert told[1].startswith("participation.file=") and not any("\x1b" in line for line in told)


def test_a_crafted_summary_and_name_are_one_clean_line(here, capfd):
    change(here / "sent", name="\x1b]0;evil\x07\nlie")
    (here / "sent" / "status.json").write_text('{"status": "done"}')
    (here / "sent" / "summary.json").write_text('{"rounds": 3, "seconds": 1.0, "accuracy": 0.5}')
    assert main(["run", "resume=sent"]) == 0
    shown = capfd.readouterr().out
    assert "\x1b" not in shown and "\x07" not in shown and shown.count("\n") == 1
    for text in (
        '{"rounds": 3}',
        "[1]",
        '{"rounds": 3, "seconds": "1"}',
        '{"rounds": 3, "seconds": 1.0, "accuracy": []}',
    ):
        (here / "sent" / "summary.json").write_text(text)
        assert refused(capfd, "resume=sent").startswith("resume='sent/summary.json': ")


# ------------------------------------------------------------------- modules beside config.yaml


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


# ------------------------------------------------------------------------ models on the command
# line


@pytest.mark.parametrize(
    "typed",
    [
        "model._target_=os.system +model.command=echo",
        "model._target_=shutil.rmtree +model.path=precious",
        "model._target_=numpy.load +model.file=a.npy",
        "model._target_=torch.load +model.f=a.pt",
        "model._target_=subprocess.Popen +model.args=[touch,marker]",
        "model._target_=os.makedirs +model.name=marker",
        "model._target_=builtins.exec",
        "model._target_=fedsim.cli.main.main",
        "model._target_=fedsim.cli.main.os.system",
        "model._target_=rmtree_of_a_test.rmtree +model.path=precious",
        "model._target_=joblib.load",
    ],
)
def test_a_model_is_built_by_what_builds_models(here, typed, capfd, monkeypatch):
    (here / "precious").mkdir()
    (here / "rmtree_of_a_test.py").write_text("from shutil import rmtree\n")
    line = refused(capfd, *TINY[:5], *typed.split(), "hydra.run.dir=new")
    assert line.startswith("model._target_=") and "subclass of torch.nn.Module" in line
    assert (
        (here / "precious").is_dir()
        and not (here / "marker").exists()
        and not (here / "new").exists()
    )


def test_functions_of_the_user_s_own_and_of_libraries_of_models_build_models(tmp_path, monkeypatch):
    import functools

    from torch import nn

    from fedsim.models import MLP

    code = (
        "from torch import nn\ndef plain():\n    pass\n\ndef told() -> nn.Module:\n    pass\n\ndef"
        " number() -> int:\n    pass\n"
    )
    code += "\nclass Net(nn.Module):\n    @classmethod\n    def from_config(cls):\n        pass\n"
    names = [
        "lab_of_a_test.py",
        "timm/models/factory.py",
        "torchvision/__init__.py",
        "torchvision/models/resnet.py",
        "timm/__init__.py",
    ]
    for name in (*names, "torchvision/models/__init__.py", "timm/models/__init__.py"):
        path = tmp_path / "site-packages" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("" if name.endswith("__init__.py") else code)
    monkeypatch.syspath_prepend(str(tmp_path / "site-packages"))
    for name in [name for name in sys.modules if name.partition(".")[0] in ("timm", "torchvision")]:
        monkeypatch.delitem(sys.modules, name)
    import importlib

    lab = importlib.import_module("lab_of_a_test")
    for library in ("timm.models.factory", "torchvision.models.resnet"):
        assert builds_models(importlib.import_module(library).plain)
    for name in [
        name
        for name in sys.modules
        if name.partition(".")[0] in ("timm", "torchvision", "lab_of_a_test")
    ]:
        sys.modules.pop(name)
    assert builds_models(lab.told) and builds_models(lab.Net) and builds_models(lab.Net.from_config)
    assert not builds_models(lab.plain) and not builds_models(lab.number)

    def own():
        pass

    for good in (
        own,
        functools.cache(own),
        functools.partial(own),
        functools.partial(MLP, hidden=[3]),
        MLP,
        nn.Linear,
        lambda: None,
    ):
        assert builds_models(good)
    for bad in (
        int,
        object,
        len,
        os.system,
        functools.partial(os.system),
        nn.Linear(1, 1),
        "own",
        None,
    ):
        assert not builds_models(bad)


def test_targets_are_found_wherever_they_are():
    with pytest.raises(ConfigError, match=r"^a\.0\.b\._target_='os.system'"):
        check_targets({"a": [{"b": {"_target_": "os.system"}}]})
    check_targets({"a": [{"b": {"_target_": "fedsim.models.MLP"}}], "_target": "os.system"})
