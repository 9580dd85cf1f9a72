"""Archives from a server: whatever it sends, only the files asked for are written, in the data
set's own folder, or nothing is."""

from __future__ import annotations

import functools
import hashlib
import io
import os
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from hypothesis import strategies as st

from fedsim.data import CIFAR10
from tests.data.formats import cifar_batches, python2_batch
from tests.fuzz.damage import edit, edits
from tests.fuzz.data_files import load
from tests.fuzz.harness import Failure, Target

BATCHES = {
    name: python2_batch(images[:2], labels[:2])
    for name, (images, labels) in cifar_batches().items()
}
MD5 = {name: hashlib.md5(content).hexdigest() for name, content in BATCHES.items()}
KINDS = {
    "file": tarfile.REGTYPE,
    "link": tarfile.SYMTYPE,
    "hard link": tarfile.LNKTYPE,
    "folder": tarfile.DIRTYPE,
}
KINDS |= {
    "pipe": tarfile.FIFOTYPE,
    "device": tarfile.CHRTYPE,
    "sparse": tarfile.GNUTYPE_SPARSE,
    "unknown": b"Z",
}

_member = st.tuples(
    st.sampled_from(["data_batch_1", "test_batch", "other", "..", ".", ""]),
    st.sampled_from(
        ["", "cifar-10-batches-py/", "../", "../../../", "/", "/tmp/", "a/../../", "./"]
    ),
    st.sampled_from(sorted(KINDS)),
    st.sampled_from(["../../up", "/etc/passwd", "data_batch_1", "."]),
    st.sampled_from([None, None, 0, 1, 8 << 30, 1 << 60]),  # a size that the header claims
)
_cases = st.tuples(
    st.lists(_member, max_size=3),
    st.booleans(),
    st.sampled_from(["w:gz", "w", "w:bz2", "w:xz"]),
    st.none() | edits(False),
)


def archive(members: list[tuple], whole: bool, mode: str) -> bytes:
    """A tar archive of odd members, before or without the true ones."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as tar:
        for name, folder, kind, target, claimed in members:
            info = tarfile.TarInfo(folder + name)
            info.type, info.linkname = KINDS[kind], target
            content = BATCHES.get(name, b"x")
            info.size = len(content) if kind in ("file", "sparse", "unknown") else 0
            if claimed is not None and kind == "file":
                info.size = claimed
                tar.fileobj.write(info.tobuf(tarfile.GNU_FORMAT))
                tar.fileobj.write(content.ljust(-(-len(content) // 512) * 512, b"\0"))
            else:
                tar.addfile(info, io.BytesIO(content))
        for name, content in BATCHES.items() if whole else ():
            info = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


class _Server(ThreadingHTTPServer):
    content = b""


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.server.content)))
        self.end_headers()
        self.wfile.write(self.server.content)

    def log_message(self, *_: object) -> None:
        pass


@functools.cache
def _server() -> _Server:
    os.environ["no_proxy"] = os.environ["NO_PROXY"] = "127.0.0.1"
    server = _Server(("127.0.0.1", 0), _Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    return server


def _download(case: tuple, folder: Path) -> None:
    members, whole, mode, damage = case
    content = archive(members, whole, mode)
    if isinstance(damage, tuple):
        content = edit(content, damage[1])
    server = _server()
    server.content = content
    load(
        CIFAR10(root=str(folder / "data"), url=[f"http://127.0.0.1:{server.server_port}"], md5=MD5)
    )
    found = {
        path.name: path.read_bytes()
        for path in (folder / "data").rglob("*")
        if path.is_file() and not path.is_symlink()
    }
    if found != BATCHES:
        raise Failure("keeps other files than were asked for", str(sorted(found)))


TARGETS = [Target("downloaded archives", _cases, _download, records=True)]
