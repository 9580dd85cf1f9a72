"""The line between the driver and a worker on its machine: what goes over it, and how it breaks."""

import os
import pickle
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from fedsim.engine.line import answered, dial, listener
from fedsim.engine.ray import Ray
from fedsim.engine.ray_session import BrokenLine, RaySession
from tests.helpers import blobs_simulation

ECHO = """
import sys
from pathlib import Path
from fedsim.engine.line import answered, listener
line = listener(Path(sys.argv[1]))
print("listens", flush=True)
line = answered(line)
while True:
    line.send_bytes(line.recv_bytes())
"""


@pytest.fixture
def worker(tmp_path):
    """A process that answers everything on the line at `tmp_path / "line"` with the same again."""
    command = [sys.executable, "-c", ECHO, str(tmp_path / "line")]
    with subprocess.Popen(command, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, text=True) as process:
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
    """More than a socket holds is sent to a stopped process; without the limit this would wait for ever."""
    with dial(tmp_path / "line", 0.5) as line:
        worker.send_signal(signal.SIGSTOP)
        with pytest.raises(BlockingIOError):
            line.send_bytes(bytes(10_000_000))


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


@pytest.fixture
def sessions(monkeypatch):
    """The sessions that were opened, with the lines and the calls of each that were waited for."""
    found = []
    answer = RaySession.answer

    def noted(self, key):
        found.append(type(key).__name__)
        return answer(self, key)

    monkeypatch.setattr(RaySession, "answer", noted)
    return found


@pytest.mark.xdist_group("ray")
@pytest.mark.parametrize(("shared_memory", "kind"), [(True, "Connection"), (False, "ObjectRef")])
def test_workers_that_share_memory_answer_on_lines_and_others_to_calls(ray_session, sessions, shared_memory, kind):
    blobs_simulation(2, engine=Ray(shared_memory=shared_memory)).run()
    assert len(sessions) > 4 and set(sessions) == {kind}


@pytest.mark.xdist_group("ray")
def test_lines_and_calls_in_one_session_give_the_same_bytes(ray_session, sessions, monkeypatch):
    """As on a cluster, where some workers are on the driver's machine: the second one cannot be reached by a line."""
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
    assert set(sessions) == {"Connection", "ObjectRef"}
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
