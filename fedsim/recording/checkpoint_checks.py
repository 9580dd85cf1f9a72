"""Whether the arrays of a checkpoint can be those of this run: NumPy would take many others, and
go on with nonsense."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fedsim.errors import cut, one_line
from fedsim.recording.checkpoint_file import BadCheckpoint
from fedsim.recording.totals import COUNTS

PARTS = ("rounds/", "pattern/")
_MODELS = "rounds/receivers/models"
_BOOK = {f"book/{name}": ("i", 0) for name in COUNTS}
_BOOK |= {"book/seconds": ("f", 1), "book/counts": ("i", 1), "book/curve": ("f", 2)}


def check_arrays(arrays: Mapping[str, np.ndarray], round: int, sizes: Mapping[str, int]) -> None:
    """Raise BadCheckpoint unless these can be the arrays of a run of these sizes after `round`
    rounds."""
    for name, array in arrays.items():
        form = array.dtype.kind, array.ndim
        wanted = ("f", 0) if name.startswith("book/latest/") else _BOOK.get(name)
        known = name.startswith(PARTS) or wanted is not None
        _refuse_unless(known, name, "is none of a run")
        fits = array.dtype.kind in "fiub" and wanted in (None, form)
        _refuse_unless(fits, name, f"is {array.dtype} of shape {array.shape}")
    for name in (_MODELS, *_BOOK):
        _refuse_unless(name in arrays, name, "is missing")
    models, shape = arrays[_MODELS], (sizes["receivers"], sizes["parameters"])
    what = f"is {models.dtype} of shape {models.shape}, not float32 of shape {shape}"
    _refuse_unless(models.dtype == np.float32 and models.shape == shape, _MODELS, what)
    for name in ("book/counts", *(f"book/{name}" for name in COUNTS)):
        _refuse_unless(not (arrays[name] < 0).any(), name, "is below 0")
    done = arrays["book/round"]
    _refuse_unless(done == round, "book/round", f"is {done}, and the checkpoint of round {round}")


def check_fit(part: str, now: Mapping[str, np.ndarray], given: Mapping[str, np.ndarray]) -> None:
    """Raise ValueError unless the `given` arrays can take the place of those that a part has
    `now`, before its first round."""
    for name, array in given.items():
        here = now.get(name)
        if here is not None and array.dtype.kind != np.asarray(here).dtype.kind:
            raise ValueError(f"{part}/{name} is {array.dtype}, not {np.asarray(here).dtype}")
    if part == "rounds":
        _check_rounds(now, given)


def _check_rounds(now: Mapping[str, np.ndarray], given: Mapping[str, np.ndarray]) -> None:
    names = {name for name in given if not name.startswith("plan/")}
    wanted = {name for name in now if not name.startswith("plan/")}
    if names != wanted:
        name = min(names ^ wanted)
        what = "missing" if name in wanted else "none of this run"
        raise ValueError(f"rounds/{cut(one_line(name))} is {what}")
    owners = given["owners"]
    if owners.ndim != 1 or (owners < 0).any() or (np.diff(owners) <= 0).any():
        raise ValueError("rounds/owners are not clients in order")
    for name in sorted(wanted):
        here, array = np.asarray(now[name]), given[name]
        kept = name.startswith(("owners", "client/"))
        shape = (len(owners), *here.shape[1:]) if kept else here.shape
        if array.dtype != here.dtype or array.shape != shape:
            found = f"{array.dtype} of shape {array.shape}"
            raise ValueError(f"rounds/{name} is {found}, not {here.dtype} of shape {shape}")


def _refuse_unless(right: bool, name: str, what: str) -> None:
    if not right:
        raise BadCheckpoint(f"its array {cut(one_line(name))} {what}")
