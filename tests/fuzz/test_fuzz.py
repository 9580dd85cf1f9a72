"""Bad input, a few hundred cases, the same each time; `experiments/faults/fuzz.py` runs as many as
are asked for."""

from __future__ import annotations

import pickle
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest

from fedsim.errors import ConfigError
from tests.fuzz.harness import Failure, Target, check_line, explore, run_case
from tests.fuzz.targets import all_targets

CASES = 10  # of a target with a share of 1
TARGETS = all_targets()


@pytest.mark.parametrize("target", TARGETS, ids=[target.name for target in TARGETS])
def test_every_case_is_valid_or_refused_in_one_line(target):
    tally = explore(target, max(4, round(CASES * target.share)))
    assert tally.cases >= 4 and tally.failed == 0


def _refuse(case, folder):
    raise ConfigError("key", case, "another")


def _write_and_refuse(case, folder):
    (folder / "left").touch()
    _refuse(case, folder)


def _memory(case, folder):
    try:
        np.zeros(1 << 40)
    except MemoryError:
        _refuse(case, folder)


def _warn_and_refuse(case, folder):
    np.array([1e300]).astype(np.float32)
    _refuse(case, folder)


FAULTS = {
    "ZeroDivisionError": lambda case, folder: 1 / 0,
    "SystemExit": lambda case, folder: exit(3),
    "leaves files behind": _write_and_refuse,
    "writes files": lambda case, folder: (folder / "new").touch(),
    "asks for memory": _memory,
    "warns beside a refusal": _warn_and_refuse,
    "must not make it do": lambda case, folder: _harmlessly(
        lambda: (folder.parent / "beside").touch()
    ),
    "does what input must not": lambda case, folder: _harmlessly(
        lambda: pickle.loads(pickle.dumps(Path("x")))
    ),
    "no clear line": lambda case, folder: check_line("two\nlines"),
}


def _harmlessly(act):
    try:
        act()
    except PermissionError:
        pass


@pytest.mark.parametrize("what", FAULTS)
def test_the_harness_sees_a_fault(what, tmp_path):
    place = tmp_path / "a"
    place.mkdir()
    with pytest.raises(Failure, match=what):
        run_case(Target("broken", st.none(), FAULTS[what]), None, place)
    assert not (tmp_path / "beside").exists()


def test_the_harness_takes_a_refusal(tmp_path):
    assert run_case(Target("fine", st.none(), _refuse), 3, tmp_path) == "key=3: another"
    assert run_case(Target("fine", st.none(), lambda case, folder: None), 3, tmp_path) == ""
