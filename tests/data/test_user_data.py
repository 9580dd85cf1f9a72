"""A user's own .npz: what is made of it, and every fault refused in one line that names the
file."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from fedsim.data import Npz
from fedsim.errors import ConfigError
from tests.data.formats import refusal, standardised

X = np.random.default_rng(1).normal(5, 3, (20, 4))
Y = np.arange(20) % 3


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "mine.npz"


def test_features_become_float32_and_are_standardised_by_the_training_part(path):
    np.savez(path, x=X, y=Y)
    data = Npz(file=str(path)).load(0)
    assert (data.name, data.task, data.classes, data.outputs, data.input_shape) == (
        "mine",
        "classification",
        3,
        3,
        (4,),
    )
    assert [len(part) for part in (data.train, data.validation, data.test)] == [14, 2, 4]
    z = standardised(data, data.train)
    assert (
        data.train.x.dtype == np.float32
        and np.allclose(z.mean(axis=0), 0, atol=1e-5)
        and np.allclose(z.std(axis=0), 1, atol=1e-5)
    )
    assert data.train.client is None and np.array_equal(
        Npz(file=str(path)).load(1).test.x, data.test.x
    )


def test_given_test_arrays_are_used_whole(path):
    np.savez(path, x=X, y=Y, x_test=X[:5], y_test=np.array([0, 1, 2, 3, 3]))
    data = Npz(file=str(path), validation=0).load(0)
    assert (
        np.array_equal(data.train.x, X.astype(np.float32))
        and np.array_equal(data.test.x, X[:5].astype(np.float32))
        and data.classes == 4
    )


def test_images_stay_uint8_and_grey_ones_get_a_channel(path):
    pixels = np.random.default_rng(0).integers(0, 256, (20, 3, 6, 5), np.uint8)
    np.savez(path, x=pixels, y=Y)
    data = Npz(file=str(path)).load(0)
    assert data.train.x.dtype == np.uint8 and data.scale == 1 / 255 and data.mean.shape == (3, 1, 1)
    assert np.allclose(standardised(data, data.train).std(axis=(0, 2, 3)), 1, atol=1e-5)
    np.savez(path, x=pixels[:, 0], y=Y)
    assert Npz(file=str(path)).load(0).input_shape == (1, 6, 5)


@pytest.mark.parametrize("y, outputs", [(X[:, 0], 1), (X[:, :2], 2), (X[:, :1], 1)])
def test_real_targets_make_a_regression(path, y, outputs):
    np.savez(path, x=X, y=y, x_test=X, y_test=y)
    data = Npz(file=str(path), validation=0).load(0)
    assert (data.task, data.classes, data.outputs) == ("regression", 0, outputs)
    assert data.train.y.dtype == np.float32 and np.allclose(data.train.y, y.reshape(20, outputs))


def test_the_task_and_the_number_of_classes_can_be_given(path):
    np.savez(path, x=X, y=Y)
    assert Npz(file=str(path), task="regression").load(0).train.y.shape == (14, 1)
    assert Npz(file=str(path), classes=7).load(0).outputs == 7
    np.savez(path, x=X, y=Y[:, None].astype(float))
    data = Npz(file=str(path), task="classification", validation=0).load(0)
    assert data.train.y.dtype == np.int64 and data.classes == 3


@pytest.mark.parametrize(
    "ids", [np.arange(20) // 4 * 10, np.array([f"clinic {i // 4}" for i in range(20)])]
)
def test_clients_of_numbers_or_text_follow_their_samples(path, ids):
    np.savez(path, x=np.arange(20.0)[:, None], y=Y, client=ids)
    data = Npz(file=str(path)).load(0)
    for part in (data.train, data.validation, data.test):
        assert np.array_equal(part.client, part.x[:, 0] // 4)


def test_clients_of_the_test_arrays_have_the_numbers_of_the_training_arrays(path):
    np.savez(
        path,
        x=X,
        y=Y,
        client=np.repeat([8, 3], 10),
        x_test=X[:3],
        y_test=Y[:3],
        client_test=np.array([8, 1, 3]),
    )
    data = Npz(file=str(path), validation=0).load(0)
    assert data.train.client.tolist() == [1] * 10 + [0] * 10 and data.test.client.tolist() == [
        1,
        2,
        0,
    ]


def spoiled(value: float) -> np.ndarray:
    x = X.copy()
    x[7, 2] = value
    return x


FAULTS = {
    "NaN": ({"x": spoiled(np.nan)}, "nan at [7, 2]"),
    "infinite": ({"x": spoiled(-np.inf)}, "-inf at [7, 2]"),
    "too large for float32": ({"x": spoiled(1e300)}, "1e+300 at [7, 2]"),
    "NaN target": ({"y": spoiled(np.nan)[:, 2]}, "in y that are NaN"),
    "lengths differ": ({"y": Y[:-1]}, "shape (19,)"),
    "one number": ({"x": X[:, 0]}, "shape (20,)"),
    "no samples": ({"x": X[:0], "y": Y[:0]}, "shape (0, 4)"),
    "no features": ({"x": X[:, :0]}, "shape (20, 0)"),
    "complex": ({"x": X + 1j}, "complex128"),
    "text": ({"x": X.astype(str)}, "<U"),
    "text labels": ({"y": np.array(["cat"] * 20)}, "y of type <U3"),
    "negative label": ({"y": Y - 1}, "from -1 to 1"),
    "labels that are no classes": ({"y": Y * 100}, "from 0 to 200; accepted are 0 to 19"),
    "one-hot labels": ({"y": np.eye(3, dtype=int)[Y]}, "y of shape (20, 3)"),
    "targets of three axes": ({"y": X[:, :, None]}, "y of shape (20, 4, 1)"),
    "scalar label": ({"y": np.array(3)}, "y of shape ()"),
    "test samples alone": ({"x_test": X}, "no array y_test"),
    "test labels alone": ({"y_test": Y}, "no array x_test"),
    "other features in the test part": ({"x_test": X[:, :3], "y_test": Y}, "other shapes"),
    "other type in the test part": ({"x_test": X.astype(np.uint8), "y_test": Y}, "uint8 in both"),
    "NaN in the test part": ({"x_test": spoiled(np.nan), "y_test": Y}, "in x_test"),
    "real client ids": ({"client": X[:, 0]}, "client of type float64"),
    "negative client ids": ({"client": Y - 1}, "whole numbers >= 0"),
    "client ids of another length": ({"client": Y[:-1]}, "shape (19,)"),
    "client ids of two kinds": (
        {"client": Y, "x_test": X, "y_test": Y, "client_test": Y.astype(str)},
        "text in one",
    ),
    "objects": ({"x": np.array([[{}]] * 20, dtype=object)}, "Python objects"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faulty_arrays_are_refused(path, fault):
    changed, said = FAULTS[fault]
    np.savez(path, **({"x": X, "y": Y} | changed))
    assert said in refusal(Npz(file=str(path)), key="data.file", path=path)


def test_labels_that_are_not_whole_are_refused_where_classes_are_asked_for(path):
    np.savez(path, x=X, y=Y + 0.5)
    assert "0.5" in refusal(Npz(file=str(path), task="classification"), key="data.file", path=path)
    np.savez(path, x=X, y=Y)
    assert "from 0 to 2; accepted are 0 to 1" in refusal(
        Npz(file=str(path), classes=2), key="data.file", path=path
    )


def test_files_that_are_no_npz_are_refused(path):
    def said(content: bytes) -> str:
        path.write_bytes(content)
        return refusal(Npz(file=str(path)), key="data.file", path=path)

    np.savez_compressed(path, x=X, y=Y)
    whole = path.read_bytes()
    assert "truncated" in said(whole[: len(whole) // 2])
    assert "truncated" in said(whole[:200] + bytes(200) + whole[400:])
    assert "not an .npz" in said(b"")
    np.save(path.with_suffix(".npy"), X)
    assert "not an .npz" in said(path.with_suffix(".npy").read_bytes())
    np.savez(path, features=X)
    assert "no array x nor y; it holds features" in refusal(
        Npz(file=str(path)), key="data.file", path=path
    )
    path.unlink()
    assert "does not exist" in refusal(Npz(file=str(path)), key="data.file", path=path)
    path.mkdir()
    refusal(Npz(file=str(path)), key="data.file", path=path)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"file": "a.npz", "test": 0},
        {"file": "a.npz", "validation": 1},
        {"file": "a.npz", "limit": 0},
    ],
)
def test_faulty_settings_are_refused_by_name(settings):
    name = list(settings)[-1] if settings else "file"
    with pytest.raises(ConfigError, match=re.escape(f"Npz.{name}=")):
        Npz(**settings)
