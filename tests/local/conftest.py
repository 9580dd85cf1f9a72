"""What tests of local training share."""

import sys

import pytest

from fedsim.local import written


@pytest.fixture(params=[sys.maxsize, 0], ids=["by rows", "layer by layer"])
def way_uphill(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways in which written-out gradients of networks that begin with a convolution go uphill, whatever their size."""
    monkeypatch.setattr(written, "ONE_ROW", request.param)
