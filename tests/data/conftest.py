"""Where the real data lie."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.paths import DATA


@pytest.fixture
def real_data(monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the real data sets, made known by FEDSIM_DATA; skips where there is none."""
    path = DATA.resolve()
    if not path.is_dir():
        pytest.skip(f"the real data sets are not at {path} (set FEDSIM_DATA)")
    monkeypatch.setenv("FEDSIM_DATA", str(path))
    return path
