"""Downloading the original files of a data set: whole and verified, or not at all."""

from __future__ import annotations

import gzip
import io
import logging
import lzma
import os
import tarfile
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from fedsim.component import component
from fedsim.data.files import FileSource, absent, check_md5, read_bytes
from fedsim.errors import ConfigError, require

_LARGEST = 1 << 28  # bytes of a file in an archive; a sparse one can claim any size
_TIMEOUT = (10, 60)  # seconds: to connect, between two pieces
log = logging.getLogger(__name__)

Unpack = Callable[[Path, Path], list[Path]]
"""(downloaded file, empty folder) -> the verified files to keep; raises ValueError with the
reason where they are not as expected."""


@component
class DownloadSource(FileSource):
    """Base of the data sets that can be downloaded.

    url: web addresses of folders that hold the original files, tried in turn; an empty list forbids
    downloading; md5: name of each file (or batch in an archive) -> md5 of its uncompressed bytes.
    Files without one are neither checked nor downloaded.
    """

    url: list[str] = Field(default_factory=list)
    md5: dict[str, str] = Field(default_factory=dict)

    # Below root, where the files are looked for; downloads go into the first
    _folders: ClassVar[tuple[str, ...]] = (".",)

    def __post_init__(self) -> None:
        for address in self.url:
            require(
                address.startswith(("http://", "https://")),
                f"{type(self).__name__}.url",
                address,
                "addresses that start with http:// or https://",
            )

    def download(
        self, name: str, folder: Path, unpack: Unpack, wanted: str = "", note: str = ""
    ) -> list[Path]:
        """Fetch the file `name`, unpack and verify it, and move what that gives into `folder`,
        which is made where need be.

        Where no address gives the expected content, nothing is left behind and a ConfigError says
        that the `wanted` file (`name` unless given) is not there, with `note` at its end.
        """
        root = self.root_folder()
        reasons: list[str] = []
        try:
            existing = next(parent for parent in (folder, *folder.parents) if parent.is_dir())
            # On the same disk, so that moving is atomic
            with tempfile.TemporaryDirectory(prefix=".fedsim-", dir=existing) as scratch:
                for address in self.url:
                    try:
                        files = _fetch(
                            f"{address.rstrip('/')}/{name}", Path(scratch) / name, unpack
                        )
                    except _failures() as error:
                        reasons.append(f"{address}: {_reason(error)}")
                        continue
                    folder.mkdir(parents=True, exist_ok=True)
                    for file in files:
                        os.replace(file, folder / file.name)
                    return [folder / file.name for file in files]
        except OSError as error:
            raise ConfigError(
                "data.root", str(root), f"{name} cannot be stored there: {error.strerror or error}"
            ) from None
        why = "; ".join(reasons) or "data.url gives no address"
        raise absent(
            root, wanted or name, self._folders, f"; it could not be downloaded ({why}){note}"
        )


def _fetch(address: str, target: Path, unpack: Unpack) -> list[Path]:
    import pooch

    log.info("downloading %s", address)
    pooch.HTTPDownloader(progressbar=False, chunk_size=1 << 16, timeout=_TIMEOUT)(
        address, str(target), None
    )
    folder = target.with_name(target.name + ".unpacked")
    folder.mkdir(exist_ok=True)
    return unpack(target, folder)


def _failures() -> tuple[type[Exception], ...]:
    import requests

    return (
        requests.RequestException,
        ConfigError,
        ValueError,
        EOFError,
        tarfile.TarError,
        gzip.BadGzipFile,
        zlib.error,
        lzma.LZMAError,
    )


def _reason(error: Exception) -> str:
    import requests

    if isinstance(error, requests.HTTPError) and error.response is not None:
        return f"the server answers {error.response.status_code} {error.response.reason}"
    if isinstance(error, requests.Timeout):
        return "no answer in time"
    if isinstance(error, requests.ConnectionError):
        return "no connection"
    text = error.accepted if isinstance(error, ConfigError) else str(error)
    return (text.splitlines() or [type(error).__name__])[0][:200]


def verified(md5: dict[str, str], name: str) -> Unpack:
    """Unpack for a file kept as it was downloaded: its uncompressed bytes must have the md5 of
    `name`."""

    def unpack(file: Path, folder: Path) -> list[Path]:
        fault = check_md5(read_bytes(file), md5[name])
        if fault:
            raise ValueError(f"{name} {fault}; refused")
        return [file]

    return unpack


def extracted(md5: dict[str, str], names: list[str]) -> Unpack:
    """Unpack for a tar archive: the members with one of the `names`, each of its md5. Nothing else
    is written."""

    def unpack(file: Path, folder: Path) -> list[Path]:
        kept = {}
        # Unpacked here: tarfile would take the memory that a compressed header asks for
        with tarfile.open(fileobj=io.BytesIO(read_bytes(file)), mode="r:") as archive:
            for member in archive:
                name = Path(member.name).name
                if name in names and member.isfile() and member.size <= _LARGEST:
                    content = archive.extractfile(member).read()
                    fault = check_md5(content, md5.get(name))
                    if fault:
                        raise ValueError(f"{name} in {file.name} {fault}; refused")
                    kept[name] = folder / name
                    kept[name].write_bytes(content)
        missing = [name for name in names if name not in kept]
        if missing:
            raise ValueError(f"{file.name} does not hold {', '.join(missing)}")
        return [kept[name] for name in names]

    return unpack
