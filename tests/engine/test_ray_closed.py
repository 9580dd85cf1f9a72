"""What a Ray session of fedsim shows to the network, sends home and leaves behind, and whether two of them disturb each other."""

import ipaddress
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.engine.faulty import TRAINING, Fault, faulty_simulation

pytestmark = [pytest.mark.xdist_group("ray")]
ROOT = Path(__file__).parents[2]
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
    return subprocess.Popen(command, cwd=ROOT, env={**os.environ, **environment}, stdout=subprocess.PIPE, text=True)


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


def test_a_session_listens_on_localhost_only_sends_nothing_home_and_goes_with_its_driver(tmp_path):
    """A run that waits in training is looked at from outside, then its driver is killed."""
    driver = start(str(tmp_path), RAY_ADDRESS="127.0.0.1:9")  # a session of its own, whatever cluster there is
    try:
        fault = Fault(tmp_path, [TRAINING])
        assert wait_for(lambda: fault.happened == 1)
        family = [psutil.Process(driver.pid), *psutil.Process(driver.pid).children(recursive=True)]
        names = [process.name() for process in family]
        assert {"raylet", "gcs_server"} < set(names) and any(name.startswith("ray::Host") for name in names)
        bound = {process: process.net_connections(kind="inet") for process in family}
        listening = [(process.name(), found.laddr) for process, all in bound.items() for found in all if found.status == psutil.CONN_LISTEN]
        datagrams = [(process.name(), found.laddr) for process, all in bound.items() for found in all if found.status == psutil.CONN_NONE]
        assert len(listening) >= 4
        assert not [(name, address) for name, address in listening + datagrams if address and is_open(address.ip)]
        assert not [found.raddr for all in bound.values() for found in all if found.raddr and is_open(found.raddr.ip)]
        servers = [process for process, name in zip(family, names, strict=True) if name in ("raylet", "gcs_server")]
        assert all(process.environ()["RAY_USAGE_STATS_ENABLED"] == "0" for process in servers)
        unneeded = "dashboard.py", "monitor.py", "log_monitor.py"
        assert not [process for process in family if any(Path(word).name in unneeded for word in process.cmdline())]
        assert not [process for process in family if "UsageStatsHead" in " ".join(process.cmdline())]
        arenas = list(Path("/dev/shm").glob(f"fedsim-{driver.pid}-*"))
        assert arenas
        driver.send_signal(signal.SIGKILL)
        driver.wait()
        own = [process for process, name in zip(family, names, strict=True) if not name.endswith("Agent")]  # Ray's two agents take a minute
        assert wait_for(lambda: not any(map(lives, own)))
    finally:
        driver.kill()
        driver.wait()
    (tmp_path / "go").touch()
    second = start()  # what the first one left is removed
    assert second.communicate(timeout=120)[0].strip() == faulty_simulation().run().summary["model_sha256"]
    assert not list(Path("/dev/shm").glob(f"fedsim-{driver.pid}-*")) and not list(Path("/dev/shm").glob(f"fedsim-{second.pid}-*"))


def test_two_runs_at_once_do_not_disturb_each_other():
    runs = [start() for _ in range(2)]
    said = [run.communicate(timeout=240)[0].split() for run in runs]
    assert said == [[faulty_simulation().run().summary["model_sha256"]]] * 2
