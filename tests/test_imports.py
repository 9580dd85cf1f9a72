"""Large imports are not gone through for garbage, and leave Python's looks for it as they were."""

import gc
import subprocess
import sys
import weakref

import pytest

from fedsim.imports import without_collections


class Knot:
    """Garbage that only a collection finds."""

    def __init__(self) -> None:
        self.itself = self


@pytest.mark.parametrize("module", ["fedsim.Simulation", "fedsim.engine.ray.Ray", "fedsim.engine.inprocess.InProcess"])
def test_a_process_imports_without_collections_and_collects_afterwards(module):
    package, name = module.rsplit(".", 1)
    told = "gc.get_stats()[2]['collections'], gc.isenabled(), gc.get_freeze_count()"
    code = f"import gc; from {package} import {name}; import sys; sys.modules['torch']; print({told})"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found.split() == ["0", "True", "0"]


def test_names_are_looked_up_once_so_that_garbage_is_found_as_ever():
    code = """
import gc, fedsim
fedsim.Simulation
from fedsim.config.building import build
class Knot:
    left = 0
    def __init__(self): self.itself = self; Knot.left += 1
    def __del__(self): Knot.left -= 1
for _ in range(20_000):
    fedsim.Simulation
    try: build(None)
    except AttributeError: pass
    Knot()
print(Knot.left < 10_000)
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split() == ["True"]


def test_what_was_garbage_before_and_meanwhile_is_found_later():
    before, meanwhile = Knot(), None
    dead = [weakref.ref(before)]
    del before
    with without_collections():
        assert not gc.isenabled()
        meanwhile = Knot()
        dead.append(weakref.ref(meanwhile))
        del meanwhile
    assert gc.isenabled()
    gc.collect()
    assert [each() for each in dead] == [None, None]


def test_after_an_error_too():
    with pytest.raises(ImportError), without_collections():
        raise ImportError("no such module")
    assert gc.isenabled() and gc.get_freeze_count() == 0


def test_collections_that_the_user_has_off_stay_off_and_what_is_frozen_stays_frozen():
    try:
        gc.disable()
        with without_collections():
            assert not gc.isenabled()
        assert not gc.isenabled()
        gc.enable()
        gc.freeze()
        with without_collections():
            pass
        assert gc.isenabled() and gc.get_freeze_count() > 0
    finally:
        gc.unfreeze()
        gc.enable()
