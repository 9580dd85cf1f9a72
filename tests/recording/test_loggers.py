from __future__ import annotations

import importlib.util

import pytest

from fedsim.errors import ConfigError
from fedsim.recording import NoLogger, Recorder, TensorBoard

ROWS = [
    {
        "round": round,
        "clock": 0.0,
        "scope": scope,
        "node": node,
        "metric": "accuracy",
        "value": round / 10,
    }
    for round in (1, 2)
    for scope, node in (("server", -1), ("client", 4))
]


def events(folder):
    module = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    read = module.EventAccumulator(str(folder))
    read.Reload()
    return {
        tag: [(event.step, event.value) for event in read.Scalars(tag)]
        for tag in read.Tags()["scalars"]
    }


@pytest.mark.parametrize("nodes", [False, True])
def test_tensorboard_holds_the_rows(tmp_path, nodes):
    pytest.importorskip("tensorboard")
    recorder = Recorder(tmp_path, {}, [], [TensorBoard(nodes=nodes)])
    recorder.start()
    recorder.rows(ROWS)
    recorder.finish({})
    found = events(tmp_path / "tensorboard")
    assert set(found) == {"server/accuracy", *(["client/accuracy/4"] if nodes else [])}
    assert found["server/accuracy"] == [(1, pytest.approx(0.1)), (2, pytest.approx(0.2))]


def test_tensorboard_forgets_what_came_after_the_round_that_a_run_goes_on_from(tmp_path):
    pytest.importorskip("tensorboard")
    killed = Recorder(tmp_path, {}, [], [TensorBoard()])
    killed.start()
    killed.rows(ROWS)
    killed.loggers[0].close()
    again = Recorder(tmp_path, {}, [], [TensorBoard()])
    again.resume(b"", 1)
    again.rows([{**ROWS[2], "value": 0.5}])
    again.finish({})
    assert events(tmp_path / "tensorboard")["server/accuracy"] == [
        (1, pytest.approx(0.1)),
        (2, pytest.approx(0.5)),
    ]


def test_a_logger_that_finds_no_space_does_not_end_the_run(capsys):
    class Full(NoLogger):
        def rows(self, rows):
            raise OSError(28, "No space left on device")

    recorder = Recorder(None, {}, [], [Full()])
    recorder.start()
    recorder.rows(ROWS)
    assert len(recorder.table()) == len(ROWS)
    assert (
        capsys.readouterr().err
        == "fedsim: Full could not write its rows (No space left on device); they are missing"
        " there\n"
    )


def test_missing_package_names_the_logger_and_the_extra(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError) as caught:
        TensorBoard()
    assert str(caught.value.under("logger")).startswith(
        "logger='tensorboard'"
    ) and "fedsim[tracking]" in str(caught.value)


def test_run_in_memory_needs_a_folder_for_tensorboard(tmp_path):
    pytest.importorskip("tensorboard")
    with pytest.raises(ConfigError, match="TensorBoard.folder=None"):
        Recorder(None, {}, [], [TensorBoard()]).start()
    recorder = Recorder(None, {}, [], [TensorBoard(folder=str(tmp_path / "events"))])
    recorder.start()
    recorder.rows(ROWS)
    recorder.finish({})
    assert "server/accuracy" in events(tmp_path / "events")


def test_tensorboard_folder_that_is_a_file_is_refused_before_the_run(tmp_path):
    pytest.importorskip("tensorboard")
    (tmp_path / "taken").write_text("")
    with pytest.raises(ConfigError, match="TensorBoard.folder=.*taken"):
        Recorder(tmp_path / "run", {}, [], [TensorBoard(folder=str(tmp_path / "taken"))]).start()
    assert not list((tmp_path / "run").iterdir())


def test_no_logger_takes_rows():
    recorder = Recorder(None, {}, [], [NoLogger()])
    recorder.start()
    recorder.rows(ROWS)
    recorder.finish({})
    assert len(recorder.table()) == len(ROWS)
