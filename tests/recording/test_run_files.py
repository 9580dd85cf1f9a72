from __future__ import annotations

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest

from fedsim.errors import ConfigError
from fedsim.recording import files
from fedsim.recording.files import json_bytes, plain, read_json, read_yaml, write_atomic, yaml_bytes


def test_write_replaces_whole_file_and_leaves_nothing_else(tmp_path):
    write_atomic(tmp_path / "a.json", b"old, and longer")
    write_atomic(tmp_path / "a.json", b"new")
    assert (tmp_path / "a.json").read_bytes() == b"new"
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_permissions_follow_the_umask(tmp_path):
    previous = os.umask(0o027)
    try:
        write_atomic(tmp_path / "a", b"")
    finally:
        os.umask(previous)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("fault", ["fsync", "replace"])
def test_fault_while_writing_keeps_the_old_file(tmp_path, monkeypatch, fault):
    write_atomic(tmp_path / "a", b"old")

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, fault, full)
    with pytest.raises(OSError, match="No space"):
        write_atomic(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 1


def test_json_is_strict_and_keeps_nan_and_infinity(tmp_path):
    value = {
        "a": math.inf,
        "b": [-math.inf, 1.5, {"c": math.nan}],
        "d": None,
        "e": True,
        "f": "text",
    }
    write_atomic(tmp_path / "a.json", json_bytes(value))

    def refuse(name):
        raise AssertionError(f"{name} is no JSON")

    json.loads((tmp_path / "a.json").read_bytes(), parse_constant=refuse)
    back = read_json(tmp_path / "a.json")
    assert math.isnan(back["b"][2].pop("c"))
    assert back == {"a": math.inf, "b": [-math.inf, 1.5, {}], "d": None, "e": True, "f": "text"}


def test_plain_turns_numpy_paths_and_tuples_into_yaml(tmp_path):
    value = {
        "a": np.float32(0.5),
        "b": np.arange(2),
        "c": (1, True),
        "d": Path("x"),
        "e": np.float64(1e-5),
        3: None,
    }
    (tmp_path / "a.yaml").write_bytes(yaml_bytes(value))
    back = read_yaml(tmp_path / "a.yaml")
    assert (
        back
        == plain(value)
        == {"a": 0.5, "b": [0, 1], "c": [1, True], "d": "x", "e": 1e-5, "3": None}
    )
    assert type(plain(value)["e"]) is float and plain(value)["c"][1] is True


@pytest.mark.parametrize(
    "read, content",
    [(read_json, b"{"), (read_yaml, b"a: [1"), (read_json, None), (read_yaml, None)],
)
def test_damaged_or_missing_file_is_named(tmp_path, read, content):
    path = tmp_path / "settings"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match="settings.*readable"):
        read(path)
