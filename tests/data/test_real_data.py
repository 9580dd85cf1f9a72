"""The real data sets, where they are: official sizes and content, clients, and what a linear model
reaches on them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from fedsim.data import (
    CIFAR10,
    MNIST,
    Dataset,
    FashionMNIST,
    Har,
    HeartDisease,
    MnistWriters,
    Shakespeare,
)
from tests.data.formats import BATCHES, standardised


def need(root: Path, folder: str) -> Path:
    """The folder of one data set below `root`; skips where it is not there."""
    if not (root / folder).is_dir():
        pytest.skip(f"{root} has no folder {folder}")
    return root / folder


def linear_accuracy(data: Dataset) -> float:
    fit = LogisticRegression(max_iter=500).fit(standardised(data, data.train), data.train.y)
    return fit.score(standardised(data, data.test), data.test.y)


@pytest.mark.parametrize(
    "source, folder, zeros",
    [(MNIST, "mnist", [5923, 980]), (FashionMNIST, "fashion-mnist", [6000, 1000])],
)
def test_mnist_and_fashion_mnist_are_the_official_files(real_data, source, folder, zeros):
    need(real_data, folder)
    data = source(url=[], validation=0).load(0)  # the default checksums hold
    assert data.train.x.shape == (60_000, 1, 28, 28) and data.test.x.shape == (10_000, 1, 28, 28)
    assert [int((part.y == 0).sum()) for part in (data.train, data.test)] == zeros
    z = standardised(data, data.train.take(np.arange(3000)))
    assert abs(z.mean()) < 0.02 and abs(z.std() - 1) < 0.02


def test_mnist_writers_are_disjoint(real_data):
    need(real_data, "mnist")
    data = MnistWriters(url=[], validation=0).load(0)
    assert np.array_equal(np.unique(data.train.client), np.arange(539)) and np.array_equal(
        np.unique(data.test.client), np.arange(539, 836)
    )


def test_cifar_mosaics_hold_the_official_batches(real_data, tmp_path):
    folder = need(real_data, "cifar10")
    command = [
        sys.executable,
        str(folder / "restore_cifar10.py"),
        str(need(folder, "mosaic")),
        str(tmp_path),
    ]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    assert {path.name for path in tmp_path.iterdir()} <= set(BATCHES)
    settings = {"url": [], "validation": 0, "allow_partial": True}
    # The pickles pass the official checksums
    tiled, pickled = CIFAR10(**settings).load(0), CIFAR10(root=str(tmp_path), **settings).load(0)
    for part in ("train", "test"):
        one, other = getattr(tiled, part), getattr(pickled, part)
        assert np.array_equal(one.x, other.x) and np.array_equal(one.y, other.y)
    assert (
        np.bincount(tiled.test.y).tolist() == [1000] * 10
        and "10000 of 50000" in tiled.notes["partial"]
    )


def test_har_features_reach_the_accuracy_of_the_official_split(real_data):
    need(real_data, "har-uci")
    data = Har(validation=0).load(0)
    assert (len(data.train), len(data.test)) == (7352, 2947)
    assert len(np.unique(data.train.client)) == 21 and np.array_equal(
        np.unique(data.test.client), np.arange(21, 30)
    )
    assert 0.93 < linear_accuracy(data) < 0.96


def test_har_windows_have_gravity_in_total_acceleration_and_little_motion_at_rest(real_data):
    need(real_data, "har-uci")
    data = Har(form="windows", validation=0).load(0)
    assert data.train.x.shape == (7352, 9, 128)
    motion = [data.train.x[data.train.y == label, :3].std(axis=2).mean() for label in range(6)]
    assert min(motion[:3]) > 5 * max(motion[3:])  # walking, and sitting, standing, laying
    assert data.train.x[data.train.y == 4, 6].mean() > 0.9  # standing: one g along the body


def test_heart_disease_has_the_label_skew_of_its_hospitals(real_data):
    need(real_data, "heart-disease")
    data = HeartDisease(validation=0).load(0)
    whole = [
        np.concatenate([getattr(part, name) for part in (data.train, data.test)])
        for name in ("client", "y")
    ]
    assert np.bincount(whole[0]).tolist() == [303, 294, 123, 200]
    assert [round(100 * whole[1][whole[0] == hospital].mean()) for hospital in range(4)] == [
        46,
        36,
        93,
        74,
    ]
    assert 0.75 < linear_accuracy(data) < 0.9


def test_shakespeare_is_read_whole(real_data):
    need(real_data, "shakespeare")
    data = Shakespeare(stride=80, validation=0).load(0)
    assert (
        data.classes == 76
        and data.input_shape == (80,)
        and len(np.unique(data.train.client)) == 1126
    )
    text = (
        "".join(data.label_names[i] for i in data.train.x[:2].reshape(-1))
        + data.label_names[data.train.y[1]]
    )
    assert data.label_names[data.train.y[0]] == text[80] and text.startswith(
        "So shaken as we are, so wan with care,\nFind we a time for frighted peace to pant,"
    )
