"""Folders that somebody sent: nothing they name is imported, called or resolved."""

import shutil
import sys

import pytest
import yaml

from fedsim.cli.main import main
from fedsim.config.trust import check_targets, own_class
from fedsim.errors import ConfigError
from fedsim.recording.signature import signature_of
from tests.cli.test_resume import TINY, fail_in_round
from tests.config.sent_folders import change, refused, summary


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


def test_targets_are_found_wherever_they_are():
    with pytest.raises(ConfigError, match=r"^a\.0\.b\._target_='os.system'"):
        check_targets({"a": [{"b": {"_target_": "os.system"}}]})
    check_targets({"a": [{"b": {"_target_": "fedsim.models.MLP"}}], "_target": "os.system"})
