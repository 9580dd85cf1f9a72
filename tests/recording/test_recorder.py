from __future__ import annotations

import json
import math
import os

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from fedsim.errors import ConfigError
from fedsim.recording import COLUMNS, Logger, Recorder, read_table
from fedsim.recording.files import read_json, read_yaml

ROWS = [
    {
        "round": 0,
        "clock": 0.1,
        "scope": "server",
        "node": -1,
        "metric": "loss",
        "value": 2.302585092994046,
    },
    {
        "round": np.int64(1),
        "clock": np.float32(0.5),
        "scope": "node",
        "node": 7,
        "metric": "accuracy",
        "value": np.float32(0.1),
    },
    {"round": 1, "scope": "server", "metric": "loss", "value": math.nan},
    {"round": 2, "clock": 1.0, "scope": "server", "node": -1, "metric": "loss", "value": math.inf},
    {"round": 3, "clock": 2.0, "scope": "server", "node": -1, "metric": "loss", "value": -math.inf},
]


class Memory(Logger):
    def __init__(self):
        self.seen, self.closed = [], 0

    def rows(self, rows):
        self.seen += rows

    def close(self):
        self.closed += 1


def started(folder, **settings):
    recorder = Recorder(folder, {"seed": 3, "local": {"rate": 0.1}}, ["seed=3"], **settings)
    recorder.start()
    return recorder


def test_lines_parquet_and_memory_hold_the_same_rows(tmp_path):
    recorder = started(tmp_path / "a" / "b")
    recorder.rows(ROWS[:2])
    recorder.rows(ROWS[2:])
    from_lines = read_table(recorder.folder)
    recorder.finish({})
    (recorder.folder / "metrics.jsonl").unlink()
    from_parquet = read_table(recorder.folder)
    table = recorder.table()
    pd.testing.assert_frame_equal(table, from_lines, check_exact=True)
    pd.testing.assert_frame_equal(table, from_parquet, check_exact=True)
    assert tuple(table) == COLUMNS
    assert table["value"].tolist()[:2] == [2.302585092994046, float(np.float32(0.1))]
    assert table["node"].tolist() == [-1, 7, -1, -1, -1] and table["clock"].tolist() == [
        0.1,
        0.5,
        0.0,
        1.0,
        2.0,
    ]
    assert math.isnan(table["value"][2]) and table["value"].tolist()[3:] == [math.inf, -math.inf]


def test_in_memory_run_has_the_same_table_and_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recorder = started(None)
    recorder.rows(ROWS)
    recorder.finish({"a": 1}, {"w": torch.zeros(2)})
    assert len(recorder.table()) == len(ROWS) and not list(tmp_path.iterdir())


def test_rows_are_on_disk_after_each_evaluation(tmp_path):
    recorder = started(tmp_path)
    for number in range(1, 3):
        recorder.rows(ROWS[:1])
        assert (tmp_path / "metrics.jsonl").read_bytes().count(b"\n") == number
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines[0] == ROWS[0]


def test_folder_of_a_finished_run(tmp_path):
    recorder = started(tmp_path)
    assert read_json(tmp_path / "status.json")["status"] == "running"
    assert set(read_json(tmp_path / "summary.json")["versions"]) == {
        "fedsim",
        "torch",
        "numpy",
        "python",
        "convolutions",
    }
    recorder.rows(ROWS)
    flat = torch.arange(6.0)
    tensors = {"a": flat[:4].view(2, 2), "b": flat[4:], "c": np.ones(2, np.float32)}
    recorder.finish(
        {"loss": math.nan, "bytes": np.int64(8)},
        tensors,
        draw=lambda rows, path: path.write_bytes(b"%d rows" % len(rows)),
    )
    names = (
        "config.yaml signature overrides.yaml metrics.jsonl metrics.parquet model.safetensors"
        " summary.json status.json curves.png"
    )
    assert {path.name for path in tmp_path.iterdir()} == set(names.split())
    assert read_yaml(tmp_path / "config.yaml") == {"seed": 3, "local": {"rate": 0.1}}
    assert read_yaml(tmp_path / "overrides.yaml") == ["seed=3"]
    model = load_file(tmp_path / "model.safetensors")
    assert (
        torch.equal(model["a"], flat[:4].view(2, 2))
        and torch.equal(model["b"], flat[4:])
        and torch.equal(model["c"], torch.ones(2))
    )
    summary = read_json(tmp_path / "summary.json")
    assert (
        math.isnan(summary["loss"])
        and summary["bytes"] == 8
        and summary["versions"]["torch"].startswith(torch.__version__.split("+")[0])
    )
    assert read_json(tmp_path / "status.json")["status"] == "done"
    assert (tmp_path / "curves.png").read_bytes() == b"%d rows" % len(ROWS)


def test_failure_keeps_rows_and_traceback(tmp_path):
    logger = Memory()
    recorder = started(tmp_path, loggers=[logger])
    recorder.rows(ROWS)
    try:
        raise ValueError("two\nlines")
    except ValueError as error:
        recorder.fail(error)
    status = read_json(tmp_path / "status.json")
    assert status["status"] == "failed" and status["reason"] == "ValueError: two lines"
    assert "test_failure_keeps_rows_and_traceback" in status["traceback"]
    assert len(read_table(tmp_path)) == len(logger.seen) == len(ROWS) and logger.closed == 1
    assert not (tmp_path / "metrics.parquet").exists()


def test_diverged_run(tmp_path):
    recorder = started(tmp_path)
    recorder.rows(ROWS)
    recorder.finish({}, None, "diverged", "round 3: not finite")
    status = read_json(tmp_path / "status.json")
    assert (status["status"], status["reason"]) == ("diverged", "round 3: not finite")


def test_second_run_in_a_folder_leaves_nothing_of_the_first(tmp_path):
    first = started(tmp_path)
    first.rows(ROWS)
    first.finish({}, {"w": torch.zeros(1)})
    second = started(tmp_path)
    second.rows(ROWS[:1])
    assert len(read_table(tmp_path)) == 1
    assert not (tmp_path / "model.safetensors").exists() and not (tmp_path / "curves.png").exists()


@pytest.mark.parametrize("below", ["", "run"])
def test_file_in_place_of_the_folder_is_refused(tmp_path, below):
    file = tmp_path / "taken"
    file.write_text("mine")
    with pytest.raises(ConfigError, match="folder=.*taken.*can be made and written"):
        started(file / below if below else file)
    assert file.read_text() == "mine"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_folder_without_permission_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(ConfigError, match="can be made and written"):
        started(tmp_path)
    tmp_path.chmod(0o700)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not os.access("/proc/self", os.R_OK), reason="no /proc")
def test_unwritable_file_system_is_refused():
    with pytest.raises(
        ConfigError, match="folder='/proc/self/fdinfo/run'.*can be made and written"
    ):
        started("/proc/self/fdinfo/run")


def test_row_with_a_wrong_name_is_refused(tmp_path):
    with pytest.raises(KeyError, match="epoch"):
        started(None).rows([{**ROWS[0], "epoch": 1}])


def cut(folder, text: bytes):
    (folder / "metrics.jsonl").write_bytes(text)
    return folder


def test_last_line_may_be_cut_off_anywhere(tmp_path):
    recorder = started(tmp_path)
    recorder.rows(ROWS)
    whole = (tmp_path / "metrics.jsonl").read_bytes()
    last = len(whole.rstrip().rpartition(b"\n")[0]) + 1
    for end in range(last, len(whole) - 1):
        assert len(read_table(cut(tmp_path, whole[:end]))) == len(ROWS) - 1
    assert len(read_table(cut(tmp_path, whole[:-1]))) == len(ROWS)  # only the line end is missing
    assert len(read_table(cut(tmp_path, whole[:last] + b"\0\0\0"))) == len(ROWS) - 1


def test_damage_elsewhere_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"metrics.jsonl:2.*JSON"):
        read_table(cut(tmp_path, b'{"round":0,"scope":"a","metric":"b","value":null}\n{"rou\n{}\n'))


def test_null_reads_as_nan(tmp_path):
    assert math.isnan(
        read_table(cut(tmp_path, b'{"round":0,"scope":"a","metric":"b","value":null}\n'))["value"][
            0
        ]
    )


def test_damaged_parquet_falls_back_to_lines_or_is_named(tmp_path):
    recorder = started(tmp_path)
    recorder.rows(ROWS)
    recorder.finish({})
    whole = (tmp_path / "metrics.parquet").read_bytes()
    (tmp_path / "metrics.parquet").write_bytes(whole[: len(whole) // 2])
    assert len(read_table(tmp_path)) == len(ROWS)
    (tmp_path / "metrics.jsonl").unlink()
    with pytest.raises(ConfigError, match="whole Parquet file"):
        read_table(tmp_path)


def test_the_sha256_of_rows_leaves_times_out_and_nothing_else():
    def digest(*rows):
        recorder = started(None)
        recorder.rows(rows)
        return recorder.sha256()

    row, seconds = ROWS[0], {**ROWS[0], "metric": "seconds_evaluating"}
    same = digest(row)
    assert (
        digest({**row, "clock": 9.0})
        == digest(seconds, row)
        == digest(row, {**seconds, "value": 1.0})
        == same
    )
    others = [
        {"round": 1},
        {"scope": "run"},
        {"node": 2},
        {"metric": "accuracy"},
        {"value": row["value"] + 1e-15},
        {"value": math.nan},
    ]
    assert (
        len({same, digest(), digest(row, row), *(digest({**row, **other}) for other in others)})
        == len(others) + 3
    )


def test_a_recorder_goes_on_from_the_rows_it_is_given(tmp_path):
    first = started(tmp_path)
    first.rows(ROWS[:2])
    length, _ = first.on_disk()
    first.rows(ROWS[2:])
    first.fail(OSError("killed"))
    lines = (tmp_path / "metrics.jsonl").read_bytes()
    again = Recorder(tmp_path, {"seed": 3})
    again.resume(lines[:length], 1)
    assert (tmp_path / "metrics.jsonl").read_bytes() == lines[:length] and len(again.table()) == 2
    again.rows(ROWS[2:])
    assert (tmp_path / "metrics.jsonl").read_bytes() == lines and again.sha256() == first.sha256()
    states = [read_json(tmp_path / "status.json")["status"]]
    again.interrupted("interrupted after round 4", 4)
    state = read_json(tmp_path / "status.json")
    assert [*states, state["status"], state["round"], state["started"]] == [
        "running",
        "interrupted",
        4,
        first._started,
    ]


def test_run_without_evaluation(tmp_path):
    recorder = started(tmp_path)
    assert recorder.table().dtypes.equals(read_table(tmp_path).dtypes)
    recorder.finish({})
    pd.testing.assert_frame_equal(read_table(tmp_path), recorder.table())
