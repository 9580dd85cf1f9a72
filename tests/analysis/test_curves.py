from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest

from fedsim.analysis import compare, load_runs, plot, plot_comparison, run_curves
from fedsim.errors import ConfigError

PNG = b"\x89PNG"


@pytest.fixture
def sweep(tmp_path, write_sweep):
    return write_sweep(
        tmp_path / "sweep", seeds=(0, 1, 2), rounds=30, patterns=("markov", "cyclic")
    )


def band_at(axes, number: int, x: float) -> list[float]:
    """Least and greatest y of a band's corners at x."""
    corners = axes.collections[number].get_paths()[0].vertices
    return [float(f(corners[np.isclose(corners[:, 0], x), 1])) for f in (np.min, np.max)]


def test_lines_are_means_and_bands_are_as_said(sweep):
    runs = load_runs(sweep)
    last = runs[
        (runs["algorithm"] == "fedavg")
        & (runs["participation"] == "markov")
        & (runs["metric"] == "accuracy")
        & (runs["round"] == 30)
    ]
    values = last["value"].to_numpy()
    for band, expected in {
        "std": [values.mean() - values.std(ddof=1), values.mean() + values.std(ddof=1)],
        "minmax": [values.min(), values.max()],
    }.items():
        figure = plot(runs, band=band)
        markov = figure.axes[0]
        assert [axes.get_title() for axes in figure.axes] == [
            "participation: markov",
            "participation: cyclic",
        ]
        assert (
            markov.lines[0].get_ydata()[-1] == pytest.approx(values.mean())
            and len(markov.lines) == 3
        )
        assert band_at(markov, 0, 30) == pytest.approx(expected)
        said = figure.legends[0].get_title().get_text()
        assert (
            "mean over 3 seeds" in said
            and ("standard deviation" if band == "std" else "least to greatest") in said
        )


def test_legend_lies_outside_the_panels_and_names_each_method_once(sweep):
    figure = plot(sweep, target=0.4)
    figure.draw_without_rendering()
    legend = figure.legends[0]
    assert [text.get_text() for text in legend.get_texts()] == ["fedavg", "fedau", "fedspeed"]
    assert not any(
        axes.get_window_extent().overlaps(legend.get_window_extent()) for axes in figure.axes
    )
    assert (
        figure.axes[0].get_xlabel() == "round"
        and figure.axes[0].get_ylabel() == "accuracy (fraction correct)"
    )


def test_picture_is_written_whole_and_shown_by_a_notebook(sweep, tmp_path):
    figure = plot(sweep, path=tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(PNG) and figure._repr_png_().startswith(PNG)
    plot(sweep, path=tmp_path / "a.svg")
    assert b"<svg" in (tmp_path / "a.svg").read_bytes()
    for bad in (tmp_path / "a.xyz", tmp_path / "absent" / "a.png"):
        with pytest.raises(ConfigError, match="path="):
            plot(sweep, path=bad)
    with pytest.raises(ConfigError, match="band='iqr'"):
        plot(sweep, band="iqr")


def test_unfinished_runs_are_dotted_and_no_part_of_the_mean(tmp_path, write_run, config_of):
    write_run(tmp_path / "0", config_of("fedau", "markov", 0), [0.1, 0.5])
    write_run(tmp_path / "1", config_of("fedau", "markov", 1), [0.1, 0.9], end="killed")
    figure = plot_comparison(compare(tmp_path))
    dotted, mean = figure.axes[0].lines
    assert dotted.get_linestyle() == ":" and mean.get_ydata().tolist() == [0.1, 0.5]
    assert "dotted: unfinished" in figure.legends[0].get_title().get_text()


def test_many_methods_can_be_told_apart(tmp_path, write_run, config_of):
    for cutoff in range(9):
        write_run(
            tmp_path / str(cutoff),
            config_of("fedau", "markov", 0, aggregator__cutoff=cutoff),
            [0.1, 0.5],
        )
    lines = plot(tmp_path).axes[0].lines
    assert len({(line.get_color(), line.get_linestyle()) for line in lines}) == len(lines) == 9


def test_run_curves_at_a_server_and_over_a_graph(tmp_path, write_run, config_of):
    server = load_runs(write_run(tmp_path / "0", config_of("fedau", "markov", 0), [0.1, 0.5]))
    figure = run_curves(server, tmp_path / "a.png")
    assert [axes.get_ylabel() for axes in figure.axes] == [
        "accuracy (fraction correct)",
        "loss (mean per example)",
    ]
    assert [axes.lines[0].get_ydata().tolist() for axes in figure.axes] == [[0.1, 0.5], [1.8, 1.0]]
    assert (tmp_path / "a.png").read_bytes().startswith(PNG)
    graph = run_curves(
        load_runs(
            write_run(tmp_path / "1", config_of("gossip", "full", 0), [0.1, 0.5], scope="nodes")
        )
    )
    assert band_at(graph.axes[0], 0, 10) == pytest.approx([0.45, 0.53])


@pytest.mark.parametrize(
    "values", [[], [math.nan, math.nan], [0.1, math.inf], [0.1, -math.inf, 1e308]]
)
def test_run_without_or_with_infinite_values_has_a_picture(tmp_path, write_run, config_of, values):
    folder = write_run(tmp_path / "0", config_of("fedau", "markov", 0), values, picture=True)
    if values:
        plot(folder, path=tmp_path / "a.png")
    assert (folder / "curves.png").read_bytes().startswith(PNG)


def test_nothing_heavy_is_imported_until_used_and_no_backend_is_chosen(sweep):
    code = f"""
import sys
import fedsim.analysis, fedsim.recording
slow = {{"pandas", "matplotlib", "scipy", "rich", "torch"}}
assert not slow & set(sys.modules), sorted(sys.modules)
fedsim.analysis.plot({str(sweep)!r})
assert "matplotlib.pyplot" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
