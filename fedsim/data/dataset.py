"""A data set as arrays, and the base of the components that load one.

Where a source has no official test part, the test samples are drawn once and for all: they are the
same for every seed, so that nothing tuned on the validation part of one seed has seen the test
samples of another. The validation part is drawn with the run's seed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from fedsim.component import Fraction, PositiveInt, component
from fedsim.errors import require
from fedsim.rng import generator

# Open interval: a part that is neither empty nor everything
Share = Annotated[float, Field(gt=0, lt=1)]
# Of a feature: float32 reaches 3.4e38, and differences of features must be finite too
LARGEST = 1e37
BLOCK = 1 << 17  # numbers that are worked on at once
_VALIDATION, _TEST = 0, 1  # keys below the purpose "split": which part is drawn


@dataclass(frozen=True, eq=False)
class Split:
    """Samples.

    x: [n, ...] uint8 (images), float32 or int64 (tokens); y: int64 [n] (classification) or float32
    [n, outputs] (regression); client: int64 [n], the natural client of each sample (-1: none), or
    None where the data set has no clients.
    """

    x: np.ndarray
    y: np.ndarray
    client: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.y)

    def take(self, indices: np.ndarray) -> Split:
        """The samples at `indices` [m], in that order."""
        return Split(
            self.x[indices], self.y[indices], None if self.client is None else self.client[indices]
        )


@dataclass(frozen=True, eq=False)
class Dataset:
    """A data set in memory. What a model sees is (x * scale - mean) / std; tokens are used as they
    are.

    task: "classification" or "regression"; classes: 0 for regression; outputs: classes, or the
    number of regression targets; mean, std: float32, one value per channel or feature,
    broadcastable to x[0]; scale: 1/255 for uint8 images (digits: 1/16), else 1; tokens: x holds
    token ids; label_names: one per class, or None; notes: what a reader of the results should know,
    key to text.
    """

    name: str
    task: str
    classes: int
    outputs: int
    train: Split
    validation: Split | None
    test: Split
    mean: np.ndarray
    std: np.ndarray
    scale: float = 1.0
    tokens: bool = False
    label_names: list[str] | None = None
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one sample: images (C, H, W), features (d,), tokens (length,)."""
        return tuple(self.train.x.shape[1:])


@component
class DataSource:
    """Base of the data components: settings that choose the training samples, and `load`.

    validation: share of the training samples held out for tuning, drawn with the run's seed; 0
    holds out none; limit: use at most so many training samples, drawn with the run's seed before
    the validation part is held out; None uses all. The samples keep the order of the source. The
    test part is never cut.
    """

    validation: Fraction = 0.1
    limit: PositiveInt | None = None

    def load(self, seed: int) -> Dataset:
        """The data set; `seed` is the run's. Raises ConfigError for files that are missing or
        cannot be used."""
        raise NotImplementedError("a data source loads a data set")

    def hold_out(self, train: Split, seed: int) -> tuple[Split, Split | None]:
        """The training and the validation part of `train`, by `limit` and `validation`."""
        if self.limit is None and not self.validation:
            return train, None
        order = generator(seed, "split", _VALIDATION).permutation(len(train))[: self.limit]
        held = count_of(len(order), self.validation, "data.validation") if self.validation else 0
        kept = train.take(np.sort(order[held:]))
        return kept, train.take(np.sort(order[:held])) if held else None


def count_of(total: int, share: float, key: str) -> int:
    """How many of `total` samples a `share` in (0, 1) is: rounded, at least one and never all."""
    require(
        total >= 2, key, share, f"there must be at least 2 samples to divide and there are {total}"
    )
    return min(max(round(total * share), 1), total - 1)


def draw_test(samples: int, share: float, *key: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices of a training and a test part, sorted; the draw does not depend on the run's seed.
    key: integers that tell draws apart."""
    order = generator(0, "split", _TEST, *key).permutation(samples)
    held = count_of(samples, share, "data.test")
    return np.sort(order[held:]), np.sort(order[:held])


def moments(x: np.ndarray, scale: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of x * scale, float32: x [n, d] per feature, [d]; x [n, C, ...]
    per channel, [C, 1, ...].

    What is constant, up to the rounding of float32, or smaller than its numbers, gets a standard
    deviation of 1.
    """
    axes = (0, *range(2, x.ndim))
    shape = (-1,) + (1,) * (x.ndim - 2)
    mean = x.mean(axis=axes, dtype=np.float64) * scale
    std = np.sqrt(_variance(x, axes)) * scale
    std[(std <= 1e-7 * np.abs(mean)) | (std < np.finfo(np.float32).tiny)] = 1.0
    return mean.astype(np.float32).reshape(shape), std.astype(np.float32).reshape(shape)


def _variance(x: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """Variance over axes that begin with the first, float64, some rows at a time: np.var would make
    a copy of all in float64."""
    mean = x.mean(axis=axes, dtype=np.float64, keepdims=True)
    rows, count = max(1, BLOCK // max(1, x[:1].size)), x.size // mean.size
    blocks = [x[start : start + rows] for start in range(0, len(x), rows)]
    if x.dtype == np.uint8:  # exactly, and several times faster
        total = x.sum(axis=axes, dtype=np.uint64).astype(object)
        squares = sum(
            np.square(block, dtype=np.uint16).sum(axis=axes, dtype=np.uint64) for block in blocks
        ).astype(object)
        return ((squares * count - total**2) / count**2).astype(np.float64)
    return sum(np.square(block - mean).sum(axis=axes) for block in blocks) / count


def number_clients(train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Client ids of any kind as int64: those of the training samples 0..K-1 in sorted order, then
    those only among the test samples."""
    known = np.unique(train)
    unseen = np.setdiff1d(test, known)
    at = np.searchsorted(known, test).clip(max=len(known) - 1)
    tested = np.where(known[at] == test, at, len(known) + np.searchsorted(unseen, test))
    return np.searchsorted(known, train).astype(np.int64), tested.astype(np.int64)
