"""Writers of tiny files in the formats of the data sets, independent of the readers under test, and
what every test of a reader asks."""

from __future__ import annotations

import gzip
import hashlib
import json
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fedsim.data import DataSource, Split
from fedsim.errors import ConfigError

BATCHES = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


def refusal(source: DataSource, key: str = "data.root", path: Path | None = None) -> str:
    """The one line that `load` refuses with."""
    with pytest.raises(ConfigError) as caught:
        source.load(0)
    message = str(caught.value)
    assert caught.value.key == key and "\n" not in message
    assert path is None or (caught.value.value == str(path) and path.name in message)
    return message


def standardised(data, split: Split) -> np.ndarray:
    return ((split.x * data.scale - data.mean) / data.std).astype(np.float64)


class Idx:
    """Four IDX archives in `folder`: 12 training and 6 test images of 4 x 4 pixels. arrays, md5: by
    file name, md5 uncompressed."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self.folder = folder
        self.arrays: dict[str, np.ndarray] = {}
        self.md5: dict[str, str] = {}
        pixels = np.random.default_rng(7)
        for part, count in (("train", 12), ("t10k", 6)):
            self.put(
                f"{part}-images-idx3-ubyte.gz", pixels.integers(0, 256, (count, 4, 4), np.uint8)
            )
            self.put(f"{part}-labels-idx1-ubyte.gz", np.arange(count, dtype=np.uint8) % 10)

    def put(self, name: str, array: np.ndarray, **header: int) -> None:
        """Write `array`; header: kind, dimensions, count in place of the right ones."""
        kind, dimensions = header.get("kind", 8), header.get("dimensions", array.ndim)
        sizes = (header.get("count", len(array)), *array.shape[1:])
        content = (
            bytes((0, 0, kind, dimensions))
            + struct.pack(f">{len(sizes)}I", *sizes)
            + array.tobytes()
        )
        self.arrays[name], self.md5[name] = array, md5(content)
        (self.folder / name).write_bytes(gzip.compress(content))


def python2_batch(images: np.ndarray, labels: list[int], kind: bytes = b"u1") -> bytes:
    """A CIFAR-10 batch as the official files have it: a pickle of protocol 2 written by Python 2.
    images: uint8 [n, 3, 32, 32]."""
    data = images.tobytes()
    items = b"".join(b"K" + bytes([label]) for label in labels)
    shape = (
        b"M" + struct.pack("<H", len(images)) + b"M" + struct.pack("<H", images[0].size) + b"\x86"
    )
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01" + shape
    )
    array += (
        b"cnumpy\ndtype\nU\x02"
        + kind
        + b"K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T"
    )
    array += struct.pack("<I", len(data)) + data + b"tb"
    return b"\x80\x02}(U\x06labels](" + items + b"eU\x04data" + array + b"u."


def cifar_batches() -> dict[str, tuple[np.ndarray, list[int]]]:
    """Six batches of 4 images each: name -> images uint8 [4, 3, 32, 32], labels."""
    pixels = np.random.default_rng(8)
    return {
        name: (pixels.integers(0, 256, (4, 3, 32, 32), np.uint8), [i, 9, 0, 5])
        for i, name in enumerate(BATCHES)
    }


def write_mosaic(folder: Path, name: str, images: np.ndarray, labels: list[int]) -> None:
    """A lossless WebP of 2 x 2 tiles and its labels."""
    folder.mkdir(parents=True, exist_ok=True)
    picture = np.zeros((64, 64, 3), np.uint8)
    for i, image in enumerate(images):
        row, column = divmod(i, 2)
        picture[32 * row : 32 * row + 32, 32 * column : 32 * column + 32] = image.transpose(1, 2, 0)
    Image.fromarray(picture).save(folder / f"{name}.webp", lossless=True)
    (folder / f"{name}.json.gz").write_bytes(gzip.compress(json.dumps({"labels": labels}).encode()))


# Settings of tiny image sets: nothing is downloaded, nothing checked
OFFLINE = {"url": [], "md5": {}}
