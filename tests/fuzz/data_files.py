"""Data sets' files: archives of images, batches, tables, texts and a user's own arrays."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from fedsim.data import CIFAR10, MNIST, Har, HeartDisease, Npz, Shakespeare
from fedsim.data.dataset import DataSource
from fedsim.data.natural import MnistWriters
from fedsim.data.svmlight import SvmLight
from tests.data.formats import OFFLINE, Idx, cifar_batches, python2_batch, write_mosaic
from tests.fuzz.damage import damaged_files
from tests.fuzz.harness import Failure, Target


def load(source: DataSource) -> None:
    """Load, and check what every model and partition takes for granted."""
    data = source.load(0)
    for split in filter(None, (data.train, data.validation, data.test)):
        seen = (split.x * data.scale - data.mean) / data.std
        if not np.isfinite(seen).all() or not np.isfinite(split.y).all():
            raise Failure("gives values that are not finite")
        if (
            data.task == "classification"
            and len(split)
            and not 0 <= split.y.min() <= split.y.max() < data.classes
        ):
            raise Failure("gives labels out of range")
        if len(split.x) != len(split.y) or (
            split.client is not None and split.client.shape != (len(split),)
        ):
            raise Failure("gives parts that do not fit")


def written(write: Callable[[Path], Any]) -> Callable[[], dict[str, bytes]]:
    """The files that `write(folder)` makes, by path."""

    def originals() -> dict[str, bytes]:
        with tempfile.TemporaryDirectory() as folder:
            write(Path(folder))
            return {
                str(path.relative_to(folder)): path.read_bytes()
                for path in Path(folder).rglob("*")
                if path.is_file()
            }

    return originals


def npz(**named: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **named)
    return buffer.getvalue()


def _user() -> dict[str, bytes]:
    draw = np.random.default_rng(0)
    x, y = draw.normal(size=(12, 3)).astype(np.float32), np.arange(12) % 3
    parts = {
        "x": x,
        "y": y,
        "client": y // 2,
        "x_test": x[:4],
        "y_test": y[:4],
        "client_test": y[:4],
    }
    small = io.BytesIO()
    np.savez_compressed(small, **parts)
    return {
        "data.npz": npz(**parts),
        "small.npz": small.getvalue(),
        "data.npz.xz": lzma.compress(npz(**parts), preset=0),
    }


def _read_user(folder: Path) -> None:
    for name in _user_names:
        load(Npz(file=str(folder / name)))


_user_names = ("data.npz", "small.npz", "data.npz.xz")
_fitting = st.sampled_from([(6,), (6, 1), (6, 2), (6, 3, 3), (6, 1, 3, 3)])
_anything = arrays.arrays(
    st.sampled_from("? b B i2 i8 u8 f2 f4 f8 c8 U3 S3 M8[s] m8[s] >f8 >i4 f4,i4 g".split()),
    st.one_of(arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=6), *[_fitting] * 3),
)
_names = st.sampled_from(
    ["x", "y", "client", "x_test", "y_test", "client_test", "../up", "/abs", "x/..", "é", "arr_0"]
)


def _put_arrays(case: tuple[dict[str, np.ndarray], dict[str, Any]], folder: Path) -> None:
    with zipfile.ZipFile(folder / "data.npz", "w") as archive:
        for name, array in case[0].items():
            content = io.BytesIO()
            np.lib.format.write_array(content, array, allow_pickle=False)
            archive.writestr(f"{name}.npy", content.getvalue())


_array_cases = st.tuples(
    st.fixed_dictionaries({"x": _anything, "y": _anything})
    | st.dictionaries(_names, _anything, max_size=6),
    st.fixed_dictionaries(
        {
            "task": st.sampled_from([None, "classification", "regression"]),
            "classes": st.sampled_from([None, 1, 3, 300, 10**9]),
        }
    ),
)


def _header(shape: str, kind: str = "<f4", more: str = "") -> bytes:
    text = (
        f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}{more}}}".ljust(117).encode()
        + b"\n"
    )
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


_SHAPES = [
    *(
        "(1000000000000,)",
        "(1, 1000000000000)",
        "(2147483648, 8)",
        "(0, 1000000000000)",
        "(4611686018427387904, 4)",
    ),
    *("(10**12,)", "(-1,)", "(3, 2)", "()", "(3, 2.0)", "[3, 2]"),
]
_KINDS = [
    "<f4",
    "|O",
    "<U1000000000",
    "|V999999999",
    "|b1",
    "<i8",
    "f4,(10,)f4",
    "('<f4', (1000000,))",
    "O8",
    "<M8[s]",
    "x",
]


def _put_headers(case: tuple, folder: Path) -> None:
    shape, kind, body, name, claim = case
    with zipfile.ZipFile(folder / "data.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{name}.npy", _header(shape, kind) + bytes(body))
        archive.writestr("y.npy", _header("(3,)", "<i8") + bytes(24))
    if claim is not None:  # the central directory's uncompressed size of the first member
        content = bytearray((folder / "data.npz").read_bytes())
        at = content.index(b"PK\x01\x02")
        content[at + 24 : at + 28] = claim.to_bytes(4, "little")
        (folder / "data.npz").write_bytes(content)


_header_cases = st.tuples(
    st.sampled_from(_SHAPES),
    st.sampled_from(_KINDS),
    st.sampled_from([0, 4, 24, 1000]),
    st.sampled_from(["x", "x", "x", "../x", "/x", "client"]),
    st.sampled_from([None, None, 0, 150, 2**31, 2**32 - 1]),
)


def _images(folder: Path) -> None:
    Idx(folder / "mnist")


def _batches(folder: Path) -> None:
    (folder / "cifar10").mkdir()
    for name, (images, labels) in cifar_batches().items():
        (folder / "cifar10" / name).write_bytes(python2_batch(images[:2], labels[:2]))


def _mosaics(folder: Path) -> None:
    for name, (images, labels) in cifar_batches().items():
        write_mosaic(folder / "cifar10" / "mosaic", name, images, labels)


def _har(folder: Path) -> None:
    (folder / "har-uci").mkdir()
    y, subject = np.arange(12) % 6, np.array([1, 2, 3, 4] * 3)
    draw = np.random.default_rng(0)
    (folder / "har-uci" / "har_uci_features.npz").write_bytes(
        npz(x=draw.normal(size=(12, 5)), y=y, subject=subject)
    )
    windows = npz(
        delta=draw.integers(-9, 9, (12, 9, 8), np.int16),
        scale=np.full(9, 100.0),
        y=y,
        subject=subject,
    )
    (folder / "har-uci" / "har_uci_windows.npz.xz").write_bytes(lzma.compress(windows, preset=0))


def _heart(folder: Path) -> None:
    draw = np.random.default_rng(0)
    (folder / "heart-disease").mkdir()
    for hospital in ("cleveland", "hungarian", "switzerland", "va"):
        rows = [
            ",".join([*(f"{value:.1f}" for value in draw.normal(60, 20, 13)), str(label)])
            for label in (0, 1, 2, 0, 3, 1)
        ]
        rows[2] = rows[2].replace(rows[2].split(",")[4], "?")
        (folder / "heart-disease" / f"processed.{hospital}.data").write_text("\n".join(rows))


def _roles(folder: Path) -> None:
    (folder / "shakespeare").mkdir()
    users = {
        "HAMLET": "To be, or not to be, that is the question. " * 3,
        "ROMEO": "What light through yonder window breaks? " * 4,
    }
    content = {
        "users": list(users),
        "user_data": {user: {"raw": text} for user, text in users.items()},
    }
    (folder / "shakespeare" / "shakespeare_roles.json.gz").write_bytes(
        gzip.compress(json.dumps(content).encode())
    )


def _lines(folder: Path) -> None:
    draw = np.random.default_rng(0)
    for name in ("tiny", "tiny.t"):
        rows = [
            f"{1 - 2 * (n % 2):+d} 1:{draw.normal():.3f} 3:{draw.normal():.3f} 7:1"
            for n in range(12)
        ]
        (folder / f"{name}.bz2").write_bytes(bz2.compress("\n".join(rows).encode()))
    (folder / "plain").write_text("\n".join(rows))


def _read_lines(folder: Path) -> None:
    load(SvmLight(root=str(folder), name="tiny"))
    load(SvmLight(root=str(folder), name="plain", standardise=True))


def _writers(folder: Path) -> None:
    Idx(folder / "mnist")
    (folder / "mnist" / "mnist_writers.npz").write_bytes(
        npz(train=np.arange(12) % 4, test=np.arange(6) + 3)
    )


TARGETS = [
    damaged_files("user's npz", _user, _read_user, share=2),
    Target(
        "arrays of any kind",
        _array_cases,
        lambda case, folder: load(Npz(file=str(folder / "data.npz"), **case[1])),
        _put_arrays,
        share=2,
    ),
    Target(
        "headers of arrays",
        _header_cases,
        lambda case, folder: load(Npz(file=str(folder / "data.npz"))),
        _put_headers,
    ),
    damaged_files(
        "IDX archives",
        written(_images),
        lambda folder: load(MNIST(root=str(folder), **OFFLINE)),
        share=2,
    ),
    damaged_files(
        "CIFAR-10 batches",
        written(_batches),
        lambda folder: load(CIFAR10(root=str(folder), **OFFLINE)),
        share=2,
    ),
    damaged_files(
        "CIFAR-10 mosaics",
        written(_mosaics),
        lambda folder: load(CIFAR10(root=str(folder), **OFFLINE)),
        text=True,
    ),
    damaged_files("HAR features", written(_har), lambda folder: load(Har(root=str(folder)))),
    damaged_files(
        "HAR windows", written(_har), lambda folder: load(Har(root=str(folder), form="windows"))
    ),
    damaged_files(
        "heart disease",
        written(_heart),
        lambda folder: load(HeartDisease(root=str(folder))),
        text=True,
    ),
    damaged_files(
        "Shakespeare",
        written(_roles),
        lambda folder: load(Shakespeare(root=str(folder), length=8, stride=4)),
        text=True,
    ),
    damaged_files("svmlight", written(_lines), _read_lines, text=True),
    damaged_files(
        "MNIST writers",
        written(_writers),
        lambda folder: load(MnistWriters(root=str(folder), **OFFLINE)),
    ),
]
