"""Files of which a few bytes stand for a lot of memory: what they declare is compared with a bound
before memory is taken."""

import bz2
import gzip
import io
import lzma
import os
import subprocess
import sys
import tarfile
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fedsim import analysis, reading
from fedsim.data.download import extracted
from fedsim.data.files import read_bytes, read_json, read_npz
from fedsim.errors import ConfigError
from fedsim.network.graph_files import read_graph
from fedsim.participation.tables import read_table as read_user_table
from fedsim.reading import VARIABLE, bound_of, raised, read_file, read_unpacked
from fedsim.recording import files, metric_rows as rows, read_table
from fedsim.recording.checkpoint_file import BadCheckpoint, Facts, load, save
from fedsim.recording.files import read_json as read_run_json, read_yaml
from fedsim.recording.metric_rows import COLUMNS, Rows

ZEROS = bytes(1 << 22)  # 4 MiB
ALLOWED = f"the environment variable {VARIABLE}=1 allows it"


@pytest.fixture
def small_memory(monkeypatch):
    """A machine on which a file may fill 1 MiB."""
    monkeypatch.setattr(reading, "bound_of", lambda share: raised(1 << 20))
    monkeypatch.setattr("fedsim.data.files.bound_of", lambda share: raised(1 << 20))
    monkeypatch.setattr("fedsim.participation.tables.bound_of", lambda share: raised(1 << 20))
    monkeypatch.setattr("fedsim.recording.no_links.bound_of", lambda share: raised(1 << 20))


def parquet_of(path, count, **changed):
    """Metric rows that are all the same: a few kilobytes, whatever their number is."""
    codes = pa.array(np.zeros(count, np.int8))
    zeros = {
        name: np.zeros(count, kind)
        for name, kind in (("round", int), ("clock", float), ("node", int), ("value", float))
    }
    texts = {
        name: pa.DictionaryArray.from_arrays(codes, pa.array([name]))
        for name in ("scope", "metric")
    }
    table = {**zeros, **texts, **changed}
    pq.write_table(pa.table({name: table[name] for name in (*COLUMNS, *changed)}), path)


def refused(call, *texts):
    with pytest.raises(ConfigError) as error:
        call()
    said = str(error.value)
    assert "\n" not in said and all(text in said for text in texts), said


# ------------------------------------------------------------------------------------------------
# the bound


def test_the_bound_follows_the_free_memory_and_the_variable_raises_it(monkeypatch):
    monkeypatch.setattr("psutil.virtual_memory", lambda: type("Memory", (), {"available": 8 << 30}))
    monkeypatch.delenv(VARIABLE, raising=False)
    assert (bound_of(0.5), raised(5)) == (4 << 30, 5)
    monkeypatch.setenv(VARIABLE, "2.5")
    assert (bound_of(0.5), raised(5)) == (4 << 30, 2_500_000_000)
    for wrong in ("much", "-1", "0", "nan", "inf"):
        monkeypatch.setenv(VARIABLE, wrong)
        refused(
            lambda: raised(5), f"{VARIABLE}='{wrong}': accepted is a number of gigabytes above 0"
        )


def test_a_file_is_as_large_as_it_may_be(tmp_path):
    (tmp_path / "a").write_bytes(b"12345")
    assert read_file(tmp_path / "a", 5) == b"12345"
    with pytest.raises(
        OSError, match="it stands for 5 bytes, and at most 4 bytes are read here"
    ) as error:
        read_file(tmp_path / "a", 4)
    assert ALLOWED in str(error.value)
    os.truncate(tmp_path / "a", 1 << 43)  # takes no space on the disk
    with pytest.raises(OSError, match=r"8\.8e\+03 GB"):
        read_file(tmp_path / "a")


PACKERS = {"gzip": gzip.compress, "bzip2": bz2.compress, "xz": lzma.compress}


@pytest.mark.parametrize("pack", PACKERS.values(), ids=PACKERS)
def test_compressed_files_are_unpacked_up_to_the_bound(tmp_path, small_memory, monkeypatch, pack):
    (tmp_path / "a").write_bytes(pack(ZEROS))
    refused(
        lambda: read_bytes(tmp_path / "a"),
        "a is too large: it stands for ",
        "and at most 1.05 MB are read here",
        ALLOWED,
    )
    monkeypatch.setenv(VARIABLE, "1")
    assert read_bytes(tmp_path / "a") == ZEROS


@pytest.mark.parametrize("pack", PACKERS.values(), ids=PACKERS)
def test_what_is_unpacked_piece_by_piece_is_what_the_library_unpacks(tmp_path, pack):
    parts = [np.random.default_rng(seed).bytes(100_000) for seed in range(3)]
    for content in (b"", parts[0], b"".join(parts), bytes((2 << 20) + 1)):
        (tmp_path / "a").write_bytes(pack(content))
        assert read_unpacked(tmp_path / "a") == content
    (tmp_path / "a").write_bytes(b"".join(map(pack, parts)))  # one stream after the other
    assert read_unpacked(tmp_path / "a") == b"".join(parts)
    (tmp_path / "a").write_bytes(pack(parts[0])[:-20])
    with pytest.raises(reading.UNREADABLE):
        read_unpacked(tmp_path / "a")


# ------------------------------------------------------------------------------------------------
# data


def test_an_archive_of_arrays_says_how_large_they_are(tmp_path, small_memory, monkeypatch):
    np.savez_compressed(
        tmp_path / "a.npz", **{f"x{number}": np.zeros(100_000) for number in range(4)}
    )
    assert (tmp_path / "a.npz").stat().st_size < 1 << 14
    refused(lambda: read_npz(tmp_path / "a.npz", []), "a.npz is too large: it stands for 3.2 MB")
    monkeypatch.setenv(VARIABLE, "1")
    assert len(read_npz(tmp_path / "a.npz", [])) == 4


def test_an_archive_whose_array_promises_more_than_it_holds(tmp_path):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<f8", "fortran_order": False, "shape": (10**15,)}
    )
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x.npy", header.getvalue())
    refused(lambda: read_npz(tmp_path / "a.npz", ["x"]), "its header promises 8000000000000000")


def test_text_has_tighter_bounds_as_it_becomes_objects(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "psutil.virtual_memory", lambda: type("Memory", (), {"available": 16 << 20})
    )
    monkeypatch.delenv(VARIABLE, raising=False)
    (tmp_path / "a.json").write_bytes(b"[" + b"0," * (1 << 18) + b"0]")
    (tmp_path / "a.csv").write_bytes(b"1,2\n" * (1 << 17))
    refused(
        lambda: read_json(tmp_path / "a.json"),
        "a.json is too large: it stands for 524 kB, and at most 262 kB are read here",
    )
    refused(lambda: read_graph(str(tmp_path / "a.csv")), "topology.path=", "it stands for 524 kB")
    (tmp_path / "trace.csv").write_bytes(b"round,client\n" + b"0,1\n" * (1 << 20))
    refused(
        lambda: read_user_table(
            str(tmp_path / "trace.csv"), "participation.file", ("round", "client")
        ),
        "it stands for 4.19 MB",
    )


def test_a_trace_of_many_rows_in_few_bytes(tmp_path, small_memory, monkeypatch):
    pq.write_table(
        pa.table({name: np.zeros(200_000, int) for name in ("round", "client")}),
        tmp_path / "a.parquet",
    )
    assert (tmp_path / "a.parquet").stat().st_size < 1 << 14

    def read():
        return read_user_table(
            str(tmp_path / "a.parquet"), "participation.file", ("round", "client")
        )

    refused(read, "participation.file=", "it stands for 6.4 MB, and at most 1.05 MB are read here")
    monkeypatch.setenv(VARIABLE, "1")
    assert [column.shape for column in read()] == [(200_000,)] * 2


def test_columns_of_a_table_that_are_not_asked_for_are_not_read(tmp_path):
    # 4 GB
    huge = pa.DictionaryArray.from_arrays(pa.array(np.zeros(20_000, np.int8)), ["x" * 200_000])
    pq.write_table(
        pa.table({"round": np.arange(20_000), "client": np.arange(20_000), "text": huge}),
        tmp_path / "a.parquet",
    )
    assert (
        len(read_user_table(str(tmp_path / "a.parquet"), "participation.file", ("round", "client")))
        == 2
    )


def test_a_header_in_a_downloaded_archive_cannot_ask_for_memory(tmp_path, small_memory):
    member = tarfile.TarInfo("x")
    member.type, member.size = tarfile.XHDTYPE, len(ZEROS)
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(member.tobuf() + ZEROS))
    refused(
        lambda: extracted({}, ["x"])(tmp_path / "a.tar.gz", tmp_path),
        "is too large: it stands for ",
    )


# ------------------------------------------------------------------------------------------------
# run folders


def test_metric_rows_that_take_few_bytes_and_much_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(rows, "MOST_ROWS", 1 << 20)
    parquet_of(tmp_path / "metrics.parquet", 100_000)
    (tmp_path / "metrics.jsonl").write_bytes(b"")  # is not read in its place
    assert (tmp_path / "metrics.parquet").stat().st_size < 1 << 14
    refused(
        lambda: read_table(tmp_path),
        "metrics.parquet",
        "it stands for 9.6 MB, and at most 1.05 MB are read here",
        ALLOWED,
    )
    monkeypatch.setenv(VARIABLE, "1")
    assert len(read_table(tmp_path)) == 100_000


def test_a_long_text_that_is_said_of_every_row(tmp_path, monkeypatch):
    monkeypatch.setattr(rows, "MOST_ROWS", 1 << 20)
    long = pa.DictionaryArray.from_arrays(pa.array(np.zeros(2_000, np.int8)), ["x" * 10_000])
    parquet_of(tmp_path / "metrics.parquet", 2_000, metric=long)
    refused(lambda: read_table(tmp_path), "it stands for 20 MB")


@pytest.mark.parametrize(
    "column", [[[1, 2]], [{"a": 1}], [b"x"]], ids=["lists", "structures", "bytes"]
)
def test_columns_of_other_types_are_refused(tmp_path, column):
    parquet_of(tmp_path / "metrics.parquet", 1, value=column)
    refused(lambda: read_table(tmp_path), "its column value is of type ")


def test_rows_settings_and_states_have_bounds(tmp_path, monkeypatch):
    monkeypatch.setattr(rows, "MOST_ROWS", 999)
    monkeypatch.setattr(files, "MOST_YAML", 999)
    monkeypatch.setattr(files, "MOST_JSON", 999)
    for name, read in (
        ("metrics.jsonl", analysis.load_runs),
        ("config.yaml", analysis.load_runs),
        ("status.json", analysis.load_runs),
    ):
        folder = tmp_path / name
        folder.mkdir()
        for other in ("metrics.jsonl", "config.yaml", "status.json"):
            (folder / other).write_bytes(b"{}")
        (folder / name).write_bytes(b" " * 1000)
        refused(
            lambda read=read, folder=folder: read(folder),
            name,
            "it stands for 1 kB, and at most 999 bytes are read here",
            ALLOWED,
        )
    for read, name in ((read_yaml, "config.yaml"), (read_run_json, "status.json")):
        refused(lambda read=read, name=name: read(tmp_path / name / name), "it stands for 1 kB")


def test_rows_read_from_a_bounded_file_are_those_written(tmp_path):
    table = Rows()
    for number in range(50):
        table.append(
            {
                "round": number,
                "clock": number / 7,
                "scope": "server",
                "metric": "loss" if number % 2 else "",
                "value": np.nan,
            }
        )
    (tmp_path / "metrics.parquet").write_bytes(table.parquet())
    found = read_table(tmp_path)
    assert found.equals(table.table()) and (found.dtypes == table.table().dtypes).all()


def test_a_checkpoint_larger_than_the_memory(tmp_path, small_memory):
    path = tmp_path / "round_000001.safetensors"
    save(path, {"a": np.zeros(1)}, Facts(1, "", 0, "0" * 64, {}, {}))
    os.truncate(path, 1 << 40)
    with pytest.raises(BadCheckpoint, match="it stands for 1.1e.03 GB, and at most"):
        load(path)


def test_memory_is_not_taken_before_the_refusal(tmp_path):
    """Five million rows would take half a gigabyte; the process may grow by a tenth of it."""
    (tmp_path / "config.yaml").write_bytes(b"{}")
    parquet_of(tmp_path / "metrics.parquet", 5_000_000)
    assert (tmp_path / "metrics.parquet").stat().st_size < 1 << 20
    (tmp_path / "bomb.gz").write_bytes(gzip.compress(ZEROS * 16))  # 64 MiB
    script = f"""
import resource, pandas, pyarrow.parquet, pyarrow.compute
from fedsim import analysis, reading
from fedsim.errors import ConfigError
from fedsim.recording import metric_rows as rows
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
rows.MOST_ROWS = 1 << 28
try:
    analysis.load_runs({str(tmp_path)!r})
except ConfigError as error:
    print(error)
reading.bound_of = lambda share: 1 << 20
try:
    reading.read_unpacked({str(tmp_path / "bomb.gz")!r})
except OSError as error:
    print(error)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    environment = {name: value for name, value in os.environ.items() if name != VARIABLE}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=True
    )
    first, second, grown = done.stdout.splitlines()
    assert "it stands for 480 MB" in first and "it stands for 2.1 MB" in second, done.stdout
    assert int(grown) < 50_000  # KiB
