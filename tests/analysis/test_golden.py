"""Golden curves: tolerances from measured spreads, what counts as moved, and files that are
refused."""

import json

import numpy as np
import pandas as pd
import pytest

from fedsim.analysis.golden import RELATIVE, Curves, Golden, moved
from fedsim.errors import ConfigError

CONFIG = {
    "rounds": 3,
    "seed": 0,
    "local": {"rate": 0.1, "execution": "auto"},
    "engine": {"device": "cpu"},
    "name": "x",
}


def run(losses, accuracies=(0.5, 0.6, 0.7), sha256="a", **settings):
    config = {**CONFIG, **{key: value for key, value in settings.items() if key != "execution"}}
    config["local"] = {
        "rate": settings.get("rate", 0.1),
        "execution": settings.get("execution", "auto"),
    }
    config.pop("rate", None)
    rows = [
        (round, 0.0, "server", -1, metric, value)
        for metric, values in (
            ("loss", losses),
            ("accuracy", accuracies),
            ("seconds", np.random.default_rng().random(3)),
        )
        for round, value in enumerate(values)
    ]
    rows.append((2, 0.0, "node", 3, "loss", 1.0))
    return Curves.of(
        config,
        pd.DataFrame(rows, columns=["round", "clock", "scope", "node", "metric", "value"]),
        sha256,
    )


BASE = [1.0, 0.5, 0.25]


@pytest.fixture
def golden():
    rounded = run([1.0, 0.5 + 1e-4, 0.25 - 2e-5], execution="looped")
    return Golden.measure(
        [run(BASE), rounded, run([1.0, 0.7, 0.15], seed=1), run([1.0, 0.6, 0.35], seed=2)]
    )


def test_times_and_single_nodes_are_left_out(golden):
    assert sorted(golden.curves) == ["server/accuracy", "server/loss"]
    assert (
        "engine.device" not in golden.settings
        and "name" not in golden.settings
        and golden.settings["local.rate"] == 0.1
    )


def test_the_tolerance_is_the_geometric_mean_of_the_two_spreads(golden):
    """Both never shrink again: rounding 1e-6, 1e-4, 1e-4; over seeds 0, 0.1, 0.1."""
    tolerance = np.sqrt([RELATIVE * RELATIVE, 1e-4 * 0.1, 1e-4 * 0.1])
    np.testing.assert_allclose(golden.curves["server/loss"]["tolerance"], tolerance, rtol=1e-6)
    assert golden.curves["server/loss"]["seeds"] == pytest.approx(0.1) and golden.blind == []


def test_one_run_alone_has_the_tolerance_of_rounding():
    golden = Golden.measure([run(BASE)])
    np.testing.assert_allclose(
        golden.curves["server/loss"]["tolerance"], RELATIVE * np.array([1.0, 1.0, 1.0])
    )


@pytest.mark.parametrize(
    ("losses", "curves"),
    [
        (BASE, []),
        ([1.0, 0.503, 0.25], []),
        ([1.0, 0.504, 0.25], ["server/loss"]),
        ([1.00001, 0.5, 0.25], ["server/loss"]),
        ([1.0, 0.5, np.nan], ["server/loss"]),
        ([1.0, 0.5], ["server/loss"]),
        ([1.0, 0.5, 0.25, 0.2], ["server/loss"]),
    ],
)
def test_what_has_moved(golden, losses, curves):
    found = moved(golden, run(losses, execution="stacked", engine={"device": "cuda"}))
    assert [each.curve for each in found] == curves


def test_where_and_how_far(golden):
    (found,) = moved(golden, run([1.0, 0.52, 0.30]))
    assert (found.round, found.value, found.golden) == (1, 0.52, 0.5)
    assert found.worst == pytest.approx(0.05 / np.sqrt(1e-5), rel=1e-6)


def test_nan_where_it_was_nan_is_no_difference():
    lost = [1.0, np.nan, np.nan]
    assert moved(Golden.measure([run(lost)]), run(lost)) == []


def test_a_file_holds_what_was_measured(golden, tmp_path):
    golden.write(tmp_path / "new" / "g.json")
    again = Golden.read(tmp_path / "new" / "g.json")
    assert (
        again.settings == golden.settings and again.sha256 == "a" and again.curves == golden.curves
    )
    assert moved(again, run(BASE)) == [] and moved(again, run([1.0, 0.6, 0.25])) != []


def test_other_settings_are_refused(golden):
    with pytest.raises(ConfigError, match=r"^local.rate=0.2: the golden run has 0.1$"):
        moved(golden, run(BASE, rate=0.2))
    with pytest.raises(ConfigError, match=r"^seed=1: the golden run has 0$"):
        moved(golden, run(BASE, seed=1))
    with pytest.raises(ConfigError, match="local.rate=0.2"):
        Golden.measure([run(BASE), run(BASE, rate=0.2)])


def spoiled(content, where, value):
    part = content
    for key in where[:-1]:
        part = part[key]
    part[where[-1]] = value
    return content


@pytest.mark.parametrize(
    ("where", "value"),
    [
        (["format"], 2),
        (["settings"], []),
        (["curves"], {}),
        (["curves", "server/loss"], 3),
        (["curves", "server/loss", "value"], [1.0, 2.0]),
        (["curves", "server/loss", "value"], [1.0, 2.0, "x"]),
        (["curves", "server/loss", "numeric"], None),
        (["curves", "server/loss", "round"], 3),
        (["metrics_sha256"], 4),
    ],
)
def test_files_that_are_no_golden_files(golden, tmp_path, where, value):
    path = tmp_path / "g.json"
    golden.write(path)
    path.write_text(json.dumps(spoiled(json.loads(path.read_text()), where, value)))
    with pytest.raises(ConfigError, match=r"g\.json'?: accepted is a file of format 1"):
        Golden.read(path)


@pytest.mark.parametrize("content", ["", "{", "[1]", "nonsense"])
def test_files_that_are_no_json(tmp_path, content):
    (tmp_path / "g.json").write_text(content)
    with pytest.raises(ConfigError, match=r"g\.json"):
        Golden.read(tmp_path / "g.json")
