"""What a Ray session of fedsim shows to the network and to other users, sends home and leaves
behind, and whether two of them disturb each other."""

import ipaddress
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from fedsim.engine.ray import ENVIRONMENT
from tests.engine.faulty import TRAINING, Fault, faulty_simulation
from tests.paths import REPOSITORY

pytestmark = [pytest.mark.xdist_group("ray")]
ROOT = REPOSITORY
RUN = """
import pathlib, sys
from fedsim.engine.ray import Ray
from tests.engine.faulty import TRAINING, Fault, faulty_simulation
fault = Fault(pathlib.Path(sys.argv[1]), [TRAINING], "wait") if sys.argv[1:] else None
if __name__ == "__main__":
    print(faulty_simulation(fault, Ray(workers=1)).run().summary["model_sha256"])
"""


def start(*arguments: str, **environment: str) -> subprocess.Popen:
    command = [sys.executable, "-c", RUN, *arguments]
    return subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, **environment}, stdout=subprocess.PIPE, text=True
    )


def wait_for(condition, seconds: float = 120) -> bool:
    """Whether it comes true; the time is a limit for a machine that is busy."""
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.1)
    return condition()


def lives(process: psutil.Process) -> bool:
    """Not so a process that only waits for its parent to notice its end."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def is_open(address: str) -> bool:
    """Whether a socket bound to this address can be reached from another machine."""
    bound = ipaddress.ip_address(address)
    bound = getattr(bound, "ipv4_mapped", None) or bound
    return not bound.is_loopback


@pytest.fixture
def temporary() -> Iterator[Path]:
    """A folder for temporary files with a short name: a socket's path has a limit."""
    folder = Path(tempfile.mkdtemp(prefix="", dir="/tmp"))
    yield folder
    shutil.rmtree(folder)


def family_of(driver: subprocess.Popen) -> dict[str, list[int]]:
    """The ports on which a driver and its processes listen, by the names of the processes."""
    found: dict[str, list[int]] = {}
    for process in [
        psutil.Process(driver.pid),
        *psutil.Process(driver.pid).children(recursive=True),
    ]:
        listening = [
            each.laddr.port
            for each in process.net_connections("inet")
            if each.status == psutil.CONN_LISTEN
        ]
        found.setdefault(process.name(), []).extend(listening)
    return found


def stranger(servers: dict[str, list[int]], home: Path) -> list[list[str]]:
    """What servers do for a process that has neither the token nor the user's home."""
    home.mkdir()
    command = [sys.executable, str(Path(__file__).with_name("stranger.py")), json.dumps(servers)]
    environment = {"PATH": os.environ["PATH"], "HOME": str(home), "RAY_USAGE_STATS_ENABLED": "0"}
    asked = subprocess.run(
        command, env=environment, cwd=home, capture_output=True, text=True, timeout=300, check=True
    )
    return json.loads(asked.stdout)


OPEN = (
    "import contextlib; from fedsim.engine import ray_private; ray_private._token ="
    " contextlib.nullcontext"
)


@pytest.mark.parametrize("closed", [True, False], ids=["as it is", "without the token"])
def test_no_other_user_is_obeyed_and_nothing_stays(tmp_path, temporary, closed):
    """Without the token each attempt succeeds somewhere, so the attempts are good ones."""
    environment = {**os.environ, "RAY_TMPDIR": str(temporary)}
    code = RUN if closed else OPEN + RUN
    driver = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        fault = Fault(tmp_path, [TRAINING])
        assert wait_for(lambda: fault.happened == 1)
        (folder,) = temporary.iterdir()
        assert folder.stat().st_mode & 0o777 == 0o700
        servers = family_of(driver)
        # driver, store, raylet (two), agent, worker
        assert len([port for ports in servers.values() for port in ports]) >= 6
        obeyed = {attempt for _, attempt in stranger(servers, tmp_path / "home")}
        every = {"overwrite_class", "ask_worker", "ask_node", "free_objects", "make_environment"}
        assert obeyed == (set() if closed else every)
        fault.release()
        assert (
            driver.communicate(timeout=120)[0].strip()
            == faulty_simulation().run().summary["model_sha256"]
        )
    finally:
        driver.kill()
        driver.wait()
    assert not list(temporary.iterdir())


SESSIONS = """
import os, pathlib, subprocess, sys
import ray
from ray._raylet import AuthenticationTokenLoader
from fedsim.engine.ray import Ray
from tests.engine.faulty import START, TRAINING, Fault, faulty_simulation

class Telling(Fault):
    def at(self, phase):
        if phase == TRAINING and os.getpid() != self.driver:
            seen = subprocess.run(["env"], capture_output=True, text=True).stdout
            (self.marks / f"environment-{os.getpid()}").write_text(seen)
        super().at(phase)

def run(place):
    place.mkdir()
    telling = Telling(place, [START, TRAINING])
    print(faulty_simulation(telling, Ray(workers=2)).run().summary["model_sha256"])
    return AuthenticationTokenLoader.instance().get_raw_token()

def names():
    return {name: value for name, value in os.environ.items() if "AUTH" in name or "K8S" in name}

if __name__ == "__main__":
    marks, before = pathlib.Path(sys.argv[1]), names()
    tokens = []
    for number in range(int(sys.argv[3])):
        tokens.append(run(marks / str(number)))
        assert names() == before, names()
        (folder,) = pathlib.Path(os.environ["RAY_TMPDIR"]).iterdir()
        ray.shutdown()
        assert not folder.exists()
    assert all(tokens) and len(set(tokens)) == len(tokens)
    quiet = {"log_to_driver": False, "logging_level": "ERROR", "include_dashboard": False}
    ray.init(address="local", num_cpus=2, _temp_dir=sys.argv[2], **quiet)
    mine = run(marks / "mine")
    assert mine == os.environ.get("RAY_AUTH_TOKEN", ""), mine
    assert ray.is_initialized() and names() == before
"""


@pytest.mark.parametrize(
    ("sessions", "own"),
    [
        pytest.param(2, {}, id="none"),
        pytest.param(
            1,
            {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "the user's own"},
            id="token",
            marks=pytest.mark.long,
        ),
    ],
)
def test_sessions_one_after_another_have_a_token_each_and_leave_the_users_alone(
    tmp_path, temporary, sessions, own
):
    """Workers are killed in each and replaced. The last session is one that the user started."""
    mine = Path(tempfile.mkdtemp(prefix="", dir="/tmp"))
    try:
        environment = {**os.environ, **ENVIRONMENT, "RAY_TMPDIR": str(temporary), **own}
        command = [sys.executable, "-c", SESSIONS, str(tmp_path), str(mine), str(sessions)]
        ran = subprocess.run(
            command,
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert ran.returncode == 0, ran.stderr
    finally:
        shutil.rmtree(mine)
    assert ran.stdout.split() == [faulty_simulation().run().summary["model_sha256"]] * (
        sessions + 1
    )
    assert (
        ran.stderr.count("was lost at its start")
        == ran.stderr.count("was lost in the training")
        == sessions + 1
    )
    for number in range(sessions):  # what workers of our sessions start does not have the token
        seen = list((tmp_path / str(number)).glob("environment-*"))
        assert seen and not any("RAY_AUTH" in path.read_text() for path in seen)


def test_a_session_listens_on_localhost_only_sends_nothing_home_and_goes_with_its_driver(
    tmp_path, temporary
):
    """A run that waits in training is looked at from outside, then its driver is killed."""
    place = {"RAY_TMPDIR": str(temporary)}
    # A session of its own, whatever cluster there is
    driver = start(str(tmp_path), RAY_ADDRESS="127.0.0.1:9", **place)
    try:
        fault = Fault(tmp_path, [TRAINING])
        assert wait_for(lambda: fault.happened == 1)
        family = [psutil.Process(driver.pid), *psutil.Process(driver.pid).children(recursive=True)]
        names = [process.name() for process in family]
        assert {"raylet", "gcs_server"} < set(names) and any(
            name.startswith("ray::Host") for name in names
        )
        bound = {process: process.net_connections(kind="inet") for process in family}
        listening = [
            (process.name(), found.laddr)
            for process, all in bound.items()
            for found in all
            if found.status == psutil.CONN_LISTEN
        ]
        datagrams = [
            (process.name(), found.laddr)
            for process, all in bound.items()
            for found in all
            if found.status == psutil.CONN_NONE
        ]
        assert len(listening) >= 4
        assert not [
            (name, address)
            for name, address in listening + datagrams
            if address and is_open(address.ip)
        ]
        assert not [
            found.raddr
            for all in bound.values()
            for found in all
            if found.raddr and is_open(found.raddr.ip)
        ]
        servers = [
            process
            for process, name in zip(family, names, strict=True)
            if name in ("raylet", "gcs_server")
        ]
        assert all(process.environ()["RAY_USAGE_STATS_ENABLED"] == "0" for process in servers)
        unneeded = "dashboard.py", "monitor.py", "log_monitor.py"
        assert not [
            process
            for process in family
            if any(Path(word).name in unneeded for word in process.cmdline())
        ]
        assert not [
            process for process in family if "UsageStatsHead" in " ".join(process.cmdline())
        ]
        arenas = list(Path("/dev/shm").glob(f"fedsim-{driver.pid}-*"))
        assert arenas and list(temporary.glob(f".fedsim-{driver.pid}-*"))
        driver.send_signal(signal.SIGKILL)
        driver.wait()
        # Ray's two agents take a minute
        own = [
            process
            for process, name in zip(family, names, strict=True)
            if not name.endswith("Agent")
        ]
        assert wait_for(lambda: not any(map(lives, own)))
    finally:
        driver.kill()
        driver.wait()
    (tmp_path / "go").touch()
    second = start(**place)  # what the first one left is removed
    assert (
        second.communicate(timeout=120)[0].strip()
        == faulty_simulation().run().summary["model_sha256"]
    )
    assert not list(Path("/dev/shm").glob(f"fedsim-{driver.pid}-*")) and not list(
        Path("/dev/shm").glob(f"fedsim-{second.pid}-*")
    )
    assert not list(temporary.iterdir())


@pytest.mark.long
def test_two_runs_at_once_do_not_disturb_each_other():
    runs = [start() for _ in range(2)]
    said = [run.communicate(timeout=240)[0].split() for run in runs]
    assert said == [[faulty_simulation().run().summary["model_sha256"]]] * 2
