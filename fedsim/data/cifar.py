"""Reading CIFAR-10 batches without running anything that is stored in them.

A batch is the official pickle ({"data": uint8 [n, 3072], "labels": list of n}, written by Python
2), or a lossless picture NAME.webp in a folder `mosaic` (tiles of 32 x 32 in the official order,
row by row) with its labels in NAME.json.gz ({"labels": [n]}).
"""

from __future__ import annotations

import io
import pickle
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from fedsim.data.files import check_md5, file_error, find, read_bytes, read_json
from fedsim.errors import reason

TRAINING_BATCHES = tuple(f"data_batch_{i}" for i in range(1, 6))
TEST_BATCH = "test_batch"
PARTS = (*TRAINING_BATCHES, TEST_BATCH)
SIDE, CLASSES = 32, 10


class _StoredArray:
    """Stands for a pickled NumPy array: takes what would rebuild it, and rebuilds it only if it is
    plain bytes of uint8."""

    content: np.ndarray

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, state: tuple) -> None:
        _, shape, kind, column_order, raw = state
        if (
            not isinstance(kind, _StoredType)
            or kind.name != "u1"
            or column_order
            or not isinstance(raw, bytes)
        ):
            raise pickle.UnpicklingError("its array is not of type uint8")
        self.content = np.frombuffer(raw, np.uint8).reshape(shape)


class _StoredType:
    """Stands for a pickled NumPy dtype, of which only the name is kept."""

    def __init__(self, name: str | bytes, *_: Any) -> None:
        self.name = name.decode("latin1") if isinstance(name, bytes) else name

    def __setstate__(self, state: tuple) -> None:
        pass


# The one in Python: that in C takes the memory that a few bytes of a file can ask for
class _PlainUnpickler(pickle._Unpickler):
    """Unpickles containers, numbers, text and arrays of uint8. Whatever else a file names is
    refused, not imported."""

    _STANDS_FOR = {
        ("numpy.core.multiarray", "_reconstruct"): _StoredArray,
        ("numpy._core.multiarray", "_reconstruct"): _StoredArray,
        ("numpy", "ndarray"): _StoredArray,
        ("numpy", "dtype"): _StoredType,
    }

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self._STANDS_FOR[module, name]
        except KeyError:
            raise pickle.UnpicklingError(
                f"it asks to run {module}.{name}, which a data file has no need of"
            ) from None


def find_batch(root: Path, folders: Iterable[str], name: str) -> Path | None:
    """The path of a batch, as a pickle or else as a mosaic, or None."""
    folders = list(folders)
    return find(root, folders, [name]) or find(
        root, [f"{folder}/mosaic" for folder in folders] + folders, [f"{name}.webp"]
    )


def read_batch(path: Path, md5: str | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [n, 3, 32, 32] and labels int64 [n] of a batch; md5: of the pickle, checked
    where given. Raises ConfigError."""
    images, labels = _read_mosaic(path) if path.suffix == ".webp" else _read_pickle(path, md5)
    labels = labels if isinstance(labels, list) else []
    if not len(images) or len(images) != len(labels):
        raise file_error(path, f"holds {len(images)} images and {len(labels)} labels")
    if not all(type(label) is int and 0 <= label < CLASSES for label in labels):
        raise file_error(path, f"holds labels that are not whole numbers from 0 to {CLASSES - 1}")
    return images, np.array(labels, dtype=np.int64)


def _read_pickle(path: Path, md5: str | None) -> tuple[np.ndarray, Any]:
    content = read_bytes(path)
    try:
        batch = _PlainUnpickler(io.BytesIO(content), encoding="bytes").load()
        data, labels = (
            batch[key.encode()] if key.encode() in batch else batch[key]
            for key in ("data", "labels")
        )
        pixels = data.content
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise file_error(
            path, f"is not a readable CIFAR-10 batch: {type(error).__name__}: {reason(error)}"
        ) from None
    if pixels.ndim != 2 or pixels.shape[1] != 3 * SIDE * SIDE:
        raise file_error(
            path, f"holds an array of shape {pixels.shape}, expected (n, {3 * SIDE * SIDE})"
        )
    fault = check_md5(content, md5)
    if fault:
        raise file_error(path, f"{fault}: not the official batch")
    # A view of bytes could not be written to
    return pixels.reshape(-1, 3, SIDE, SIDE).copy(), labels


def _read_mosaic(path: Path) -> tuple[np.ndarray, Any]:
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            # No other: some of Pillow's formats start programs
            picture = Image.open(path, formats=["WEBP"])
        with picture:
            pixels = np.asarray(picture.convert("RGB"))
    except Exception as error:  # Pillow's plugins raise many kinds
        raise file_error(
            path, f"is not a readable picture, it may be truncated or damaged: {reason(error)}"
        ) from None
    rows, columns = pixels.shape[0] // SIDE, pixels.shape[1] // SIDE
    if pixels.shape[:2] != (rows * SIDE, columns * SIDE):
        raise file_error(
            path, f"has {pixels.shape[1]} x {pixels.shape[0]} pixels, expected multiples of {SIDE}"
        )
    images = (
        pixels.reshape(rows, SIDE, columns, SIDE, 3)
        .transpose(0, 2, 4, 1, 3)
        .reshape(-1, 3, SIDE, SIDE)
    )
    labels_path = path.with_name(f"{path.stem}.json.gz")
    described = read_json(labels_path)
    if not isinstance(described, dict) or not isinstance(described.get("labels"), list):
        raise file_error(labels_path, 'does not hold {"labels": [...]}')
    return np.ascontiguousarray(images), described["labels"]
