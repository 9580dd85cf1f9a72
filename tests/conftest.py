"""Shared by all tests: one thread for torch, one Ray session for the tests that need Ray, and
property tests that repeat."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator

import hypothesis
import pytest

# No test depends on time or luck
hypothesis.settings.register_profile("repeatable", deadline=None, derandomize=True)
hypothesis.settings.load_profile("repeatable")


@pytest.fixture(scope="session", autouse=True)
def single_thread() -> None:
    """Sums in one order on any machine, and no fight for cores between test processes."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def own_state() -> Iterator[None]:
    """A folder of the tests' own for the key that runs are signed with."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", folder)
        yield


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """A Ray session of two CPUs, started at its first use."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray

    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
    )
    yield
    ray.shutdown()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of one Ray session go to one test process (pytest-xdist with --dist loadgroup)."""
    for item in items:
        if "ray_session" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.xdist_group("ray"))


@pytest.fixture(params=[sys.maxsize, 0], ids=["by rows", "layer by layer"])
def way_uphill(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways in which closed-form gradients of networks that begin with a convolution go uphill,
    whatever their size."""
    from fedsim.kernels import closed_form

    monkeypatch.setattr(closed_form, "ONE_ROW", request.param)
