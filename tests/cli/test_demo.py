"""The main job, with one seed and a few rounds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fedsim.cli import demo


def test_the_main_job_runs_five_algorithms(
    ray_session: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "demo"
    assert demo.main(["--folder", str(folder), "--seeds", "1", "--rounds", "3"]) == 0
    shown = capsys.readouterr().out
    assert "the same bytes" in shown and "vc_gossip" in shown and "rounds to 0.9" in shown
    assert sorted(path.name for path in folder.iterdir() if path.is_dir()) == sorted(
        f"{name}-0" for name in (*demo.SERVER, *demo.GRAPH)
    )
    assert all(
        json.loads((path / "status.json").read_text())["status"] == "done"
        for path in folder.iterdir()
        if path.is_dir()
    )
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert "| fedau" in (folder / "comparison.md").read_text()
