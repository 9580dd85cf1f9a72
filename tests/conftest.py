"""Shared by all tests: one thread for torch, one Ray session for the tests that need Ray, and property tests that repeat."""

from __future__ import annotations

from collections.abc import Iterator

import hypothesis
import pytest

hypothesis.settings.register_profile("repeatable", deadline=None, derandomize=True)  # no test depends on time or luck
hypothesis.settings.load_profile("repeatable")


@pytest.fixture(scope="session", autouse=True)
def single_thread() -> None:
    """Sums in one order on any machine, and no fight for cores between test processes."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """A Ray session of fedsim's own, started at its first use."""
    from fedsim.engine.ray import Ray

    Ray(workers=2)._connect()
    yield
    import ray

    ray.shutdown()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of one Ray session go to one test process (pytest-xdist with --dist loadgroup)."""
    for item in items:
        if "ray_session" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.xdist_group("ray"))
