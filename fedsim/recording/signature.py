"""Signatures: which run folders this user has made on this machine.

Anybody may have written a folder. The recorder signs the settings that it records, with a key that
only this user can read, so that own runs can be told from folders that somebody sent:

    signature = HMAC-SHA256(key, canonical JSON of the settings in config.yaml)

The key is made at its first use, in `$XDG_STATE_HOME/fedsim/key`, which without that variable is
`~/.local/state/fedsim/key`. Where it cannot be kept (no home that can be written, a system that is
not POSIX), runs are recorded without a signature. The settings alone are signed: what stands beside
config.yaml may have been changed since.
"""

from __future__ import annotations

import contextlib
import errno
import hmac
import json
import os
import secrets
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedsim.recording.files import plain
from fedsim.recording.no_links import read_inside

SIGNATURE = "signature"  # the file's name in a run folder
_KEY, _BYTES = "key", 32
_CLOSED = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)


def signature_of(config: Mapping[str, Any]) -> bytes | None:
    """The signature of recorded settings, as it stands in the file; None where there is no key."""
    try:
        key = own_key(make=True)
    except OSError:
        return None
    return _sign(key, config)


def is_signed(folder: Path, config: Mapping[str, Any]) -> bool:
    """Whether a folder's signature is this user's, made for `config`, the settings read from it."""
    try:
        given = read_inside(folder / SIGNATURE, 1000)
        return hmac.compare_digest(given, _sign(own_key(), config))
    except (OSError, ValueError, RecursionError):
        return False


def own_key(make: bool = False) -> bytes:
    """The user's key. make: if there is none yet.

    Raises OSError where there is none, or one that is not the user's alone: the key and its folder
    must be owned by the user and closed to everybody else, and no links are followed to them.
    """
    if os.name != "posix":
        raise OSError(errno.ENOTSUP, "there are no owners of files here")
    place = key_folder()
    if make:
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder = os.open(place, os.O_RDONLY | os.O_DIRECTORY | _CLOSED)
    try:
        _refuse_shared(os.fstat(folder))
        if make:
            _make_key(folder)
        return _read_key(folder)
    finally:
        os.close(folder)


def key_folder() -> Path:
    """Where the key is kept. Raises OSError for a user without a home."""
    given = os.environ.get("XDG_STATE_HOME", "")
    state = given if os.path.isabs(given) else os.path.expanduser("~/.local/state")
    if not os.path.isabs(state):
        raise OSError(errno.ENOENT, "there is no home", state)
    return Path(state) / "fedsim"


def _sign(key: bytes, config: Mapping[str, Any]) -> bytes:
    text = json.dumps(plain(config), sort_keys=True)
    return hmac.new(key, f"fedsim settings\n{text}".encode(), "sha256").hexdigest().encode() + b"\n"


def _make_key(folder: int) -> None:
    """Put a new key into a folder that has none. A link takes its name, which is refused where
    another process was first: both then read the same key, and never a part of one."""
    with contextlib.suppress(FileNotFoundError):
        os.stat(_KEY, dir_fd=folder, follow_symlinks=False)
        return
    name = f".{_KEY}.{secrets.token_hex(8)}.tmp"
    handle = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _CLOSED, 0o600, dir_fd=folder)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(secrets.token_bytes(_BYTES))
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(name, _KEY, src_dir_fd=folder, dst_dir_fd=folder)
    finally:
        os.unlink(name, dir_fd=folder)


def _read_key(folder: int) -> bytes:
    """The key in a folder; nothing that is no file is waited for. Raises OSError."""
    handle = os.open(_KEY, os.O_RDONLY | _CLOSED, dir_fd=folder)
    with os.fdopen(handle, "rb") as file:
        facts = os.fstat(handle)
        _refuse_shared(facts)
        key = file.read(_BYTES + 1)
    if not stat.S_ISREG(facts.st_mode) or len(key) != _BYTES:
        raise OSError(errno.EINVAL, "not a key of fedsim's")
    return key


def _refuse_shared(facts: os.stat_result) -> None:
    if facts.st_uid != os.geteuid() or facts.st_mode & 0o077:
        raise PermissionError(errno.EPERM, "not this user's alone")
