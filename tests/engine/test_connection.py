"""The line between the driver and a worker on its machine: what goes over it, and how it breaks."""

import os
import pickle
import signal
import socket
import struct
import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest

from fedsim.engine.connection import answered, dial, listener
from fedsim.engine.processes import Hosted, killed_for_memory
from fedsim.engine.ray import Ray
from fedsim.engine.ray_session import BrokenLine, RaySession
from tests.helpers import blobs_simulation
from tests.paths import REPOSITORY

ECHO = """
import sys
from pathlib import Path
from fedsim.engine.connection import answered, listener
line = listener(Path(sys.argv[1]))
print("listens", flush=True)
line = answered(line)
while True:
    line.send_bytes(line.recv_bytes())
"""


class OutOfMemory(Exception):
    """In place of Ray's."""


@pytest.fixture
def worker(tmp_path):
    """A process that answers everything on the line at `tmp_path / "line"` with the same again."""
    command = [sys.executable, "-c", ECHO, str(tmp_path / "line")]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "listens\n"
        yield process
        process.kill()


def test_messages_of_any_size_come_back_until_the_worker_ends(worker, tmp_path):
    with dial(tmp_path / "line", None) as line:
        for size in (0, 1, 10_000_000):
            message = os.urandom(size)
            line.send_bytes(message)
            assert line.recv_bytes() == message
        worker.kill()
        with pytest.raises((EOFError, OSError)):
            line.recv_bytes()


def test_a_worker_that_stops_in_the_middle_of_a_message_is_given_up(worker, tmp_path):
    """More than a socket holds is sent to a stopped process; without the limit this would wait for
    ever, here until it is killed."""
    with dial(tmp_path / "line", 0.5) as line:
        worker.send_signal(signal.SIGSTOP)
        killer = threading.Timer(60, worker.kill)
        killer.start()
        with pytest.raises(BlockingIOError):
            line.send_bytes(bytes(10_000_000))
        killer.cancel()


def test_a_line_has_one_caller_and_a_place_can_be_taken_again(tmp_path):
    path = tmp_path / "line"
    with pytest.raises(OSError):
        dial(path, None)
    with socket.socket(socket.AF_UNIX) as abandoned:
        abandoned.bind(str(path))
    present = listener(path)
    with dial(path, None) as driver, answered(present) as worker:
        assert not path.exists()  # so the session's folder may go before the worker does
        worker.send_bytes(b"here")
        assert driver.recv_bytes() == b"here"
        with pytest.raises(OSError):
            dial(path, None)


def test_a_worker_that_stops_in_the_middle_of_its_answer_is_given_up_and_said_to_hang(tmp_path):
    present = listener(tmp_path / "line")
    with dial(tmp_path / "line", 0.5) as driver, answered(present) as worker:
        os.write(worker.fileno(), struct.pack("!i", 100) + b"only the beginning")
        late = threading.Timer(60, worker.close)
        late.start()
        session = session_of(hang_seconds=0.5)
        with pytest.raises(BrokenLine) as error:
            session.answer(driver)
        late.cancel()
        assert (
            session.reason(Hosted(0, None), error.value)
            == "it hung in the middle of an answer for 0.5 s"
        )


@pytest.mark.parametrize("patience", [1e-9, 0.9999999, 1e12])
def test_any_patience_can_be_set(worker, tmp_path, patience):
    dial(tmp_path / "line", patience).close()


@pytest.mark.parametrize(
    ("known", "said"),
    [
        (OutOfMemory("killed"), "out of memory; lower engine.workers, "),
        (RuntimeError("the node was low on memory"), "out of memory; lower engine.workers, "),
        (TimeoutError(), "its process was killed or crashed"),
        (None, "its process was killed or crashed"),
    ],
)
def test_why_a_line_broke_is_asked_of_ray(known, said):
    session = session_of()

    def get(reference, timeout):
        assert reference == "serving" and timeout > 0
        if known is not None:
            raise known

    session.ray.get = get
    assert session.reason(Hosted(0, None, serving="serving"), BrokenLine()).startswith(said)


def test_what_is_ready_is_found_even_when_there_is_no_time_left(tmp_path):
    """One worker with a line that is silent, one with a call that has come back: it must not be
    taken for one that hangs."""
    present = listener(tmp_path / "line")
    with dial(tmp_path / "line", None) as driver, answered(present) as worker:
        session = session_of()
        session.ray.wait = lambda references, timeout: (references[:1], references[1:])
        assert session._first([driver, "call"], timeout=0) == "call"
        session.ray.wait = lambda references, timeout: ([], references)
        assert session._first([driver, "call"], timeout=0) is None
        worker.send_bytes(b"")
        assert session._first([driver, "call"], timeout=0) is driver
        assert session._first([driver], timeout=1e12) is driver


def test_a_session_in_which_a_job_failed_gives_no_answers_any_more(monkeypatch):
    """Those of the jobs beside it may still be on their way, and would be taken for others."""
    session = session_of()
    session.failed = False
    monkeypatch.setattr(RaySession, "_run", lambda self, jobs: [1 / job for job in jobs])
    assert session.run([]) == [] and session.run([1, 2]) == [1, 0.5]
    with pytest.raises(ZeroDivisionError):
        session.run([0])
    with pytest.raises(
        RuntimeError, match="^a job of this session has failed; it can only be closed$"
    ):
        session.run([1])


def session_of(**settings) -> RaySession:
    """A session with no worker, and a Ray that knows of no node."""
    session = object.__new__(RaySession)
    session.ray = SimpleNamespace(
        exceptions=SimpleNamespace(OutOfMemoryError=OutOfMemory), nodes=list
    )
    session.settings, session.starting, session.kernel_kills = (
        Ray(**settings),
        {},
        killed_for_memory(),
    )
    return session


@pytest.fixture
def answers(monkeypatch):
    """What answers came by: the names of the types of lines and of references."""
    found = []
    answer = RaySession.answer

    def noted(self, key):
        found.append(type(key).__name__)
        return answer(self, key)

    monkeypatch.setattr(RaySession, "answer", noted)
    return found


@pytest.mark.xdist_group("ray")
@pytest.mark.parametrize(("shared_memory", "kind"), [(True, "Connection"), (False, "ObjectRef")])
def test_workers_that_share_memory_answer_on_lines_and_others_to_calls(
    ray_session, answers, shared_memory, kind
):
    blobs_simulation(2, engine=Ray(shared_memory=shared_memory)).run()
    assert len(answers) > 4 and set(answers) == {kind}


@pytest.mark.xdist_group("ray")
def test_lines_and_calls_in_one_session_give_the_same_bytes(ray_session, answers, monkeypatch):
    """As on a cluster, where some workers are on the driver's machine: the second one cannot be
    reached by a line."""
    place = RaySession._welcome

    def without_line(self, reference):
        if self.starting[reference].number == 1:
            with monkeypatch.context() as patch:
                patch.setattr("fedsim.engine.ray_session.dial", refused)
                place(self, reference)
        else:
            place(self, reference)

    monkeypatch.setattr(RaySession, "_welcome", without_line)
    found = blobs_simulation(4, engine=Ray()).run()
    assert set(answers) == {"Connection", "ObjectRef"}
    assert found.models.tobytes() == blobs_simulation(4).run().models.tobytes()


def refused(path, patience):
    raise ConnectionRefusedError


def test_a_broken_line_is_told_as_such(worker, tmp_path):
    session = object.__new__(RaySession)
    with dial(tmp_path / "line", None) as line:
        line.send_bytes(pickle.dumps("answer"))
        assert session.answer(line) == "answer"
        worker.kill()
        with pytest.raises(BrokenLine):
            session.answer(line)
