"""Data sets that need neither files nor a network: digits (shipped with scikit-learn) and synthetic
problems."""

from __future__ import annotations

import math
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from fedsim.component import NonNegative, PositiveInt, component
from fedsim.data.dataset import Dataset, DataSource, Share, Split, draw_test, moments
from fedsim.errors import require
from fedsim.rng import generator

_MOST = 1 << 48  # numbers in an array, which NumPy must be able to count in bytes


@component
class Digits(DataSource):
    """Handwritten digits of 8 x 8 pixels with values 0 to 16, 10 classes, 1,797 samples.

    Source: Alpaydin and Kaynak (1998), the copy in scikit-learn. Images are uint8 [n, 1, 8, 8],
    scale 1/16. test: share of the samples in the test part, which is the same for every seed.
    """

    test: Share = 0.2

    def load(self, seed: int) -> Dataset:
        from sklearn.datasets import load_digits

        source = load_digits()
        samples = Split(source.images.astype(np.uint8)[:, None], source.target.astype(np.int64))
        train, test = (samples.take(part) for part in draw_test(len(samples), self.test))
        kept, validation = self.hold_out(train, seed)
        # Of all pixels of the set
        mean, std = (np.full((1, 1, 1), value, np.float32) for value in (0.3053, 0.3760))
        names = [str(digit) for digit in range(10)]
        return Dataset(
            "digits",
            "classification",
            10,
            10,
            kept,
            validation,
            test,
            mean,
            std,
            1 / 16,
            label_names=names,
        )


@component
class Synthetic(DataSource):
    """A learnable problem of any size, drawn with the run's seed.

    Classification: each class has a mean drawn from N(0, I/d), of length about 1 (d values per
    sample); x = mean of its class + noise * N(0, I); the classes are equally frequent. Regression:
    x from N(0, I), y = W x + b + noise * N(0, I) with W from N(0, I/d) and b from N(0, I). A larger
    `samples` or `test` appends samples to those of a smaller one.

    samples, test: numbers of training (validation included) and of test samples; shape: of one
    sample, [d] features or [C, H, W]; outputs: regression targets.
    """

    task: Literal["classification", "regression"] = "classification"
    samples: PositiveInt = 10_000
    test: PositiveInt = 2_000
    shape: Annotated[list[PositiveInt], Field(min_length=1, max_length=3)] = Field(
        default_factory=lambda: [32]
    )
    classes: Annotated[PositiveInt, Field(ge=2)] = 10
    outputs: PositiveInt = 1
    noise: NonNegative = 0.35

    def __post_init__(self) -> None:
        most = max(self.samples, self.test, self.classes, self.outputs) * math.prod(self.shape)
        require(
            most <= _MOST,
            "Synthetic.shape",
            self.shape,
            f"at most {_MOST:,} numbers in all samples",
        )

    def load(self, seed: int) -> Dataset:
        classification = self.task == "classification"
        draw = self._classification if classification else self._regression
        train, test = draw(seed, self.samples, 1), draw(seed, self.test, 2)
        kept, validation = self.hold_out(train, seed)
        mean, std = moments(kept.x)
        classes, outputs = (self.classes, self.classes) if classification else (0, self.outputs)
        return Dataset("synthetic", self.task, classes, outputs, kept, validation, test, mean, std)

    def _classification(self, seed: int, count: int, part: int) -> Split:
        features = math.prod(self.shape)
        centres = generator(seed, "synthetic", 0).standard_normal(
            (self.classes, features), np.float32
        ) / math.sqrt(features)
        # Each class once in every round, in random order: a longer draw starts with a shorter one
        rounds = -(-count // self.classes)
        y = np.argsort(
            generator(seed, "synthetic", part, 0).random((rounds, self.classes)), axis=1
        ).reshape(-1)[:count]
        x = (
            self.noise
            * generator(seed, "synthetic", part, 1).standard_normal((count, features), np.float32)
            + centres[y]
        )
        return Split(x.astype(np.float32).reshape(count, *self.shape), y.astype(np.int64))

    def _regression(self, seed: int, count: int, part: int) -> Split:
        features = math.prod(self.shape)
        teacher = generator(seed, "synthetic", 0)
        weight = teacher.standard_normal((features, self.outputs)) / math.sqrt(features)
        bias = teacher.standard_normal(self.outputs)
        x = generator(seed, "synthetic", part, 1).standard_normal((count, features), np.float32)
        y = (
            x @ weight
            + bias
            + self.noise
            * generator(seed, "synthetic", part, 0).standard_normal((count, self.outputs))
        )
        return Split(x.reshape(count, *self.shape), y.astype(np.float32))
