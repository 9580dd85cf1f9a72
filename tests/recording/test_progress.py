from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from fedsim.errors import ConfigError
from fedsim.recording import RoundProgress


def run(terminal: bool, show) -> tuple[RoundProgress, str]:
    console = Console(
        file=io.StringIO(), force_terminal=terminal, width=120, color_system=None, _environ={}
    )
    with RoundProgress(200, show, "fedau", console) as progress:
        for done in range(1, 13):
            progress.update(done, accuracy=0.8731 if done == 3 else None)
    return progress, re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", console.file.getvalue())


def test_bar_shows_round_accuracy_and_rate():
    progress, text = run(True, "auto")
    assert progress.shown
    for part in ("fedau", "round 12/200", "accuracy 0.873", "rounds/s"):
        assert part in text


def test_bar_is_off_when_output_is_no_terminal():
    progress, text = run(False, "auto")
    assert not progress.shown and text == ""


def test_settings_overrule_the_terminal():
    assert run(False, True)[0].shown
    assert not run(True, False)[0].shown


def test_standard_error_decides(monkeypatch):
    monkeypatch.setattr("sys.stderr", io.StringIO())
    assert not RoundProgress(10).shown


def test_other_setting_is_refused():
    with pytest.raises(ConfigError, match="progress='sometimes': auto, true or false"):
        RoundProgress(10, "sometimes")
