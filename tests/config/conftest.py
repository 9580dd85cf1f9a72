"""A run of this user's, and the same as if somebody had sent it."""

import shutil
from pathlib import Path

import pytest

from fedsim.cli.main import main
from tests.cli.test_resume import TINY, fail_in_round


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
