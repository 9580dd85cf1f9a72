"""The file of a checkpoint: what goes in comes out, and nothing else does."""

import json
import os
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from safetensors.numpy import load_file, save_file

from fedsim.recording.checkpoint_file import FORMAT, BadCheckpoint, Facts, load, save

FACTS = Facts(7, "key", 120, "0a" * 32, {"clients": 3}, {"torch": "2"})
ARRAYS = {
    "a/scalar": np.array(5),
    "b/empty": np.zeros((0, 4), np.float32),
    "c/odd": np.arange(3, dtype=np.uint8),
    "d/bool": np.array([True, False, True]),
    "e/wide": np.array([[np.nan, -0.0], [np.inf, 1e-300]]),
    "f/turned": np.arange(12, dtype=np.float32).reshape(3, 4).T[::2],
}


def saved(folder, facts=FACTS):
    path = folder / "round_000007.safetensors"
    save(path, ARRAYS, facts)
    return path


def test_arrays_and_facts_come_back_as_they_were(tmp_path):
    arrays, facts = load(saved(tmp_path))
    assert facts == FACTS and arrays.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert (arrays[name].dtype, arrays[name].shape) == (array.dtype, array.shape)
        assert arrays[name].tobytes() == np.ascontiguousarray(array).tobytes()
    assert os.listdir(tmp_path) == ["round_000007.safetensors"]


def test_any_safetensors_reader_reads_it(tmp_path):
    assert np.array_equal(load_file(saved(tmp_path))["f/turned"], ARRAYS["f/turned"])


def test_cut_off_anywhere_it_is_refused(tmp_path):
    path = saved(tmp_path)
    whole = path.read_bytes()
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(BadCheckpoint, match="cut off or damaged"):
            load(path)


@pytest.fixture(scope="module")
def module_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("checkpoint")


@settings(max_examples=100)
@given(place=st.integers(0, 10_000), mask=st.integers(1, 255))
def test_one_changed_byte_anywhere_is_noticed(module_folder, place, mask):
    path = saved(module_folder)
    whole = bytearray(path.read_bytes())
    whole[place % len(whole)] ^= mask
    path.write_bytes(whole)
    try:
        arrays, facts = load(path)
    except BadCheckpoint as error:
        assert "\n" not in str(error)
    else:  # spaces between the parts of the header mean nothing
        assert facts == FACTS and all(
            arrays[name].tobytes() == np.ascontiguousarray(ARRAYS[name]).tobytes()
            for name in ARRAYS
        )


def test_safetensors_of_others_and_other_formats_are_named(tmp_path):
    foreign = tmp_path / "foreign"
    save_file({"a": np.zeros(2)}, foreign)
    with pytest.raises(BadCheckpoint, match="it is no checkpoint of fedsim"):
        load(foreign)
    save_file({"a": np.zeros(2)}, foreign, {"fedsim_checkpoint": json.dumps([1])})
    with pytest.raises(BadCheckpoint, match="it is no checkpoint of fedsim"):
        load(foreign)
    with pytest.raises(
        BadCheckpoint, match=f"its format is {FORMAT + 1}, this fedsim reads {FORMAT}"
    ):
        load(saved(tmp_path, replace(FACTS, format=FORMAT + 1)))


@pytest.mark.parametrize(
    "content",
    [None, b"", b"PK\3\4 nonsense", b"\x80\x04K\x01."],
    ids=["a folder", "empty", "zip", "pickle"],
)
def test_what_is_no_safetensors_file_is_refused(tmp_path, content):
    path = tmp_path / "round_000001.safetensors"
    path.mkdir() if content is None else path.write_bytes(content)
    with pytest.raises(BadCheckpoint, match="cut off or damaged"):
        load(path)
