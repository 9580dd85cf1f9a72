"""Data sets in svmlight form, as LIBSVM's collection has them: a label and index:value pairs on
each line."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field

from fedsim.component import PositiveInt, component
from fedsim.data.dataset import Dataset, Share, Split, draw_test, moments
from fedsim.data.files import FileSource, absent, file_error, find, read_bytes
from fedsim.errors import reason
from fedsim.reading import TABLE

Name = Annotated[str, Field(pattern=r"^[\w.-]+$")]
MOST = 1 << 28  # numbers held at most: 1 GB


@component
class SvmLight(FileSource):
    """A classification task from NAME and NAME.t (or with .bz2, .gz, .xz behind), features as
    float32 [n, features].

    name: of the files; features: d (null: the greatest index in the training file); test: share of
    the samples in the test part where there is no NAME.t; standardise: each feature to mean 0 and
    standard deviation 1 over the training part.
    """

    name: Name = "ijcnn1"
    features: PositiveInt | None = None
    test: Share = 0.2
    standardise: bool = False

    _folders = ("libsvm", ".")

    def load(self, seed: int) -> Dataset:
        root = self.root_folder()
        path = self._find(root, self.name)
        if path is None:
            raise absent(root, self.name, self._folders)
        x, labels = self._read(path, self.features)
        classes, y = np.unique(labels, return_inverse=True)
        if len(classes) < 2:
            raise file_error(path, f"holds {len(classes)} different labels, expected at least 2")
        other = self._find(root, f"{self.name}.t")
        if other is None:
            train_at, test_at = draw_test(len(x), self.test)
            train, test = (Split(x[at], y[at].astype(np.int64)) for at in (train_at, test_at))
        else:
            test_x, test_labels = self._read(other, x.shape[1])
            known = np.isin(test_labels, classes)
            if not known.all():
                raise file_error(
                    other,
                    f"holds the label {test_labels[~known][0]:g}, which {path.name} does not have",
                )
            train, test = (
                Split(x, y.astype(np.int64)),
                Split(test_x, np.searchsorted(classes, test_labels).astype(np.int64)),
            )
        kept, validation = self.hold_out(train, seed)
        ones = np.ones(x.shape[1], np.float32)
        mean, std = moments(kept.x) if self.standardise else (0 * ones, ones)
        names = [f"{label:g}" for label in classes]
        return Dataset(
            self.name,
            "classification",
            len(classes),
            len(classes),
            kept,
            validation,
            test,
            mean,
            std,
            label_names=names,
        )

    def _find(self, root: Path, name: str) -> Path | None:
        return find(
            root, self._folders, [name, *(f"{name}.{ending}" for ending in ("bz2", "gz", "xz"))]
        )

    @staticmethod
    def _read(path: Path, features: int | None) -> tuple[np.ndarray, np.ndarray]:
        """Samples float32 [n, d] and labels float64 [n]."""
        from sklearn.datasets import load_svmlight_file

        try:
            sparse, labels = load_svmlight_file(
                io.BytesIO(read_bytes(path, share=TABLE)), n_features=features, dtype=np.float32
            )
        except (ValueError, OverflowError, MemoryError) as error:
            accepted = (
                "index:value pairs, the indices from 1 up to data.features and ascending in each"
                " line"
            )
            raise file_error(
                path,
                f"is not in svmlight form ({reason(error)}); accepted are lines of a label and"
                f" {accepted}",
            ) from None
        if not len(labels) or not sparse.shape[1]:
            raise file_error(path, "holds no samples")
        if sparse.shape[0] * sparse.shape[1] > MOST:
            size = f"{sparse.shape[0]} x {sparse.shape[1]}"
            raise file_error(
                path,
                f"holds {size} numbers, more than the {MOST} that are held in memory; set"
                " data.features if it is less",
            )
        if not np.isfinite(sparse.data).all() or not np.isfinite(labels).all():
            raise file_error(path, "holds values that are NaN or infinite")
        return sparse.toarray(), labels
