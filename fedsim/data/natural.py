"""Data sets that come divided among clients: MNIST by writer, HAR by subject, heart disease by
hospital, Shakespeare by role.

Split.client numbers the clients of the training samples 0..K-1; test samples of clients that never
train have numbers from K on.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np

from fedsim.component import PositiveInt, component
from fedsim.data.dataset import LARGEST, Dataset, Share, Split, draw_test, moments, number_clients
from fedsim.data.files import FileSource, file_error, need, read_bytes, read_json, read_npz
from fedsim.data.images import MNIST, check_labels
from fedsim.errors import ConfigError
from fedsim.reading import OBJECTS

ACTIVITIES = ["walking", "walking upstairs", "walking downstairs", "sitting", "standing", "laying"]
HOSPITALS = ["cleveland", "hungarian", "switzerland", "va"]


@component
class MnistWriters(MNIST):
    """MNIST by writer: 539 writers in the training part and 297 others in the test part, labels
    nearly uniform per writer.

    Writers from QMNIST (Yadav and Bottou, 2019) in mnist_writers.npz (train [60000], test [10000]:
    writer of each digit).
    """

    def load(self, seed: int) -> Dataset:
        train, test = self.read()
        path = need(self.root_folder(), self._folders, "mnist_writers.npz")
        writers = read_npz(path, ["train", "test"])
        for name, part in (("train", train), ("test", test)):
            ids = writers[name]
            if ids.dtype.kind not in "iu" or ids.shape != (len(part),):
                raise file_error(
                    path,
                    f"holds {name} of type {ids.dtype} and shape {ids.shape}, expected whole"
                    f" numbers of shape ({len(part)},)",
                )
        train_writers, test_writers = number_clients(writers["train"], writers["test"])
        kept, validation = self.hold_out(Split(train.x, train.y, train_writers), seed)
        return self.dataset(kept, validation, Split(test.x, test.y, test_writers))

    _name = "mnist_writers"


@component
class Har(FileSource):
    """Human activity by smartphone (Anguita et al., 2013): 10,299 windows of 2.56 s, 30 subjects, 6
    activities.

    form: "windows": float32 [n, 9, 128], body acceleration, angular velocity and total acceleration
    at 50 Hz; "features": float32 [n, 132], made of the windows. The test part is the nine official
    test subjects; the 21 others train.
    """

    form: Literal["features", "windows"] = "features"

    _folders = ("har-uci", ".")
    _test_subjects = (2, 4, 9, 10, 12, 13, 18, 20, 24)

    def load(self, seed: int) -> Dataset:
        root = self.root_folder()
        if self.form == "features":
            path = need(root, self._folders, "har_uci_features.npz")
            arrays = read_npz(path, ["x", "y", "subject"])
            with np.errstate(over="ignore"):
                x = (
                    arrays["x"].astype(np.float32)
                    if arrays["x"].dtype.kind in "fiu"
                    else np.empty(())
                )
        else:
            path = need(root, self._folders, "har_uci_windows.npz.xz")
            arrays = read_npz(path, ["delta", "scale", "y", "subject"])
            x = _undo_differences(arrays["delta"], arrays["scale"], path)
        y, subject = arrays["y"], arrays["subject"]
        if (
            x.ndim < 2
            or not x.size
            or y.shape != (len(x),)
            or subject.shape != (len(x),)
            or {y.dtype.kind, subject.dtype.kind} - set("iu")
        ):
            raise file_error(
                path,
                f"holds samples of shape {x.shape}, y of {y.shape} and subject of {subject.shape},"
                " which do not fit",
            )
        if not (np.abs(x) <= LARGEST).all():  # NaN is not
            raise file_error(path, f"holds values that are NaN, infinite or above {LARGEST:g}")
        check_labels(y, len(ACTIVITIES), path)
        held = np.isin(subject, self._test_subjects)
        if held.all() or not held.any():
            raise file_error(
                path, f"has no subjects for both parts; the test subjects are {self._test_subjects}"
            )
        train_clients, test_clients = number_clients(subject[~held], subject[held])
        y = y.astype(np.int64)
        kept, validation = self.hold_out(Split(x[~held], y[~held], train_clients), seed)
        mean, std = moments(kept.x)
        test = Split(x[held], y[held], test_clients)
        return Dataset(
            "har", "classification", 6, 6, kept, validation, test, mean, std, label_names=ACTIVITIES
        )


def _undo_differences(delta: np.ndarray, scale: np.ndarray, path: Path) -> np.ndarray:
    """Windows float32 [n, channels, length] from whole-number differences along the last axis and
    one scale per channel."""
    if (
        delta.ndim != 3
        or delta.dtype.kind not in "iu"
        or scale.shape != delta.shape[1:2]
        or scale.dtype.kind != "f"
        or not np.all(scale > 0)
    ):
        raise file_error(
            path,
            f"holds delta of shape {delta.shape} and scale of shape {scale.shape}, expected (n,"
            " channels, length) and (channels,) > 0",
        )
    with np.errstate(over="ignore"):
        return (np.cumsum(delta, axis=2, dtype=np.int32) / scale[:, None]).astype(np.float32)


@component
class HeartDisease(FileSource):
    """Heart disease at four hospitals: 920 patients, 13 features, disease (label > 0) or none
    (Detrano et al., 1989; processed UCI files).

    The clients are 0 Cleveland, 1 Hungary, 2 Switzerland, 3 Long Beach VA. Missing values ("?")
    become the feature's median over the training part of all hospitals; zeros stay as they are in
    the files.

    test: share of each hospital's patients in the test part, which is the same for every seed.
    """

    test: Share = 0.2

    _folders = ("heart-disease", ".")

    def load(self, seed: int) -> Dataset:
        root, trains, tests = self.root_folder(), [], []
        for hospital, name in enumerate(HOSPITALS):
            rows = _read_patients(need(root, self._folders, f"processed.{name}.data"))
            patients = Split(
                rows[:, :-1], (rows[:, -1] > 0).astype(np.int64), np.full(len(rows), hospital)
            )
            train, test = (
                patients.take(part) for part in draw_test(len(rows), self.test, hospital)
            )
            trains.append(train)
            tests.append(test)
        kept, validation = self.hold_out(_join(trains), seed)
        test = _join(tests)
        known = ~np.isnan(kept.x)
        if not known.any(axis=0).all():
            raise ConfigError(
                "data.limit",
                self.limit,
                "more training samples: a feature has no known value to fill the missing ones with",
            )
        median = np.nanmedian(kept.x, axis=0)
        parts = [part for part in (kept, validation, test) if part is not None]
        holes = [np.isnan(part.x) for part in parts]
        for part, hole in zip(parts, holes, strict=True):
            np.copyto(part.x, median, where=hole)
        missing, total = sum(hole.sum() for hole in holes), sum(hole.size for hole in holes)
        notes = {
            "imputed": (
                f"{missing} of {total} values are missing and set to the training median of their"
                " feature"
            )
        }
        mean, std = moments(kept.x)
        names = ["no disease", "disease"]
        return Dataset(
            "heart_disease",
            "classification",
            2,
            2,
            kept,
            validation,
            test,
            mean,
            std,
            label_names=names,
            notes=notes,
        )


def _join(parts: list[Split]) -> Split:
    return Split(
        *(np.concatenate([getattr(part, name) for part in parts]) for name in ("x", "y", "client"))
    )


def _read_patients(path: Path) -> np.ndarray:
    """Rows of 13 features and a label as float32 [n, 14], "?" as NaN."""
    rows = []
    for number, line in enumerate(read_bytes(path, share=OBJECTS).decode("latin1").splitlines(), 1):
        if not line.strip():
            continue
        values = [value.strip() for value in line.split(",")]
        try:
            row = [np.nan if value == "?" else float(value) for value in values]
        except ValueError:
            row = []
        if len(row) != 14 or not np.isfinite(row[-1]) or any(abs(value) > LARGEST for value in row):
            raise file_error(
                path, f"line {number} is not 13 numbers or ? and a label, separated by commas"
            )
        rows.append(row)
    if len(rows) < 2:
        raise file_error(path, f"holds {len(rows)} patients, expected at least 2")
    return np.array(rows, dtype=np.float32)


@component
class Shakespeare(FileSource):
    """Shakespeare by speaking role, 1,339 roles in 37 plays: the next character after `length`
    characters (Caldas et al., LEAF, 2018).

    x: token ids int64 [n, length]; y: id of the next character int64 [n]; the ids number the
    characters of the whole text in sorted order. The last 20 % of each role's text are its test
    part; no window lies in both parts. Roles too short for one training window are left out.

    length: characters a prediction sees; stride: characters between the starts of two windows (1: a
    prediction at every character).
    """

    length: PositiveInt = 80
    stride: PositiveInt = 20

    _folders = ("shakespeare", ".")
    _test = 0.2

    def load(self, seed: int) -> Dataset:
        path = need(self.root_folder(), self._folders, "shakespeare_roles.json.gz")
        texts = _read_roles(path)
        points = np.frombuffer("".join(texts).encode("utf-32-le"), "<u4")
        alphabet, ids = np.unique(points, return_inverse=True)
        sizes = np.array([len(text) for text in texts])
        ends = np.cumsum(sizes)
        starts = ends - sizes
        cuts = starts + np.ceil(sizes * (1 - self._test)).astype(np.int64)
        spoken = cuts - starts > self.length
        if not spoken.any():
            longest = int((cuts - starts).max())
            raise ConfigError(
                "data.length",
                self.length,
                f"at most {longest - 1}: the longest role has {longest} characters to train on",
            )
        train = self._windows(ids, starts[spoken], cuts[spoken])
        test = self._windows(ids, cuts[spoken], ends[spoken])
        if not len(test):
            raise ConfigError(
                "data.length",
                self.length,
                "fewer characters: no role's last 20 % of text is longer",
            )
        kept, validation = self.hold_out(train, seed)
        characters = [chr(point) for point in alphabet]
        notes = {
            "roles": (
                f"{int(spoken.sum())} of {len(texts)} roles have text enough for one window of"
                f" {self.length} characters"
            )
        }
        none, one = np.zeros(1, np.float32), np.ones(1, np.float32)
        return Dataset(
            "shakespeare",
            "classification",
            len(alphabet),
            len(alphabet),
            kept,
            validation,
            test,
            none,
            one,
            1.0,
            True,
            characters,
            notes,
        )

    def _windows(self, ids: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> Split:
        """The windows of `length` characters, each with the next, that lie in [start, end) of one
        client's text."""
        counts = np.maximum(-(-(ends - starts - self.length) // self.stride), 0)
        client = np.repeat(np.arange(len(starts)), counts)
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        at = starts[client] + within * self.stride
        return Split(ids[at[:, None] + np.arange(self.length)], ids[at + self.length], client)


def _read_roles(path: Path) -> list[str]:
    content = read_json(path)
    try:
        texts = [content["user_data"][user]["raw"] for user in content["users"]]
    except (LookupError, TypeError):
        texts = []
    if not texts or not all(isinstance(text, str) for text in texts):
        raise file_error(
            path,
            'does not hold {"users": [...], "user_data": {user: {"raw": text}}} with at least one'
            " user",
        )
    if any("\ud800" <= character <= "\udfff" for text in texts for character in set(text)):
        raise file_error(path, "holds halves of characters (surrogates)")
    return texts
