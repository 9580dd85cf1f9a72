"""Data sets in svmlight form."""

import bz2

import numpy as np
import pytest

from fedsim.data import SvmLight
from fedsim.errors import ConfigError
from tests.paths import DATA

TRAIN = "-1 1:0.5 3:2\n+1 2:1.5 # a comment\n-1 1:1 2:1 3:1\n+1 3:-4\n"
TEST = "+1 1:7\n-1 2:0.25\n"


def source(folder, train=TRAIN, test=TEST, name="small", **settings):
    (folder / name).write_text(train)
    if test is not None:
        (folder / f"{name}.t").write_text(test)
    return SvmLight(name=name, root=str(folder), validation=0.0, **settings)


def test_by_hand(tmp_path):
    data = source(tmp_path).load(0)
    np.testing.assert_array_equal(
        data.train.x, np.array([[0.5, 0, 2], [0, 1.5, 0], [1, 1, 1], [0, 0, -4]], np.float32)
    )
    np.testing.assert_array_equal(data.train.y, [0, 1, 0, 1])
    np.testing.assert_array_equal(data.test.x, np.array([[7, 0, 0], [0, 0.25, 0]], np.float32))
    np.testing.assert_array_equal(data.test.y, [1, 0])
    assert data.input_shape == (3,) and data.classes == 2 and data.label_names == ["-1", "1"]
    np.testing.assert_array_equal([data.mean, data.std], [[0] * 3, [1] * 3])


def test_standardised(tmp_path):
    data = source(tmp_path, standardise=True).load(0)
    seen = (data.train.x - data.mean) / data.std
    np.testing.assert_allclose(seen.mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(seen.std(axis=0), 1, atol=1e-6)


def test_compressed_and_without_a_test_file(tmp_path):
    (tmp_path / "small.bz2").write_bytes(bz2.compress(TRAIN.encode() * 10))
    one, other = (
        SvmLight(name="small", root=str(tmp_path), features=5, test=0.25).load(seed)
        for seed in (0, 1)
    )
    assert (
        len(one.test) == 10
        and len(one.train) + len(one.validation) == 30
        and one.input_shape == (5,)
    )
    np.testing.assert_array_equal(one.test.x, other.test.x)


@pytest.mark.parametrize(
    ("train", "test", "settings", "message"),
    [
        ("", None, {}, "small"),
        ("1 x\n", None, {}, "not in svmlight form"),
        ("1 1:2 1:3\n", None, {}, "not in svmlight form"),
        ("1 1:2\n1 1:3\n", None, {}, "holds 1 different labels, expected at least 2"),
        (TRAIN, "3 1:1\n", {}, "holds the label 3, which small does not have"),
        (TRAIN, TEST, {"features": 2}, "not in svmlight form"),
        ("1 1:nan\n-1 1:1\n", None, {}, "NaN or infinite"),
        ("1 999999999:1\n-1 1:1\n", None, {}, "numbers, more than"),
    ],
)
def test_files_that_cannot_be_used(tmp_path, train, test, settings, message):
    with pytest.raises(ConfigError, match=message):
        source(tmp_path, train, test, **settings).load(0)


def test_refused_names(tmp_path):
    for name in ("../small", "a/b", ""):
        with pytest.raises(ConfigError, match="name"):
            SvmLight(name=name, root=str(tmp_path))
    with pytest.raises(ConfigError, match="the folder that holds small"):
        SvmLight(name="small", root=str(tmp_path)).load(0)


@pytest.mark.parametrize(
    ("name", "shape", "positive"), [("ijcnn1", (49_990, 22), 4_853), ("a9a", (32_561, 123), 7_841)]
)
def test_the_real_files(name, shape, positive):
    root = DATA
    if not (root / "libsvm" / f"{name}.bz2").exists():
        pytest.skip(f"{name} is not here")
    data = SvmLight(name=name, root=str(root), features=shape[1], validation=0.0).load(0)
    assert data.train.x.shape == shape and data.train.y.sum() == positive
