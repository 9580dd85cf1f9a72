"""Runs one system in a process of its own and reads the memory of all its processes.

Every process of a launch inherits a mark in its environment, by which it is found wherever it hangs
in the tree of processes (Ray's are no children of the driver); one whose environment cannot be read
any more counts by its parent. Memory is read every quarter of a second until the first round is
over, and then while the clock of the system stands still, after the first and the last round:
reading does not disturb what is timed.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

MARK = "FEDSIM_BENCH_LAUNCH"


@dataclass
class Family:
    """The processes of a launch. members: by process id the time at which it started."""

    mark: str
    members: dict[int, str] = field(default_factory=dict)

    def find(self) -> list[int]:
        """Their ids now."""
        stats = {
            pid: stat
            for pid in os.listdir("/proc")
            if pid.isdigit() and (stat := _stat(pid)) is not None
        }
        alive = {
            pid: start
            for pid, start in self.members.items()
            if stats.get(str(pid), (0, ""))[1] == start
        }
        waiting = [int(pid) for pid in stats if int(pid) not in alive]
        for pid in [pid for pid in waiting if self._marked(pid)]:
            alive[pid] = stats[str(pid)][1]
        grown = True
        while grown:
            found = [pid for pid in waiting if pid not in alive and stats[str(pid)][0] in alive]
            grown = bool(found)
            alive |= {pid: stats[str(pid)][1] for pid in found}
        self.members = alive
        return list(alive)

    def _marked(self, pid: int) -> bool:
        try:
            return f"{MARK}={self.mark}".encode() in Path(f"/proc/{pid}/environ").read_bytes()
        except OSError:
            return False

    def end(self, patience: float = 20.0) -> None:
        """Wait until all have ended; what is left then is killed."""
        until = time.monotonic() + patience
        while (left := self.find()) and time.monotonic() < until:
            time.sleep(0.1)
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass


def _stat(pid: str) -> tuple[int, str] | None:
    """Parent and start time of a process that is no zombie."""
    try:
        parts = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if parts[0] == "Z" else (int(parts[1]), parts[19])


def memory(pids: Sequence[int]) -> tuple[float, float, int]:
    """MB of these processes, shared pages counted once (PSS) and in every process (RSS), and how
    many processes these are."""
    totals, seen = {"Pss:": 0, "Rss:": 0}, 0
    for pid in pids:
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        seen += 1
        for line in lines:
            name, *rest = line.split()
            if name in totals:
                totals[name] += int(rest[0])
    return totals["Pss:"] / 1000, totals["Rss:"] / 1000, seen


@dataclass
class Peak:
    pss: float = 0.0
    rss: float = 0.0
    processes: int = 0

    def read(self, family: Family) -> None:
        pss, rss, processes = memory(family.find())
        self.pss, self.rss, self.processes = (
            max(self.pss, pss),
            max(self.rss, rss),
            max(self.processes, processes),
        )


def launch(
    command: Sequence[str], folder: Path, prepared: Path, settings: dict, limit: float
) -> dict:
    """Run a system; its result with memory, or `error` with the end of what it printed. folder: of
    this launch, emptied; prepared: of the workload; limit: seconds."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    family, peak = Family(uuid.uuid4().hex), Peak()
    own = {
        "BENCH_FOLDER": str(folder),
        "BENCH_PREPARED": str(prepared),
        "BENCH_SETTINGS": json.dumps(settings),
        MARK: family.mark,
    }
    quiet = {
        "FLWR_TELEMETRY_ENABLED": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "PYTHONWARNINGS": "ignore",
        "HF_HUB_OFFLINE": "1",
    }
    here = str(Path(__file__).parent / "systems")
    path = os.pathsep.join(part for part in (here, os.environ.get("PYTHONPATH", "")) if part)
    environment = {
        **os.environ,
        **own,
        **quiet,
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "PYTHONPATH": path,
    }
    log = folder / "log"
    started = time.time()
    with open(log, "wb") as output:
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=folder,
            start_new_session=True,
        )
    try:
        _watch(process, folder, family, peak, started + limit)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        family.end()
    if process.returncode != 0 or not (folder / "result.json").is_file():
        return {
            "error": f"exit code {process.returncode}",
            "log": log.read_text(errors="replace")[-3000:],
        }
    result = json.loads((folder / "result.json").read_text())
    result["first"] -= started
    return result | {
        "pss": peak.pss,
        "rss": peak.rss,
        "processes": peak.processes,
        "whole": time.time() - started,
    }


def _watch(
    process: subprocess.Popen, folder: Path, family: Family, peak: Peak, until: float
) -> None:
    """Read memory until the first round is over and after the last one; answer the system that
    waits for it."""
    pending = ["first", "last"]
    after = 0.0
    while process.poll() is None and time.time() < until:
        waits = pending and (folder / pending[0]).exists()
        if waits or (len(pending) == 2 and time.monotonic() > after):
            peak.read(family)
            after = time.monotonic() + 0.25
        if waits:
            (folder / f"{pending.pop(0)}.read").touch()
        time.sleep(0.02)
