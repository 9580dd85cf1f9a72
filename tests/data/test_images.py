"""Image sets: IDX archives, CIFAR-10 batches and mosaics; every damaged file is refused by name."""

from __future__ import annotations

import gzip
import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest

from fedsim.data import CIFAR10, MNIST, MnistWriters
from tests.data.formats import (
    BATCHES,
    OFFLINE,
    Idx,
    cifar_batches,
    md5,
    python2_batch,
    refusal,
    write_mosaic,
)

TRAIN_IMAGES, TRAIN_LABELS = "train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"


@pytest.fixture
def idx(tmp_path: Path) -> Idx:
    return Idx(tmp_path / "mnist")


@pytest.mark.parametrize("where", ["", "mnist"])
@pytest.mark.parametrize("by", ["setting", "environment"])
def test_idx_files_are_found_by_root_or_environment_in_their_folder_or_above(
    idx, tmp_path, monkeypatch, where, by
):
    monkeypatch.setenv(
        "FEDSIM_DATA", str(tmp_path / where if by == "environment" else tmp_path / "nowhere")
    )
    data = MNIST(
        root=str(tmp_path / where) if by == "setting" else None, url=[], md5=idx.md5, validation=0
    ).load(0)
    assert (
        data.train.x.dtype == np.uint8 and data.input_shape == (1, 4, 4) and data.scale == 1 / 255
    )
    assert np.array_equal(
        data.train.x[:, 0], idx.arrays[TRAIN_IMAGES]
    ) and data.train.y.tolist() == [*range(10), 0, 1]
    assert (
        np.array_equal(data.test.x[:, 0], idx.arrays["t10k-images-idx3-ubyte.gz"])
        and data.train.x.flags.writeable
    )


def test_uncompressed_idx_files_are_read(idx):
    for name in idx.arrays:
        content = gzip.decompress((idx.folder / name).read_bytes())
        (idx.folder / name).unlink()
        (idx.folder / name.removesuffix(".gz")).write_bytes(content)
    assert len(MNIST(root=str(idx.folder), url=[], md5=idx.md5).load(0).test) == 6


def cut_gzip(idx: Idx) -> None:
    path = idx.folder / TRAIN_IMAGES
    path.write_bytes(path.read_bytes()[:-9])


def cut_content(idx: Idx) -> None:
    path = idx.folder / TRAIN_IMAGES
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:-9]))


def scramble(idx: Idx) -> None:
    path = idx.folder / TRAIN_IMAGES
    content = bytearray(path.read_bytes())
    content[40:60] = bytes(20)
    path.write_bytes(content)


FAULTS = {
    "truncated archive": (cut_gzip, "truncated or damaged"),
    "damaged archive": (scramble, "truncated or damaged"),
    "truncated content": (cut_content, "183 values and its header promises 12 x 4 x 4"),
    "empty file": (lambda idx: (idx.folder / TRAIN_IMAGES).write_bytes(b""), "starts with nothing"),
    "header alone": (
        lambda idx: (idx.folder / TRAIN_IMAGES).write_bytes(bytes((0, 0, 8, 3, 0, 0))),
        "inside its header",
    ),
    "wrong magic number": (
        lambda idx: idx.put(TRAIN_IMAGES, idx.arrays[TRAIN_IMAGES], kind=9),
        "00000903",
    ),
    "wrong dimensions": (lambda idx: idx.put(TRAIN_IMAGES, idx.arrays[TRAIN_LABELS]), "00000801"),
    "wrong count": (
        lambda idx: idx.put(TRAIN_IMAGES, idx.arrays[TRAIN_IMAGES], count=13),
        "13 x 4 x 4",
    ),
    "huge count": (
        lambda idx: idx.put(TRAIN_IMAGES, idx.arrays[TRAIN_IMAGES], count=2**32 - 1),
        "4294967295 x 4 x 4",
    ),
    "no images": (lambda idx: idx.put(TRAIN_IMAGES, idx.arrays[TRAIN_IMAGES][:0]), "0 x 4 x 4"),
    "fewer labels": (
        lambda idx: idx.put(TRAIN_LABELS, idx.arrays[TRAIN_LABELS][:-1]),
        "11 labels for 12 images",
    ),
    "label too large": (
        lambda idx: idx.put(TRAIN_LABELS, idx.arrays[TRAIN_LABELS] + 1),
        "labels from 1 to 10",
    ),
    "other size": (lambda idx: idx.put(TRAIN_IMAGES, np.zeros((12, 5, 5), np.uint8)), "(4, 4)"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_idx_file_is_refused_by_name(idx, fault):
    damage, said = FAULTS[fault]
    damage(idx)
    named = {
        "fewer labels": TRAIN_LABELS,
        "label too large": TRAIN_LABELS,
        "other size": "t10k-images-idx3-ubyte.gz",
    }.get(fault, TRAIN_IMAGES)
    assert said in refusal(MNIST(root=str(idx.folder), **OFFLINE), path=idx.folder / named)


def test_a_file_of_other_content_is_refused_by_its_checksum(idx):
    changed = idx.md5 | {TRAIN_LABELS: md5(b"something else")}
    assert "not the file of mnist" in refusal(
        MNIST(root=str(idx.folder), url=[], md5=changed), path=idx.folder / TRAIN_LABELS
    )
    assert "not the file of mnist" in refusal(MNIST(root=str(idx.folder)))


def test_a_broken_file_is_not_replaced_by_a_download(idx):
    cut_gzip(idx)
    before = (idx.folder / TRAIN_IMAGES).read_bytes()
    refusal(
        MNIST(root=str(idx.folder), url=["http://127.0.0.1:9"], md5=idx.md5),
        path=idx.folder / TRAIN_IMAGES,
    )
    assert (idx.folder / TRAIN_IMAGES).read_bytes() == before


def test_writers_are_numbered_and_counted(idx):
    np.savez(
        idx.folder / "mnist_writers.npz",
        train=np.repeat([50, 7, 9], 4),
        test=np.array([50, 60, 60, 8, 8, 9]),
    )
    data = MnistWriters(root=str(idx.folder), validation=0, **OFFLINE).load(0)
    assert data.train.client.tolist() == [2] * 4 + [0] * 4 + [
        1
    ] * 4 and data.test.client.tolist() == [2, 4, 4, 3, 3, 1]
    np.savez(idx.folder / "mnist_writers.npz", train=np.arange(11), test=np.arange(6))
    assert "(12,)" in refusal(
        MnistWriters(root=str(idx.folder), **OFFLINE), path=idx.folder / "mnist_writers.npz"
    )
    (idx.folder / "mnist_writers.npz").unlink()
    assert "mnist_writers.npz" in refusal(MnistWriters(root=str(idx.folder), **OFFLINE))


def python3_batch(images: np.ndarray, labels: list[int]) -> bytes:
    return pickle.dumps({"data": images.reshape(len(images), -1), "labels": labels}, protocol=4)


@pytest.fixture
def cifar(tmp_path: Path) -> Path:
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for name, batch in cifar_batches().items():
        (folder / name).write_bytes(python2_batch(*batch))
    return folder


def test_batches_are_read_in_order_whoever_pickled_them_or_as_mosaics(cifar):
    expected = cifar_batches()
    (cifar / "data_batch_2").write_bytes(python3_batch(*expected["data_batch_2"]))
    (cifar / "data_batch_3").unlink()
    write_mosaic(cifar / "mosaic", "data_batch_3", *expected["data_batch_3"])
    data = CIFAR10(root=str(cifar.parent), validation=0, **OFFLINE).load(0)
    assert np.array_equal(data.train.x, np.concatenate([expected[name][0] for name in BATCHES[:5]]))
    assert data.train.y.tolist() == sum((expected[name][1] for name in BATCHES[:5]), [])
    assert (
        np.array_equal(data.test.x, expected["test_batch"][0])
        and data.test.x.dtype == np.uint8
        and not data.notes
    )


class Trap:
    """Unpickled the usual way, this makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_nothing_stored_in_a_batch_is_run(cifar, tmp_path, protocol):
    (cifar / "data_batch_1").write_bytes(
        pickle.dumps({"data": Trap(tmp_path / "sprung"), "labels": []}, protocol=protocol)
    )
    message = refusal(CIFAR10(root=str(cifar), **OFFLINE), path=cifar / "data_batch_1")
    assert "mkdir" in message and not (tmp_path / "sprung").exists()


IMAGE = np.zeros((2, 3, 32, 32), np.uint8)
BATCH_FAULTS = {
    "empty": b"",
    "no pickle": b"no pickle at all",
    "truncated": python2_batch(IMAGE, [0, 1])[:-500],
    "bytes missing in the array": python2_batch(IMAGE, [0, 1]).replace(
        struct.pack("<I", 6144), struct.pack("<I", 6143), 1
    ),
    "fewer values than its shape": python2_batch(IMAGE, [0, 1]).replace(
        b"M\x02\x00", b"M\x03\x00", 1
    ),
    "not uint8": python2_batch(IMAGE, [0, 1], kind=b"i1"),
    "column order": pickle.dumps(
        {"data": np.asfortranarray(IMAGE.reshape(2, -1)), "labels": [0, 1]}, protocol=4
    ),
    "array of objects": pickle.dumps({"data": np.array([[{}]]), "labels": [0]}),
    "no dictionary": pickle.dumps([1, 2]),
    "no labels": pickle.dumps({"data": IMAGE.reshape(2, -1)}),
    "labels are no list": pickle.dumps({"data": IMAGE.reshape(2, -1), "labels": {0: 1, 1: 2}}),
    "one label": python2_batch(IMAGE, [0]),
    "label too large": python2_batch(IMAGE, [0, 10]),
    "labels of text": pickle.dumps({"data": IMAGE.reshape(2, -1), "labels": ["a", "b"]}),
    "images of other sizes": pickle.dumps({"data": IMAGE.reshape(4, -1), "labels": [0, 1, 2, 3]}),
    "data is no array": pickle.dumps({"data": [1, 2], "labels": [0, 1]}),
}


@pytest.mark.parametrize("fault", BATCH_FAULTS)
def test_a_faulty_batch_is_refused_by_name(cifar, fault):
    (cifar / "data_batch_1").write_bytes(BATCH_FAULTS[fault])
    refusal(CIFAR10(root=str(cifar), **OFFLINE), path=cifar / "data_batch_1")


def test_a_batch_of_other_content_is_refused_by_its_checksum(cifar):
    assert "not the official batch" in refusal(
        CIFAR10(root=str(cifar), url=[]), path=cifar / "data_batch_1"
    )


def test_a_faulty_mosaic_is_refused_by_name(cifar):
    (cifar / "data_batch_1").unlink()
    folder, (images, labels) = cifar / "mosaic", cifar_batches()["data_batch_1"]
    picture, names = folder / "data_batch_1.webp", folder / "data_batch_1.json.gz"
    source = CIFAR10(root=str(cifar), **OFFLINE)
    write_mosaic(folder, "data_batch_1", images, labels[:-1])
    assert "4 images and 3 labels" in refusal(source, path=picture)
    names.write_bytes(gzip.compress(b"[1, 2"))
    assert "JSON" in refusal(source, path=names)
    names.write_bytes(gzip.compress(b"[1, 2]"))
    assert "labels" in refusal(source, path=names)
    names.unlink()
    assert "does not exist" in refusal(source, path=names)
    picture.write_bytes(picture.read_bytes()[:-200])
    assert "picture" in refusal(source, path=picture)
