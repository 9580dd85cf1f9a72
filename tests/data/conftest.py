"""Where the real data lie."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def real_data(monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the real data sets, made known by FEDSIM_DATA; skips where there is none."""
    path = Path(os.environ.get("FEDSIM_DATA") or REPOSITORY.parent / "shared" / "data").resolve()
    if not path.is_dir():
        pytest.skip(f"the real data sets are not at {path} (set FEDSIM_DATA)")
    monkeypatch.setenv("FEDSIM_DATA", str(path))
    return path
