"""A checkpoint of somebody's making, with the SHA-256 that belongs to what it says: it is used only
if it can be one of this run."""

import shutil
from dataclasses import replace

import numpy as np
import pytest

from fedsim.algorithms import FedAU, FedSpeed
from fedsim.errors import ConfigError
from fedsim.network.topology import Ring
from fedsim.protocols import Walk
from fedsim.recording.checkpoint_file import BadCheckpoint, load, save
from fedsim.recording.checkpoints import Checkpoint
from tests.recording.test_checkpoint_resume import ROUNDS, hashes, simulation, stopped

# What clients keep, and what is kept per link
PARTS = {"client": FedSpeed(), "aggregator": FedAU()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run that was stopped after round 4, with checkpoints of rounds 3 and 4."""
    folder = tmp_path_factory.mktemp("facts") / "run"
    stopped(folder, 4, checkpoint=Checkpoint(every=3), **PARTS)
    return folder


@pytest.fixture(scope="module")
def whole():
    return hashes(simulation(**PARTS).run())


def rewritten(folder, target, facts=None, arrays=None):
    """A copy of a run folder, whose newest checkpoint says other facts and holds other arrays
    (None: not any more)."""
    shutil.copytree(folder, target)
    path = max((target / "checkpoints").iterdir())
    kept, said = load(path)
    kept = {name: array for name, array in {**kept, **(arrays or {})}.items() if array is not None}
    save(path, kept, replace(said, **(facts or {})))
    return target


DIGITS = "64 hexadecimal digits"
COUNT = "a whole number from 0"
FACTS = [
    *[("rows", value, COUNT) for value in ("1", -1, True, 1.0, None, [], 2**63)],
    *[("round", value, "a whole number from 1") for value in (-1, 0, "4", False, 4.0, None)],
    *[
        ("sizes", value, "whole numbers by name")
        for value in (None, [], 3, {"clients": "8"}, {"clients": True}, {"clients": -8})
    ],
    *[
        ("versions", value, "texts by name")
        for value in ([], None, "2", {"torch": 2}, {"torch": ["2"]})
    ],
    *[
        ("rows_sha256", value, DIGITS)
        for value in ("", "x" * 64, "0A" * 32, 0, None, "0" * 64 + "\n", "0" * 63)
    ],
    *[("settings", value, "a text") for value in (None, 1, [])],
]


@pytest.mark.parametrize(("fact", "value", "accepted"), FACTS)
def test_a_fact_of_another_type_or_range_is_named(folder, tmp_path, fact, value, accepted):
    run = rewritten(folder, tmp_path / "run", {fact: value})
    with pytest.raises(BadCheckpoint) as error:
        load(max((run / "checkpoints").iterdir()))
    said = str(error.value)
    assert said.startswith(f"its {fact} is {repr(value)[:50]}") and said.endswith(
        f", not {accepted}"
    )


@pytest.mark.parametrize(("fact", "value", "accepted"), {each[0]: each for each in FACTS}.values())
def test_where_a_fact_is_wrong_the_checkpoint_before_is_used(
    folder, whole, tmp_path, capsys, fact, value, accepted
):
    run = rewritten(folder, tmp_path / "run", {fact: value})
    result = simulation(run, **PARTS).run(resume=True)
    said = [line for line in capsys.readouterr().err.splitlines() if "fedsim" in line]
    assert len(said) == 1 and said[0].endswith(f", not {accepted}")
    assert f"round_000004.safetensors is not used: its {fact} is {repr(value)[:50]}" in said[0]
    assert hashes(result) == whole


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"format": True}, "its format is True, this fedsim reads 1"),
        ({"format": 1.0}, "its format is 1.0, this fedsim reads 1"),
        ({"format": ["\x1b[31m"]}, r"its format is ['\x1b[31m'], this fedsim reads 1"),
        ({"round": 10**9}, f"it is of round 1000000000, and the run has {ROUNDS} rounds"),
        ({"round": ROUNDS + 1}, f"it is of round {ROUNDS + 1}, and the run has {ROUNDS} rounds"),
        ({"round": 5}, "its array book/round is 4, and the checkpoint of round 5"),
        ({"rows": 10**9}, "metrics.jsonl no longer holds the rows it goes with"),
        ({"sizes": {"\n\x1b[2J" * 99: 1}}, "it is of 1 "),
    ],
)
def test_facts_that_cannot_be_those_of_this_run(folder, tmp_path, capsys, facts, message):
    simulation(rewritten(folder, tmp_path / "run", facts), **PARTS).run(resume=True)
    said = [line for line in capsys.readouterr().err.splitlines() if line]
    assert (
        len(said) == 1
        and f"round_000004.safetensors is not used: {message}" in said[0]
        and said[0].isprintable()
    )


def test_versions_are_shown_without_what_a_terminal_would_obey(folder, tmp_path, capsys):
    simulation(
        rewritten(folder, tmp_path / "run", {"versions": {"torch": "\x1b[2J\n9"}}), **PARTS
    ).run(resume=True)
    assert r"was written with torch \x1b[2J 9, here is" in capsys.readouterr().err


ARRAYS = {
    "another number of parameters": (
        {"rounds/receivers/models": np.zeros((1, 3), np.float32)},
        "rounds/receivers/models is float32",
    ),
    "models of whole numbers": (
        {"rounds/receivers/models": np.zeros((1, 15), np.int32)},
        "rounds/receivers/models is int32",
    ),
    "no models": ({"rounds/receivers/models": None}, "rounds/receivers/models is missing"),
    "no totals": ({"book/counts": None}, "book/counts is missing"),
    "totals of another kind": ({"book/counts": np.zeros(8)}, "book/counts is float64"),
    "totals below zero": ({"book/sent": np.array(-1)}, "book/sent is below 0"),
    "a curve of one dimension": (
        {"book/curve": np.zeros(4)},
        "book/curve is float64 of shape (4,)",
    ),
    "a name of no part": ({"other/x": np.zeros(1)}, "other/x is none of a run"),
    "a total that is none": ({"book/x": np.zeros(1)}, "book/x is none of a run"),
}


@pytest.mark.parametrize(("arrays", "message"), ARRAYS.values(), ids=ARRAYS)
def test_arrays_that_no_run_has_are_named_and_the_checkpoint_before_is_used(
    folder, whole, tmp_path, capsys, arrays, message
):
    result = simulation(rewritten(folder, tmp_path / "run", arrays=arrays), **PARTS).run(
        resume=True
    )
    assert f"round_000004.safetensors is not used: its array {message}" in capsys.readouterr().err
    assert hashes(result) == whole


MISFITS = {
    "owners from the end": {"rounds/owners": np.array([-1, -2, -3])},
    "an owner twice": {"rounds/owners": np.array([1, 1, 2])},
    "owners of real numbers": {"rounds/owners": np.array([0.0, 1.0])},
    "an unknown name": {"rounds/receivers/x": np.zeros(3)},
    "links of another length": {"rounds/links/x": np.zeros(3)},
    "the pattern of texts": {"pattern/on": np.zeros(8)},
}


@pytest.mark.parametrize("arrays", MISFITS.values(), ids=MISFITS)
def test_arrays_that_do_not_fit_the_parts_are_refused_in_one_line(folder, tmp_path, arrays):
    with pytest.raises(ConfigError, match=r"^resume=.*: its arrays do not fit \(") as error:
        simulation(rewritten(folder, tmp_path / "run", arrays=arrays), **PARTS).run(resume=True)
    assert "\n" not in str(error.value)


def test_what_clients_and_links_keep_is_of_their_shape(folder, tmp_path):
    arrays, _ = load(max((folder / "checkpoints").iterdir()))
    names = [name for name in arrays if name.startswith(("rounds/client/", "rounds/links/"))]
    assert {name.split("/")[1] for name in names} == {"client", "links"}
    for number, name in enumerate(names):
        for odd in (arrays[name][None], arrays[name].astype(np.float16)):
            run = rewritten(folder, tmp_path / f"{number}{odd.dtype}", arrays={name: odd})
            with pytest.raises(ConfigError, match=f"its arrays do not fit .*{name} is"):
                simulation(run, **PARTS).run(resume=True)


def test_tokens_of_a_walk_are_on_its_nodes(tmp_path):
    parts = {"protocol": Walk(), "topology": Ring()}
    stopped(tmp_path / "run", 3, **parts)
    for number, odd in enumerate((-1, 10**9)):
        position = np.full_like(
            load(max((tmp_path / "run" / "checkpoints").iterdir()))[0]["rounds/plan/position"], odd
        )
        run = rewritten(
            tmp_path / "run", tmp_path / str(number), arrays={"rounds/plan/position": position}
        )
        with pytest.raises(ConfigError, match="a token is on none of the 8 nodes"):
            simulation(run, **parts).run(resume=True)
