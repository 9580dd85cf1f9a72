"""Damaged files: sets of valid files, of which one or two are cut, overwritten, extended, replaced
by something that is no file, ..."""

from __future__ import annotations

import gzip
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from tests.fuzz.harness import Target
from tests.fuzz.values import TOKENS

_WORD = re.compile(rb"[^\s,;:<>()\[\]{}\"'=]+")
_EXTREMES = [
    0,
    1,
    0x7F,
    0xFF,
    0xFFFF,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**40,
    2**62,
    2**63 - 1,
    2**64 - 1,
]
PLACES = ("missing", "folder", "pipe", "loop", "endless")  # what lies where a file should be

_at = st.integers(0, 2**20)
_EDITS = st.one_of(
    st.tuples(st.just("cut"), _at),
    st.tuples(st.just("flip"), _at, st.integers(0, 7)),
    st.tuples(st.just("insert"), _at, st.binary(min_size=1, max_size=12)),
    st.tuples(st.just("overwrite"), _at, st.binary(min_size=1, max_size=12)),
    st.tuples(st.just("delete"), _at, st.integers(1, 64)),
    st.tuples(st.just("repeat"), _at, st.integers(1, 200)),
    st.tuples(
        st.just("number"),
        _at,
        st.sampled_from([1, 2, 4, 8]),
        st.sampled_from(["little", "big"]),
        st.sampled_from(_EXTREMES),
    ),
)
_WORDS = st.tuples(
    st.just("word"),
    _at,
    st.sampled_from(TOKENS).map(lambda text: text.encode("utf-8", "surrogatepass")),
)


def content_edits(text: bool) -> st.SearchStrategy:
    """What is done to one file: a list of edits, of its content inside a .gz or of its bytes. text:
    edits also replace words."""
    return st.tuples(
        st.sampled_from(["inside", "bytes"]),
        st.lists(_WORDS | _EDITS if text else _EDITS, min_size=1, max_size=3),
    )


def edits(text: bool) -> st.SearchStrategy:
    """As `content_edits`, or what lies in the file's place."""
    return content_edits(text) | st.sampled_from(PLACES)


def edit(content: bytes, steps: list[tuple]) -> bytes:
    """`content` after the steps; positions are taken modulo its length."""
    for kind, at, *more in steps:
        place = at % (len(content) + 1)
        if kind == "word":
            words = list(_WORD.finditer(content))
            if words:
                start, end = words[at % len(words)].span()
                content = content[:start] + more[0] + content[end:]
        elif kind == "cut":
            content = content[:place]
        elif kind == "flip" and place < len(content):
            content = (
                content[:place] + bytes([content[place] ^ 1 << more[0]]) + content[place + 1 :]
            )
        elif kind == "insert":
            content = content[:place] + more[0] + content[place:]
        elif kind == "overwrite":
            content = content[:place] + more[0] + content[place + len(more[0]) :]
        elif kind == "delete":
            content = content[:place] + content[place + more[0] :]
        elif kind == "repeat":
            content = (
                content[:place] + content[place : place + more[0]] * 2 + content[place + more[0] :]
            )
        elif kind == "number":
            size, order, value = more
            content = (
                content[:place]
                + (value % 256**size).to_bytes(size, order)
                + content[place + size :]
            )
    return content


def put_files(originals: Mapping[str, bytes], damage: Mapping[str, Any], folder: Path) -> None:
    """Write the originals below `folder`, those that `damage` names with their edits."""
    for name, content in originals.items():
        path, done = folder / name, damage.get(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        if done is None:
            path.write_bytes(content)
        elif done == "folder":
            path.mkdir()
        elif done == "pipe":
            os.mkfifo(path)
        elif done == "loop":
            path.symlink_to(path.name)
        elif done == "endless":
            path.symlink_to("/dev/zero")
        elif done != "missing":
            level, steps = done
            inside = level == "inside" and content[:2] == b"\x1f\x8b"
            path.write_bytes(
                gzip.compress(edit(gzip.decompress(content), steps), 1, mtime=0)
                if inside
                else edit(content, steps)
            )


def damaged_files(
    name: str,
    originals: Callable[[], dict[str, bytes]],
    read: Callable[[Path], Any],
    text: bool = False,
    share: float = 1.0,
) -> Target:
    """A target: `read(folder)` of these files, one or two of them damaged."""
    files = originals()
    cases = st.dictionaries(st.sampled_from(sorted(files)), edits(text), min_size=1, max_size=2)
    return Target(
        name,
        cases,
        lambda case, folder: read(folder),
        lambda case, folder: put_files(files, case, folder),
        share=share,
    )
