"""Image sets from their original files: MNIST, Fashion-MNIST (IDX archives) and CIFAR-10 (python
batches)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from fedsim.component import component
from fedsim.data.cifar import PARTS, TEST_BATCH, TRAINING_BATCHES, find_batch, read_batch
from fedsim.data.dataset import Dataset, Split
from fedsim.data.download import DownloadSource, extracted, verified
from fedsim.data.files import absent, check_md5, file_error, find, read_bytes, read_idx

IMAGES, LABELS = "images-idx3-ubyte", "labels-idx1-ubyte"


def per_channel(*values: float) -> np.ndarray:
    """One value per channel, broadcastable to an image [C, H, W]."""
    return np.array(values, dtype=np.float32).reshape(-1, 1, 1)


def check_labels(labels: np.ndarray, classes: int, path: Path) -> None:
    """Raise ConfigError unless every label is in 0..classes-1."""
    if labels.min() < 0 or labels.max() >= classes:
        raise file_error(
            path,
            f"holds labels from {labels.min()} to {labels.max()}, accepted are 0 to {classes - 1}",
        )


class _IdxImages(DownloadSource):
    """Loading four IDX archives; the subclasses say which. Files are found compressed or not."""

    _name: ClassVar[str]
    _mean: ClassVar[float]
    _std: ClassVar[float]
    _label_names: ClassVar[list[str]]

    def load(self, seed: int) -> Dataset:
        train, test = self.read()
        kept, validation = self.hold_out(train, seed)
        return self.dataset(kept, validation, test)

    def dataset(self, train: Split, validation: Split | None, test: Split) -> Dataset:
        """The data set of these parts, with the fixed mean and standard deviation of the pixels."""
        classes = len(self._label_names)
        mean, std = per_channel(self._mean), per_channel(self._std)
        return Dataset(
            self._name,
            "classification",
            classes,
            classes,
            train,
            validation,
            test,
            mean,
            std,
            1 / 255,
            label_names=self._label_names,
        )

    def read(self) -> tuple[Split, Split]:
        """The whole training and test part, images uint8 [n, 1, H, W]."""
        train, test = (self._read_part(part) for part in ("train", "t10k"))
        if train.x.shape[1:] != test.x.shape[1:]:
            path = self._path(f"t10k-{IMAGES}.gz")
            raise file_error(
                path,
                f"holds images of {test.x.shape[2:]} pixels and the training images have"
                f" {train.x.shape[2:]}",
            )
        return train, test

    def _read_part(self, part: str) -> Split:
        images, _ = self._read_file(f"{part}-{IMAGES}.gz", 3)
        labels, path = self._read_file(f"{part}-{LABELS}.gz", 1)
        if len(images) != len(labels):
            raise file_error(path, f"holds {len(labels)} labels for {len(images)} images")
        check_labels(labels, len(self._label_names), path)
        return Split(images[:, None], labels.astype(np.int64))

    def _read_file(self, name: str, dimensions: int) -> tuple[np.ndarray, Path]:
        path = self._path(name)
        content = read_bytes(path)
        array = read_idx(content, path, dimensions)  # first, since it says more than a checksum
        fault = check_md5(content, self.md5.get(name))
        if fault:
            raise file_error(path, f"{fault}: not the file of {self._name}")
        return array, path

    def _path(self, name: str) -> Path:
        root = self.root_folder()
        path = find(root, self._folders, [name, name.removesuffix(".gz")])
        if path is not None:
            return path
        if name not in self.md5:
            raise absent(
                root,
                name,
                self._folders,
                "; it is not downloaded, since data.md5 has no checksum of it",
            )
        return self.download(name, root / self._folders[0], verified(self.md5, name))[0]


def _idx_md5(
    train_images: str, train_labels: str, test_images: str, test_labels: str
) -> dict[str, str]:
    return {
        f"train-{IMAGES}.gz": train_images,
        f"train-{LABELS}.gz": train_labels,
        f"t10k-{IMAGES}.gz": test_images,
        f"t10k-{LABELS}.gz": test_labels,
    }


@component
class MNIST(_IdxImages):
    """MNIST (LeCun et al., 1998): 60,000 + 10,000 handwritten digits, 28 x 28, 10 classes."""

    url: list[str] = Field(
        default_factory=lambda: [
            "https://ossci-datasets.s3.amazonaws.com/mnist",
            "https://storage.googleapis.com/cvdf-datasets/mnist",
        ]
    )
    md5: dict[str, str] = Field(
        default_factory=lambda: _idx_md5(
            "6bbc9ace898e44ae57da46a324031adb",
            "a25bea736e30d166cdddb491f175f624",
            "2646ac647ad5339dbf082846283269ea",
            "27ae3e4e09519cfbb04c329615203637",
        )
    )

    _name = "mnist"
    _folders = ("mnist", "MNIST/raw", ".")
    _mean, _std = 0.1307, 0.3081
    _label_names = [str(digit) for digit in range(10)]


@component
class FashionMNIST(_IdxImages):
    """Fashion-MNIST (Xiao, Rasul and Vollgraf, 2017): 60,000 + 10,000 pieces of clothing, 28 x 28,
    10 classes."""

    url: list[str] = Field(
        default_factory=lambda: ["http://fashion-mnist.s3-website.eu-central-1.amazonaws.com"]
    )
    md5: dict[str, str] = Field(
        default_factory=lambda: _idx_md5(
            "f4a8712d7a061bf5bd6d2ca38dc4d50a",
            "9018921c3c673c538a1fc5bad174d6f9",
            "8181f5470baa50b63fa0f6fddb340f0a",
            "15d484375f8d13e6eb1aabb0c3f46965",
        )
    )

    _name = "fashion_mnist"
    _folders = ("fashion-mnist", "FashionMNIST/raw", ".")
    _mean, _std = 0.2860, 0.3530
    _label_names = [
        "T-shirt/top",
        "trouser",
        "pullover",
        "dress",
        "coat",
        "sandal",
        "shirt",
        "sneaker",
        "bag",
        "ankle boot",
    ]


@component
class CIFAR10(DownloadSource):
    """CIFAR-10 (Krizhevsky, 2009): 50,000 + 10,000 photographs, 3 x 32 x 32, 10 classes, from the
    official python batches.

    allow_partial: use the training batches that are there where not all five are; this is noted in
    the results. A batch may also lie in a folder `mosaic` as a lossless picture of tiles (see
    fedsim.data.cifar).
    """

    url: list[str] = Field(default_factory=lambda: ["https://www.cs.toronto.edu/~kriz"])
    md5: dict[str, str] = Field(
        default_factory=lambda: {
            "data_batch_1": "c99cafc152244af753f735de768cd75f",
            "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
            "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
            "data_batch_4": "634d18415352ddfa80567beed471001a",
            "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
            "test_batch": "40351d587109b95175f43aff81a1287e",
        }
    )
    allow_partial: bool = False

    _folders = ("cifar10", "cifar-10-batches-py", "cifar10/cifar-10-batches-py", ".")
    _archive = "cifar-10-python.tar.gz"
    _label_names = [
        "airplane",
        "automobile",
        "bird",
        "cat",
        "deer",
        "dog",
        "frog",
        "horse",
        "ship",
        "truck",
    ]

    def load(self, seed: int) -> Dataset:
        paths, notes = self._paths(), {}
        present = [name for name in TRAINING_BATCHES if name in paths]
        batches = [read_batch(paths[name], self.md5.get(name)) for name in present]
        train = Split(
            np.concatenate([images for images, _ in batches]),
            np.concatenate([labels for _, labels in batches]),
        )
        if len(present) < len(TRAINING_BATCHES):
            notes["partial"] = f"{len(train)} of 50000 training images ({', '.join(present)})"
        test = Split(*read_batch(paths[TEST_BATCH], self.md5.get(TEST_BATCH)))
        kept, validation = self.hold_out(train, seed)
        mean, std = per_channel(0.4914, 0.4822, 0.4465), per_channel(0.2470, 0.2435, 0.2616)
        return Dataset(
            "cifar10",
            "classification",
            10,
            10,
            kept,
            validation,
            test,
            mean,
            std,
            1 / 255,
            label_names=self._label_names,
            notes=notes,
        )

    def _paths(self) -> dict[str, Path]:
        """Where each batch is; downloads those that are missing."""
        root = self.root_folder()
        paths = self._present(root)
        missing = [name for name in PARTS if name not in paths]
        if not missing or (self.allow_partial and TEST_BATCH in paths and len(paths) > 1):
            return paths
        note = ""
        if TEST_BATCH in paths and len(paths) > 1:
            note = (
                f"; only {', '.join(sorted(paths))} of the six batches are there:"
                " data.allow_partial=true makes do with them"
            )
        unchecked = [name for name in missing if name not in self.md5]
        if unchecked:
            raise absent(
                root,
                unchecked[0],
                self._folders,
                f"; it is not downloaded, since data.md5 has no checksum of it{note}",
            )
        files = self.download(
            self._archive,
            root / self._folders[0],
            extracted(self.md5, missing),
            ", ".join(missing),
            note,
        )
        return paths | {file.name: file for file in files}

    def _present(self, root: Path) -> dict[str, Path]:
        found: dict[str, Any] = {name: find_batch(root, self._folders, name) for name in PARTS}
        return {name: path for name, path in found.items() if path is not None}
