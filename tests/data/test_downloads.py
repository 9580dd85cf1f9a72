"""Downloads from a server on this machine: verified and whole, or refused with nothing left
behind."""

from __future__ import annotations

import io
import socket
import tarfile
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from fedsim.data import CIFAR10, FashionMNIST
from fedsim.errors import ConfigError
from tests.data.formats import BATCHES, Idx, cifar_batches, md5, python2_batch, refusal

IMAGES = "train-images-idx3-ubyte.gz"


class Handler(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        super().do_GET()


@pytest.fixture
def source(tmp_path: Path) -> Idx:
    return Idx(tmp_path / "source")


@pytest.fixture
def server(source: Idx, monkeypatch: pytest.MonkeyPatch) -> Iterator[ThreadingHTTPServer]:
    """Serves the folder of `source`; `address` is its URL, `asked` the paths that were asked
    for."""
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "127.0.0.1")
    with ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(Handler, directory=str(source.folder))
    ) as server:
        server.asked, server.address = [], f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


def no_server() -> str:
    """An address nobody listens at."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


def test_absent_files_are_downloaded_once_and_kept_as_they_were(source, server, tmp_path):
    root = tmp_path / "not" / "yet"
    settings = {
        "root": str(root),
        "url": [server.address + "/"],
        "md5": source.md5,
        "validation": 0,
    }
    data = FashionMNIST(**settings).load(0)
    assert np.array_equal(data.train.x[:, 0], source.arrays[IMAGES]) and len(data.test) == 6
    folder = root / "fashion-mnist"
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        path.name: path.read_bytes() for path in source.folder.iterdir()
    }
    assert [path.name for path in root.iterdir()] == ["fashion-mnist"]
    assert sorted(server.asked) == sorted(f"/{name}" for name in source.md5)
    FashionMNIST(**settings).load(0)
    assert len(server.asked) == 4


def test_only_the_missing_file_is_downloaded(source, server, tmp_path):
    own = Idx(tmp_path / "root" / "fashion-mnist")
    (own.folder / IMAGES).unlink()
    FashionMNIST(root=str(tmp_path / "root"), url=[server.address], md5=source.md5).load(0)
    assert server.asked == [f"/{IMAGES}"]


def test_a_mirror_is_tried_when_the_first_address_fails(source, server, tmp_path):
    addresses = [no_server(), f"{server.address}/nothing/here", server.address]
    assert (
        len(FashionMNIST(root=str(tmp_path / "root"), url=addresses, md5=source.md5).load(0).test)
        == 6
    )


def test_the_checksum_is_of_the_uncompressed_bytes(source, server, tmp_path):
    path = source.folder / IMAGES
    header = bytearray(path.read_bytes())
    header[4:8] = b"\x01\x02\x03\x04"  # another time stamp in the gzip header
    path.write_bytes(header)
    assert (
        len(
            FashionMNIST(root=str(tmp_path / "root"), url=[server.address], md5=source.md5)
            .load(0)
            .test
        )
        == 6
    )


def wrong_pixels(source: Idx) -> None:
    expected = dict(source.md5)
    source.put(IMAGES, 255 - source.arrays[IMAGES])
    source.md5 = expected


def truncated(source: Idx) -> None:
    path = source.folder / IMAGES
    path.write_bytes(path.read_bytes()[:-20])


def error_page(source: Idx) -> None:
    (source.folder / IMAGES).write_bytes(b"<html>Please log in</html>")


@pytest.mark.parametrize(
    "damage, said", [(wrong_pixels, "expected"), (truncated, "truncated"), (error_page, "expected")]
)
def test_a_wrong_download_is_refused_and_leaves_nothing(source, server, tmp_path, damage, said):
    damage(source)
    root = tmp_path / "root"
    message = refusal(FashionMNIST(root=str(root), url=[server.address], md5=source.md5))
    assert said in message and IMAGES in message and server.address in message
    assert not root.exists() and sorted(path.name for path in tmp_path.iterdir()) == ["source"]


def test_a_file_the_server_does_not_have(source, server, tmp_path):
    (source.folder / IMAGES).unlink()
    assert "404" in refusal(
        FashionMNIST(root=str(tmp_path / "root"), url=[server.address], md5=source.md5)
    )


def test_without_a_network_one_line_says_where_the_files_are_looked_for(tmp_path):
    message = refusal(FashionMNIST(root=str(tmp_path / "root"), url=[no_server()]))
    assert all(
        word in message
        for word in ("data.root", "FEDSIM_DATA", str(tmp_path / "root"), IMAGES, "no connection")
    )
    assert not list(tmp_path.iterdir())


def test_no_address_and_no_checksum_mean_no_download(server, tmp_path):
    assert "data.url" in refusal(FashionMNIST(root=str(tmp_path), url=[]))
    assert "data.md5" in refusal(FashionMNIST(root=str(tmp_path), url=[server.address], md5={}))
    assert not server.asked


def test_a_folder_that_cannot_be_made_is_one_line(source, server, tmp_path):
    (tmp_path / "file").write_text("in the way")
    message = refusal(
        FashionMNIST(root=str(tmp_path / "file"), url=[server.address], md5=source.md5)
    )
    assert str(tmp_path / "file") in message and (tmp_path / "file").read_text() == "in the way"


def test_an_address_must_be_one_of_the_web():
    with pytest.raises(ConfigError, match=r"url='ftp://there'.*http"):
        FashionMNIST(url=["ftp://there"])


def pack(path: Path, files: dict[str, bytes]) -> None:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


@pytest.fixture
def batches(source: Idx) -> dict[str, bytes]:
    """The six batches, served inside the archive with two members that must not be written."""
    content = {name: python2_batch(*batch) for name, batch in cifar_batches().items()}
    files = {f"cifar-10-batches-py/{name}": batch for name, batch in content.items()}
    pack(
        source.folder / "cifar-10-python.tar.gz",
        files | {"../escaped": b"x", "cifar-10-batches-py/readme.html": b"x"},
    )
    return content


def test_the_archive_of_batches_is_unpacked(batches, server, tmp_path):
    checksums = {name: md5(content) for name, content in batches.items()}
    data = CIFAR10(
        root=str(tmp_path / "root"), url=[server.address], md5=checksums, validation=0
    ).load(0)
    assert len(data.train) == 20 and np.array_equal(data.test.x, cifar_batches()["test_batch"][0])
    assert {
        path.name for path in tmp_path.rglob("*") if path.is_file() and path.parent.name != "source"
    } == set(BATCHES)


def test_missing_batches_are_added_to_those_that_are_there(batches, server, tmp_path):
    folder = tmp_path / "root" / "cifar10"
    folder.mkdir(parents=True)
    (folder / "test_batch").write_bytes(batches["test_batch"])
    before = (folder / "test_batch").stat().st_mtime_ns
    checksums = {name: md5(content) for name, content in batches.items()}
    assert (
        len(
            CIFAR10(root=str(tmp_path / "root"), url=[server.address], md5=checksums, validation=0)
            .load(0)
            .train
        )
        == 20
    )
    assert (folder / "test_batch").stat().st_mtime_ns == before


@pytest.mark.parametrize("damage", ["one batch", "one missing", "truncated"])
def test_a_wrong_archive_is_refused_and_leaves_nothing(batches, source, server, tmp_path, damage):
    checksums = {name: md5(content) for name, content in batches.items()}
    path = source.folder / "cifar-10-python.tar.gz"
    if damage == "one batch":
        pack(path, batches | {"data_batch_3": batches["data_batch_4"]})
    elif damage == "one missing":
        pack(path, {name: batch for name, batch in batches.items() if name != "data_batch_3"})
    else:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    message = refusal(CIFAR10(root=str(tmp_path / "root"), url=[server.address], md5=checksums))
    assert damage == "truncated" or "data_batch_3" in message
    assert not (tmp_path / "root").exists() and sorted(
        path.name for path in tmp_path.iterdir()
    ) == ["source"]


def test_some_batches_are_refused_unless_allowed(batches, tmp_path):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for name in ("data_batch_2", "data_batch_5", "test_batch"):
        (folder / name).write_bytes(batches[name])
    checksums = {name: md5(content) for name, content in batches.items()}
    settings = {"root": str(tmp_path), "url": [no_server()], "md5": checksums, "validation": 0}
    message = refusal(CIFAR10(**settings))
    assert "data_batch_1" in message and "data.allow_partial=true" in message
    data = CIFAR10(allow_partial=True, **settings).load(0)
    assert np.array_equal(
        data.train.x,
        np.concatenate([cifar_batches()[name][0] for name in ("data_batch_2", "data_batch_5")]),
    )
    assert data.notes == {"partial": "8 of 50000 training images (data_batch_2, data_batch_5)"}
    (folder / "test_batch").unlink()
    assert "test_batch" in refusal(CIFAR10(allow_partial=True, **settings))
