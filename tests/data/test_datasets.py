"""Data sets: how they are divided and standardised; digits, synthetic problems and the naturally
divided sets."""

from __future__ import annotations

import gzip
import json
import lzma
from pathlib import Path

import numpy as np
import pytest

from fedsim.data import (
    CIFAR10,
    DataSource,
    Digits,
    FashionMNIST,
    Har,
    HeartDisease,
    Shakespeare,
    Split,
    Synthetic,
)
from fedsim.data.dataset import moments, number_clients
from fedsim.errors import ConfigError
from tests.data.formats import OFFLINE, refusal, standardised


def numbered(samples: int) -> Split:
    return Split(np.arange(samples)[:, None], np.arange(samples), np.arange(samples) % 3)


def test_validation_and_training_samples_are_a_division_in_the_order_of_the_source():
    kept, validation = DataSource(validation=0.25).hold_out(numbered(40), 5)
    assert len(validation) == 10 and sorted([*kept.y, *validation.y]) == list(range(40))
    assert np.all(np.diff(kept.y) > 0) and np.all(np.diff(validation.y) > 0)
    assert np.array_equal(kept.x[:, 0], kept.y) and np.array_equal(kept.client, kept.y % 3)


def test_the_validation_samples_depend_on_the_seed_alone():
    draws = [
        DataSource(validation=0.25).hold_out(numbered(40), seed)[1].y.tolist() for seed in (1, 1, 2)
    ]
    assert draws[0] == draws[1] != draws[2]


def test_a_limit_is_a_random_subset_that_grows_and_holds_its_validation_part():
    small = DataSource(validation=0, limit=10).hold_out(numbered(40), 0)[0]
    large = DataSource(validation=0, limit=20).hold_out(numbered(40), 0)[0]
    assert len(small) == 10 and set(small.y) < set(large.y) and small.y.max() > 20
    kept, validation = DataSource(validation=0.3, limit=10).hold_out(numbered(40), 0)
    assert (len(kept), len(validation)) == (7, 3) and {*kept.y, *validation.y} == {*small.y}
    assert len(DataSource(validation=0, limit=1000).hold_out(numbered(40), 0)[0]) == 40


def test_a_validation_part_is_never_empty_nor_everything():
    kept, validation = DataSource(validation=0.01).hold_out(numbered(2), 0)
    assert (len(kept), len(validation)) == (1, 1)
    assert DataSource(validation=0).hold_out(numbered(2), 0)[1] is None
    with pytest.raises(ConfigError, match="data.validation=0.5: .* 2 samples"):
        DataSource(validation=0.5, limit=1).hold_out(numbered(2), 0)


def test_moments_are_per_feature_or_channel_and_constants_are_left_alone():
    x = np.random.default_rng(0).normal(3, 2, (50, 2, 4, 5)).astype(np.float32)
    mean, std = moments(x, 0.5)
    assert mean.shape == std.shape == (2, 1, 1)
    assert np.allclose(std[1, 0, 0], x[:, 1].std() / 2) and np.allclose(
        mean[0, 0, 0], x[:, 0].mean() / 2
    )
    x = np.tile(np.float32([0.1, 0, 1e6]), (9, 1))
    x[::2, 2] = np.nextafter(np.float32(1e6), np.float32(2e6))  # constant but for rounding
    mean, std = moments(x)
    assert np.allclose(mean, [0.1, 0, 1e6]) and std.tolist() == [1, 1, 1]


@pytest.mark.parametrize("shape", [(3, 7), (30_000, 7), (900, 3, 4, 5)])
def test_moments_of_bytes_are_those_of_floats(shape):
    x = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    x[:, -1], x[:, 1, ...] = 255, np.clip(x[:, 1], 254, 255)  # constant, and nearly so
    found, expected = moments(x, 1 / 255), moments(x.astype(np.float64), 1 / 255)
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape and np.allclose(one, other, rtol=1e-6)
    assert found[1].reshape(-1)[-1] == 1


def test_clients_that_only_test_are_numbered_after_those_that_train():
    train, test = number_clients(np.array([7, 3, 7, 40]), np.array([3, 5, 99, 40, 1]))
    assert train.tolist() == [1, 0, 1, 2] and test.tolist() == [0, 4, 5, 2, 3]


def test_digits_have_one_test_part_for_all_seeds_and_a_validation_part_for_each():
    first, second = Digits().load(0), Digits().load(1)
    assert (
        first.input_shape == (1, 8, 8)
        and first.train.x.dtype == np.uint8
        and first.train.x.max() == 16
    )
    assert [len(part) for part in (first.train, first.validation, first.test)] == [1294, 144, 359]
    assert np.array_equal(first.test.x, second.test.x) and not np.array_equal(
        first.validation.x, second.validation.x
    )
    whole = np.concatenate(
        [standardised(first, part) for part in (first.train, first.validation, first.test)]
    )
    # The fixed constants are those of the set
    assert abs(whole.mean()) < 2e-4 and abs(whole.std() - 1) < 2e-4


def test_logistic_regression_learns_digits():
    from sklearn.linear_model import LogisticRegression

    data = Digits().load(0)
    fit = LogisticRegression(max_iter=300).fit(
        standardised(data, data.train).reshape(len(data.train), -1), data.train.y
    )
    assert fit.score(standardised(data, data.test).reshape(len(data.test), -1), data.test.y) > 0.94


@pytest.mark.parametrize(
    "settings",
    [
        {"shape": [6]},
        {"shape": [3, 4, 4], "classes": 3},
        {"task": "regression", "outputs": 2, "shape": [5]},
    ],
)
def test_a_larger_synthetic_set_appends_to_the_same_problem(settings):
    small = Synthetic(samples=50, test=20, validation=0, **settings).load(4)
    large = Synthetic(samples=80, test=33, validation=0, **settings).load(4)
    for part in ("train", "test"):
        few, many = getattr(small, part), getattr(large, part)
        assert np.array_equal(few.x, many.x[: len(few)]) and np.allclose(
            few.y, many.y[: len(few)], atol=1e-5
        )
    assert small.input_shape == tuple(settings["shape"]) and not np.array_equal(
        small.train.x[:20], small.test.x
    )
    assert not np.array_equal(
        small.train.x, Synthetic(samples=50, validation=0, **settings).load(5).train.x
    )


def test_synthetic_classes_are_balanced_and_lie_about_their_means():
    data = Synthetic(samples=3000, classes=3, shape=[8], noise=0.1, validation=0).load(0)
    assert np.bincount(data.train.y).tolist() == [1000] * 3
    means = np.stack([data.train.x[data.train.y == c].mean(axis=0) for c in range(3)])
    assert np.allclose((data.train.x - means[data.train.y]).std(axis=0), 0.1, rtol=0.1)
    nearest = np.linalg.norm(data.test.x[:, None] - means, axis=2).argmin(axis=1)
    assert (nearest == data.test.y).mean() > 0.99


def test_synthetic_regression_is_linear_up_to_its_noise():
    data = Synthetic(
        task="regression", samples=2000, shape=[4], outputs=2, noise=0.3, validation=0
    ).load(0)
    assert (data.classes, data.outputs, data.train.y.dtype) == (0, 2, np.float32)
    design = np.column_stack([data.train.x, np.ones(2000)])
    solution = np.linalg.lstsq(design, data.train.y, rcond=None)[0]
    assert np.allclose((data.train.y - design @ solution).std(axis=0), 0.3, rtol=0.1)
    assert np.linalg.norm(solution[:4]) > 0.5


def test_har_windows_are_summed_and_scaled_and_the_official_subjects_test(tmp_path):
    subject = np.array([1, 2, 30, 3, 24, 1], np.uint8)
    # Sums leave int16
    delta = np.random.default_rng(0).integers(10_000, 30_000, (6, 2, 5)).astype(np.int16)
    y = np.arange(6, dtype=np.uint8)
    np.savez(tmp_path / "plain.npz", delta=delta, scale=np.float32([4, 2]), y=y, subject=subject)
    (tmp_path / "har_uci_windows.npz.xz").write_bytes(
        lzma.compress((tmp_path / "plain.npz").read_bytes())
    )
    data = Har(root=str(tmp_path), form="windows", validation=0).load(0)
    assert (
        np.allclose(data.train.x[1, 1], np.cumsum(delta[2, 1].astype(int)) / 2)
        and data.train.x.dtype == np.float32
    )
    assert (
        data.train.client.tolist() == [0, 2, 1, 0]
        and data.test.client.tolist() == [3, 4]
        and data.train.y.tolist() == [0, 2, 3, 5]
    )
    assert np.allclose(
        standardised(data, data.train).mean(axis=(0, 2)), 0, atol=1e-5
    ) and data.mean.shape == (2, 1)


@pytest.mark.parametrize(
    "changed, said",
    [
        ({"y": np.arange(5)}, "do not fit"),
        ({"y": np.arange(6) + 1}, "labels from 1 to 6"),
        ({"x": np.full((6, 3), np.nan)}, "NaN"),
        ({"subject": np.full(6, 1)}, "subjects"),
        ({"x": np.zeros((6, 3), complex)}, "do not fit"),
    ],
)
def test_faulty_har_features_are_refused(tmp_path, changed, said):
    arrays = {
        "x": np.zeros((6, 3), np.float16),
        "y": np.arange(6),
        "subject": np.array([1, 2, 30, 3, 24, 1]),
    }
    path = tmp_path / "har_uci_features.npz"
    np.savez(path, **(arrays | changed))
    assert said in refusal(Har(root=str(tmp_path)), path=path)
    np.savez(path, x=arrays["x"])
    assert "has no array y nor subject" in refusal(Har(root=str(tmp_path)), path=path)
    path.write_bytes(path.read_bytes()[:-40])
    assert "truncated" in refusal(Har(root=str(tmp_path)), path=path)


@pytest.fixture
def hospitals(tmp_path: Path) -> Path:
    for number, name in enumerate(("cleveland", "hungarian", "switzerland", "va")):
        rows = [
            [number, 37 * (10 * number + age) % 101, age, *range(10), age % 4] for age in range(10)
        ]
        lines = [
            ",".join(
                "?" if (column, age) == (1, 9) else f"{value:.1f}"
                for column, value in enumerate(row)
            )
            for age, row in enumerate(rows)
        ]
        (tmp_path / f"processed.{name}.data").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_heart_disease_is_divided_within_hospitals_and_missing_values_become_the_training_median(
    hospitals,
):
    data = HeartDisease(root=str(hospitals)).load(0)
    assert np.bincount(data.test.client).tolist() == [2] * 4 and (
        len(data.train),
        len(data.validation),
    ) == (29, 3)
    for part in (data.train, data.validation, data.test):
        assert (
            np.array_equal(part.x[:, 0], part.client)
            and np.isfinite(part.x).all()
            and set(part.y) <= {0, 1}
        )
    whole = {
        name: np.concatenate(
            [getattr(part, name) for part in (data.train, data.validation, data.test)]
        )
        for name in ("x", "y")
    }
    assert np.array_equal(whole["y"], whole["x"][:, 2] % 4 > 0)  # any disease is 1
    missing = data.train.x[:, 2] == 9
    median = np.median(data.train.x[~missing, 1])
    assert (
        missing.any()
        and np.all(data.train.x[missing, 1] == median)
        and np.all(whole["x"][whole["x"][:, 2] == 9, 1] == median)
    )
    # Each hospital has its own draw
    assert len({tuple(data.test.x[data.test.client == hospital, 2]) for hospital in range(4)}) > 1
    assert data.notes["imputed"].startswith("4 of 520 values")
    other = HeartDisease(root=str(hospitals)).load(1)
    assert np.array_equal(data.test.y, other.test.y) and not np.array_equal(
        data.validation.x, other.validation.x
    )


@pytest.mark.parametrize(
    "line",
    [
        "1,2,3",
        "1,2,3,4,5,6,7,8,9,10,11,12,13,?",
        "a,2,3,4,5,6,7,8,9,10,11,12,13,0",
        "inf,2,3,4,5,6,7,8,9,10,11,12,13,0",
    ],
)
def test_a_faulty_patient_is_refused_by_line(hospitals, line):
    path = hospitals / "processed.va.data"
    path.write_text(path.read_text() + line + "\n")
    assert "line 11" in refusal(HeartDisease(root=str(hospitals)), path=path)


def roles(folder: Path, texts: dict[str, str]) -> Path:
    path = folder / "shakespeare_roles.json.gz"
    path.write_bytes(
        gzip.compress(
            json.dumps(
                {"users": list(texts), "user_data": {u: {"raw": t} for u, t in texts.items()}}
            ).encode()
        )
    )
    return path


def test_shakespeare_windows_stay_in_one_part_of_one_role(tmp_path):
    texts = {"A": "abcdefghijklmnopqrst", "B": "é", "C": "TSRQPONMLKJIHGFEDCBA"}
    roles(tmp_path, texts)
    data = Shakespeare(root=str(tmp_path), length=3, stride=2, validation=0).load(0)

    def read(split: Split) -> list[tuple[str, str, int]]:
        names = data.label_names
        return [
            ("".join(names[i] for i in x), names[y], c)
            for x, y, c in zip(split.x, split.y, split.client, strict=True)
        ]

    # Up to the 16th character
    assert read(data.train)[:7] == [
        (texts["A"][i : i + 3], texts["A"][i + 3], 0) for i in range(0, 13, 2)
    ]
    assert read(data.train)[7:] == [
        (texts["C"][i : i + 3], texts["C"][i + 3], 1) for i in range(0, 13, 2)
    ]
    assert read(data.test) == [("qrs", "t", 0), ("DCB", "A", 1)]
    assert (
        data.tokens
        and data.classes == data.outputs == 41
        and data.label_names == sorted(data.label_names)
    )
    assert (
        data.notes["roles"].startswith("2 of 3")
        and data.train.x.dtype == data.train.y.dtype == np.int64
    )


def test_shakespeare_refuses_windows_longer_than_the_text_and_faulty_files(tmp_path):
    path = roles(tmp_path, {"A": "a" * 20})
    assert "at most 15" in refusal(Shakespeare(root=str(tmp_path), length=16), key="data.length")
    assert "20 %" in refusal(Shakespeare(root=str(tmp_path), length=10), key="data.length")
    for content in (
        {"users": ["A"], "user_data": {}},
        [],
        {"users": [], "user_data": {}},
        {"users": ["A"], "user_data": {"A": {"raw": 3}}},
    ):
        path.write_bytes(gzip.compress(json.dumps(content).encode()))
        assert "users" in refusal(Shakespeare(root=str(tmp_path)), path=path)
    path.write_bytes(gzip.compress(b"{}")[:-4])
    assert "truncated" in refusal(Shakespeare(root=str(tmp_path)), path=path)


@pytest.mark.parametrize("source", [Har, HeartDisease, Shakespeare, CIFAR10, FashionMNIST])
def test_an_empty_folder_is_one_line_that_names_root_and_environment(source, tmp_path):
    settings = OFFLINE if source in (CIFAR10, FashionMNIST) else {}
    message = refusal(source(root=str(tmp_path), **settings))
    assert "FEDSIM_DATA" in message and str(tmp_path) in message


def test_a_folder_in_place_of_a_file_is_no_file(tmp_path):
    (tmp_path / "har_uci_features.npz").mkdir()
    refusal(Har(root=str(tmp_path)))
