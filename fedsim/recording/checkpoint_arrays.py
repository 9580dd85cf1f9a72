"""Whether the arrays of a checkpoint can be those of this run: NumPy would take many others, and go on with nonsense."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fedsim.errors import cut, one_line
from fedsim.recording.book import COUNTS
from fedsim.recording.checkpoint_file import BadCheckpoint

PARTS = ("rounds/", "pattern/", "book/")
_MODELS = "rounds/receivers/models"
_BOOK = {"book/seconds": ("f", 1), "book/counts": ("i", 1), "book/curve": ("f", 2)} | {f"book/{name}": ("i", 0) for name in COUNTS}


def check_arrays(arrays: Mapping[str, np.ndarray], round: int, sizes: Mapping[str, int]) -> None:
    """Raise BadCheckpoint unless these can be the arrays of a run of these sizes after `round` rounds."""
    for name, array in arrays.items():
        kind, dimensions = ("f", 0) if name.startswith("book/latest/") else _BOOK.get(name, (array.dtype.kind, array.ndim))
        known = name.startswith(PARTS) and (not name.startswith("book/") or name in _BOOK or name.startswith("book/latest/"))
        _refuse_unless(known, name, "is none of a run")
        fits = array.dtype.kind in "fiub" and (array.dtype.kind, array.ndim) == (kind, dimensions)
        _refuse_unless(fits, name, f"is {array.dtype} of shape {array.shape}")
    for name in (_MODELS, *_BOOK):
        _refuse_unless(name in arrays, name, "is missing")
    models, wanted = arrays[_MODELS], (sizes["receivers"], sizes["parameters"])
    what = f"is {models.dtype} of shape {models.shape}, not float32 of shape {wanted}"
    _refuse_unless(models.dtype == np.float32 and models.shape == wanted, _MODELS, what)
    for name in ("book/counts", *(f"book/{name}" for name in COUNTS)):
        _refuse_unless(not (arrays[name] < 0).any(), name, "is below 0")
    _refuse_unless(arrays["book/round"] == round, "book/round", f"is {arrays['book/round']}, and the checkpoint of round {round}")


def check_fit(part: str, now: Mapping[str, np.ndarray], given: Mapping[str, np.ndarray]) -> None:
    """Raise ValueError unless the `given` arrays can take the place of those that a part has `now`, before its first round."""
    for name, array in given.items():
        here = now.get(name)
        if here is not None and array.dtype.kind != np.asarray(here).dtype.kind:
            raise ValueError(f"{part}/{name} is {array.dtype}, not {np.asarray(here).dtype}")
    if part == "rounds":
        _check_rounds(now, given)


def _check_rounds(now: Mapping[str, np.ndarray], given: Mapping[str, np.ndarray]) -> None:
    names, wanted = ({name for name in each if not name.startswith("plan/")} for each in (given, now))
    if names != wanted:
        name = min(names ^ wanted)
        raise ValueError(f"rounds/{cut(one_line(name))} is {'missing' if name in wanted else 'none of this run'}")
    owners = given["owners"]
    if owners.ndim != 1 or (owners < 0).any() or (np.diff(owners) <= 0).any():
        raise ValueError("rounds/owners are not clients in order")
    for name in sorted(wanted):
        here, array = np.asarray(now[name]), given[name]
        shape = (len(owners), *here.shape[1:]) if name.startswith(("owners", "client/")) else here.shape
        if array.dtype != here.dtype or array.shape != shape:
            raise ValueError(f"rounds/{name} is {array.dtype} of shape {array.shape}, not {here.dtype} of shape {shape}")


def _refuse_unless(right: bool, name: str, what: str) -> None:
    if not right:
        raise BadCheckpoint(f"its array {cut(one_line(name))} {what}")
