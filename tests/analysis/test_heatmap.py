"""The label heat map: order, means, a size that can be looked at, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from fedsim.analysis import heatmap
from fedsim.errors import ConfigError


@pytest.mark.parametrize("clients", [1, 30, 300, 10_000])
def test_heat_map_is_a_picture_of_a_bounded_size(tmp_path, clients):
    from matplotlib.image import imread

    counts = np.random.default_rng(0).poisson(0.3, (clients, 10))
    counts[0] = 0  # an empty client
    heatmap.label_heatmap(
        counts, tmp_path / "map.png", label_names=["a label with a very long name"] * 10
    )
    height, width, _ = imread(tmp_path / "map.png").shape
    assert 300 < height < 1500 and 500 < width < 1600


def test_heat_map_orders_by_main_label_and_leaves_empty_clients_last():
    counts = np.array([[0, 0, 0], [0, 5, 0], [1, 0, 3], [4, 0, 1], [9, 0, 0], [1, 4, 0]])
    assert heatmap._by_main_label(counts).tolist() == [4, 3, 1, 5, 2, 0]
    np.testing.assert_allclose(heatmap._mean_share(counts[[0, 1, 2]]), [0.125, 0.5, 0.375])
    assert np.all(np.isnan(heatmap._mean_share(counts[:1])))


def test_heat_map_refuses_what_it_cannot_draw_or_write(tmp_path):
    counts = np.ones((3, 2), dtype=int)
    for path in (tmp_path / "absent" / "map.png", tmp_path / "map.nonsense"):
        with pytest.raises(ConfigError, match="path="):
            heatmap.label_heatmap(counts, path)
    with pytest.raises(ConfigError, match="label_names=3: 2 names"):
        heatmap.label_heatmap(counts, tmp_path / "map.png", ["a", "b", "c"])
    with pytest.raises(ConfigError, match="counts="):
        heatmap.label_heatmap(np.ones(3), tmp_path / "map.png")
    assert not list(tmp_path.iterdir())
