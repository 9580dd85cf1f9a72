"""A user's own data from one .npz file."""

from __future__ import annotations

from dataclasses import field
from pathlib import Path
from typing import Literal

import numpy as np

from fedsim.component import PositiveInt, component
from fedsim.data.dataset import (
    LARGEST,
    Dataset,
    DataSource,
    Share,
    Split,
    draw_test,
    moments,
    number_clients,
)
from fedsim.data.files import file_error, read_npz

KEY = "data.file"


@component
class Npz(DataSource):
    """Arrays written by numpy.savez: x and y, and as the user likes `client`, and x_test with
    y_test (and `client_test`).

    x: [n, d] features, [n, C, H, W] images, [n, H, W] grey images if of type uint8, or any other
    [n, ...]. uint8 stays uint8 and is scaled by 1/255, other numbers become float32; all are
    standardised with the mean and standard deviation of the training part, per feature [n, d] or
    per channel [n, C, ...]. y: whole numbers 0..classes-1 [n], or real numbers [n] or [n, outputs].
    client: whole numbers >= 0 or text [n].

    file: path of the file; task: None takes whole-number y as classes and real y as regression;
    classes: None counts them (greatest label + 1, at least 2); test: share of the samples in the
    test part where the file has no x_test; the part is the same for every seed. Raises
    ConfigError("data.file", ...) for a file that cannot be used: NaN or infinite values, lengths or
    shapes that do not fit, ...
    """

    file: str = field(kw_only=True)
    task: Literal["classification", "regression"] | None = None
    classes: PositiveInt | None = None
    test: Share = 0.2

    def load(self, seed: int) -> Dataset:
        path = Path(self.file).expanduser()
        arrays = read_npz(path, ["x", "y"], KEY)
        task = self.task or ("regression" if arrays["y"].dtype.kind == "f" else "classification")
        try:
            train, test = self._parts(arrays, task)
            classes = self._class_count(train.y, test.y) if task == "classification" else 0
        except _FaultError as fault:
            raise file_error(path, str(fault), KEY) from None
        kept, validation = self.hold_out(train, seed)
        scale = 1 / 255 if kept.x.dtype == np.uint8 else 1.0
        mean, std = moments(kept.x, scale)
        return Dataset(
            path.stem,
            task,
            classes,
            classes or train.y.shape[1],
            kept,
            validation,
            test,
            mean,
            std,
            scale,
        )

    def _parts(self, arrays: dict[str, np.ndarray], task: str) -> tuple[Split, Split]:
        train, clients = self._part(arrays, task, ""), _clients(arrays, "client", len(arrays["x"]))
        if "x_test" not in arrays and "y_test" not in arrays:
            if clients is not None:
                train = Split(train.x, train.y, number_clients(clients, clients)[0])
            kept, held = draw_test(len(train), self.test)
            return train.take(kept), train.take(held)
        for name in ("x_test", "y_test"):
            if name not in arrays:
                raise _FaultError(
                    f"has no array {name} beside the other test array; accepted are both or neither"
                )
        test, test_clients = (
            self._part(arrays, task, "_test"),
            _clients(arrays, "client_test", len(arrays["x_test"])),
        )
        if train.x.shape[1:] != test.x.shape[1:] or train.y.shape[1:] != test.y.shape[1:]:
            raise _FaultError("has samples of other shapes in x_test or y_test than in x or y")
        if train.x.dtype != test.x.dtype:
            raise _FaultError(
                f"has x of type {arrays['x'].dtype} and x_test of type {arrays['x_test'].dtype};"
                " accepted is uint8 in both or in neither"
            )
        if clients is None:
            return train, test
        if test_clients is None:
            return Split(train.x, train.y, number_clients(clients, clients)[0]), test
        if (clients.dtype.kind == "U") != (test_clients.dtype.kind == "U"):
            raise _FaultError(
                "has text in one of client and client_test and whole numbers in the other"
            )
        clients, test_clients = number_clients(clients, test_clients)
        return Split(train.x, train.y, clients), Split(test.x, test.y, test_clients)

    def _part(self, arrays: dict[str, np.ndarray], task: str, suffix: str) -> Split:
        x, y = _samples(arrays["x" + suffix], "x" + suffix), arrays["y" + suffix]
        if y.ndim == 2 and y.shape[1] == 1 and task == "classification":
            y = y[:, 0]
        if not y.ndim or len(x) != len(y):
            raise _FaultError(
                f"has x{suffix} of shape {x.shape} and y{suffix} of shape {y.shape}; accepted is"
                " one y for each sample in x"
            )
        return Split(
            x, _labels(y, "y" + suffix) if task == "classification" else _targets(y, "y" + suffix)
        )

    def _class_count(self, *labels: np.ndarray) -> int:
        least, greatest = min(y.min() for y in labels), max(y.max() for y in labels)
        # More classes than samples: y is no class index
        limit = self.classes or sum(map(len, labels))
        if least < 0 or greatest >= limit:
            accepted = f"0 to {limit - 1}" + (
                "" if self.classes else "; set data.classes, or data.task=regression"
            )
            raise _FaultError(f"has labels y from {least} to {greatest}; accepted are {accepted}")
        return self.classes or max(int(greatest) + 1, 2)


class _FaultError(Exception):
    """What is wrong with the file, worded to follow its name."""


def _samples(x: np.ndarray, name: str) -> np.ndarray:
    if x.ndim < 2 or not x.size:
        raise _FaultError(
            f"has {name} of shape {x.shape}; accepted is [samples, ...] with at least one sample"
            " and one feature"
        )
    if x.dtype == np.uint8:
        return x[:, None] if x.ndim == 3 else x
    return _finite(x, name)


def _finite(values: np.ndarray, name: str) -> np.ndarray:
    """Real numbers as finite float32."""
    if values.dtype.kind not in "fiub":
        raise _FaultError(f"has {name} of type {values.dtype}; accepted are real numbers")
    with np.errstate(over="ignore"):
        converted = values.astype(np.float32)
    bad = np.argwhere(~(np.abs(converted) <= LARGEST))  # NaN is not
    if len(bad):
        at = tuple(int(i) for i in bad[0])
        what, accepted = (
            f"{len(bad)} values in {name} that are NaN or infinite",
            f"finite ones up to {LARGEST:g}",
        )
        raise _FaultError(
            f"has {what}, or nearly so, the first {values[at]} at {list(at)}; accepted are"
            f" {accepted}"
        )
    return converted


def _labels(y: np.ndarray, name: str) -> np.ndarray:
    if y.ndim != 1:
        raise _FaultError(
            f"has {name} of shape {y.shape}; accepted are class labels of shape [samples]"
        )
    if y.dtype.kind not in "iub":
        whole = _finite(y, name)
        if np.any(whole != np.floor(whole)):
            raise _FaultError(
                f"has labels {name} that are not whole numbers (such as"
                f" {y[whole != np.floor(whole)][0]}); data.task=regression takes those"
            )
    return y.astype(np.int64)


def _targets(y: np.ndarray, name: str) -> np.ndarray:
    if y.ndim not in (1, 2) or not y.size:
        raise _FaultError(
            f"has {name} of shape {y.shape}; accepted are targets of shape [samples] or [samples,"
            " outputs]"
        )
    return _finite(y.reshape(len(y), -1), name)


def _clients(arrays: dict[str, np.ndarray], name: str, samples: int) -> np.ndarray | None:
    """Client ids, whole numbers >= 0 or text [n], or None."""
    if name not in arrays:
        return None
    ids = arrays[name]
    if (
        ids.dtype.kind not in "iuU"
        or ids.shape != (samples,)
        or (ids.dtype.kind != "U" and ids.min() < 0)
    ):
        raise _FaultError(
            f"has {name} of type {ids.dtype} and shape {ids.shape}; accepted are whole numbers >= 0"
            f" or text of shape [{samples}]"
        )
    return ids
