"""Inputs that fedsim once did not survive, or took too seriously; one of each kind, through the
same harness as the fuzzed ones."""

from __future__ import annotations

import gzip
import io
import json
import lzma
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import strategies as st
from PIL import Image

from fedsim import Simulation, analysis
from fedsim.data import CIFAR10, Npz, Shakespeare, Synthetic
from fedsim.data.cifar import read_batch
from fedsim.data.partition import Iid
from fedsim.errors import ConfigError
from fedsim.models import MLP
from fedsim.network.topology import ErdosRenyi, GraphFile, StochasticBlocks
from fedsim.participation import Bernoulli, Trace
from fedsim.protocols import Gossip
from tests.data.formats import OFFLINE, cifar_batches, python2_batch, write_mosaic
from tests.fuzz.data_files import load, npz
from tests.fuzz.harness import Target, run_case
from tests.fuzz.tables_and_graphs import follow

LISTED = "%%MatrixMarket matrix coordinate real symmetric\n6 6 2\n2 1 1\n6 5 1"
DENSE = "%%MatrixMarket matrix array integer general\n1000000000000 1000000000000\n1\n"


def outcome(act, folder: Path, settings: bool = False) -> str:
    """ "" or the line of the refusal; Failure for anything else."""

    def run(case, place) -> None:
        act()

    return run_case(Target("found", st.none(), run, settings=settings), None, folder)


@pytest.mark.parametrize(
    ("ending", "valid"),
    [("\v", True), ("\n\f", True), (" ", True), ("\0\n", True), ("e", False), ("\0 2", False)],
)
def test_a_matrix_that_ends_the_process_in_scipys_reader(tmp_path, ending, valid):
    path = tmp_path / "g.mtx"
    path.write_text(LISTED + ending)
    line = outcome(lambda: GraphFile(str(path), allow_disconnected=True).adjacency(6, 0), tmp_path)
    assert line == "" if valid else "readable graph file" in line


def test_headers_that_ask_for_terabytes(tmp_path):
    (tmp_path / "g.mtx").write_text(DENSE)
    assert "promises" in outcome(
        lambda: GraphFile(str(tmp_path / "g.mtx")).adjacency(6, 0), tmp_path
    )
    header = (
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000, 4)}".ljust(117) + b"\n"
    )
    with zipfile.ZipFile(tmp_path / "big.npz", "w") as archive:
        archive.writestr("x.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
        archive.writestr("y.npy", b"")
    assert "header promises 16000000000000" in outcome(
        lambda: load(Npz(file=str(tmp_path / "big.npz"))), tmp_path
    )
    packed = bytearray(lzma.compress(npz(x=np.ones((4, 2)), y=np.arange(4) % 2)))
    assert packed[16] == 22  # the dictionary's size, 8 MiB: 40 is 4 GiB
    packed[16] = 40
    packed[20:24] = zlib_crc(packed[12:20])
    (tmp_path / "big.npz.xz").write_bytes(packed)
    assert "emory" in outcome(lambda: load(Npz(file=str(tmp_path / "big.npz.xz"))), tmp_path)


def zlib_crc(content: bytes) -> bytes:
    import zlib

    return zlib.crc32(content).to_bytes(4, "little")


@pytest.mark.parametrize(
    "opcodes", [b"\x80\x02}r\xff\xff\xff\x7f.", b"\x80\x04\x8e\x00\x00\x00\x00\x10\x00\x00\x00x."]
)
def test_a_pickle_that_asks_for_gigabytes(tmp_path, opcodes):
    (tmp_path / "data_batch_1").write_bytes(opcodes)  # a memo of 2^31 entries; bytes of length 2^36
    assert "not a readable CIFAR-10 batch" in outcome(
        lambda: read_batch(tmp_path / "data_batch_1"), tmp_path
    )


def test_a_picture_in_a_format_of_programs(tmp_path):
    for name, (images, labels) in cifar_batches().items():
        write_mosaic(tmp_path / "mosaic", name, images, labels)
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64)).save(buffer, "EPS")  # which Pillow opens with Ghostscript
    (tmp_path / "mosaic" / "test_batch.webp").write_bytes(buffer.getvalue())
    assert "not a readable picture" in outcome(
        lambda: load(CIFAR10(root=str(tmp_path), **OFFLINE)), tmp_path
    )


@pytest.mark.parametrize("put", [os.mkfifo, lambda path: path.symlink_to("/dev/zero"), Path.mkdir])
def test_what_is_no_file_is_not_read(tmp_path, put):
    for name, read in {
        "x.npz": lambda path: load(Npz(file=path)),
        "x.csv": lambda path: follow(Trace(file=path)),
        "x.txt": lambda path: GraphFile(path).adjacency(6, 0),
        "x.parquet": lambda path: follow(Bernoulli(given=path)),
    }.items():
        put(tmp_path / name)
        line = outcome(lambda read=read, path=str(tmp_path / name): read(path), tmp_path)
        assert "ot a regular file" in line or "Is a directory" in line


def test_a_table_is_not_fetched_from_the_web(tmp_path):
    assert "No such file" in outcome(
        lambda: follow(Trace(file="http://192.0.2.1/trace.csv")), tmp_path
    )


def test_halves_of_characters(tmp_path):
    content = {"users": ["A"], "user_data": {"A": {"raw": "\ud800" * 99}}}
    (tmp_path / "shakespeare_roles.json.gz").write_bytes(
        gzip.compress(json.dumps(content).encode())
    )
    assert "halves of characters" in outcome(
        lambda: load(Shakespeare(root=str(tmp_path), length=8)), tmp_path
    )


@pytest.mark.parametrize("value", [3e38, 1e-45])
def test_features_at_the_ends_of_float32(tmp_path, value):
    x = np.where(
        np.arange(40).reshape(20, 2) == 3, np.float32(value), np.float32(-value if value > 1 else 0)
    )
    np.savez(tmp_path / "x.npz", x=x, y=np.arange(20) % 2)
    assert (
        "accepted are finite ones up to"
        in outcome(lambda: load(Npz(file=str(tmp_path / "x.npz"))), tmp_path)
    ) == (value > 1)


CONFIGS = {
    "repeats parts": "a: &a [x,x]\nb: [*a,*a]\n",
    "a readable YAML file": "[" * 5000,
    "whole number `seed`": "seed: [1]\n",
    "mapping `choices`": "choices: {algorithm: [1]}\n",
    "a list of what was typed": "overrides: 3\n",
}


@pytest.mark.parametrize("says", CONFIGS)
def test_settings_of_a_run_folder_that_was_sent(tmp_path, says):
    run = tmp_path / "²"  # a digit, and no number
    run.mkdir()
    (run / "config.yaml").write_text(CONFIGS[says])
    (run / "metrics.jsonl").write_text("")
    assert says in outcome(lambda: analysis.load_runs(tmp_path), tmp_path)


def test_rows_out_of_range(tmp_path):
    (tmp_path / "config.yaml").write_text("seed: 1\n")
    row = {"round": 1, "scope": "server", "metric": "accuracy", "value": 1.0}
    for wrong in ({"node": 10**30}, {"round": 1e400}, {"round": -(2**63) - 1}):
        # Taken for a line that was cut off
        (tmp_path / "metrics.jsonl").write_text(f"{json.dumps(row)}\n{json.dumps(row | wrong)}")
        assert len(analysis.load_runs(tmp_path)) == 1
        (tmp_path / "metrics.jsonl").write_text(f"{json.dumps(row | wrong)}\n{json.dumps(row)}\n")
        assert "metrics.jsonl:1" in outcome(lambda: analysis.load_runs(tmp_path), tmp_path)


def simulation(**parts) -> Simulation:
    usual = {
        "data": Synthetic(samples=48, test=8, shape=[4]),
        "partition": Iid(clients=6),
        "model": MLP,
        "progress": False,
    }
    return Simulation(**{**usual, **parts})


@pytest.mark.parametrize(
    "topology", [ErdosRenyi(probability=1e-300), StochasticBlocks(p_in=1e-17, p_out=5e-324)]
)
def test_probabilities_that_vanish(tmp_path, topology):
    line = outcome(
        simulation(protocol=Gossip(), topology=topology).prepare, tmp_path, settings=True
    )
    assert line.startswith("topology.allow_disconnected=False")


def test_more_than_there_is_memory_for(tmp_path):
    data = Synthetic(samples=2**31 - 1, test=8, shape=[1000])
    assert outcome(simulation(data=data).prepare, tmp_path, settings=True).startswith(
        "memory='Unable to allocate"
    )
    with pytest.raises(ConfigError, match="less than or equal to 2147483647"):
        Synthetic(samples=2**31)


def test_a_message_is_one_short_line_that_no_terminal_obeys():
    text = str(ConfigError("key" * 1000, "\x1b[31m" * 1000, "\x1b]0;x\x07 a\nb " * 1000))
    assert text.isprintable() and len(text) < 1500


def test_a_batch_written_by_python_2_is_still_read(tmp_path):
    images, labels = cifar_batches()["test_batch"]
    (tmp_path / "test_batch").write_bytes(python2_batch(images, labels))
    found = read_batch(tmp_path / "test_batch")
    assert np.array_equal(found[0], images) and found[1].tolist() == labels
