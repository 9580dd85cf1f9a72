"""Ends a sweep at random moments and starts it again until it is complete: `python
experiments/faults/kill_sweep.py --times 12`.

With each of Hydra's launchers that fedsim works with (basic, and joblib with two processes), on
Linux. A start ends by kill -9 of the process that leads the sweep, by SIGTERM, or by SIGINT, in
turn; the moment is drawn from the seed. Shown for each: the starts it took, how they ended, runs
that were finished before and computed again (none), runs whose bytes differ from those of an
undisturbed sweep (none), and processes, temporary files and shared memory left behind (none). The
exit code is 1 if anything is not as it should be.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path

SWEEP = [
    "data=synthetic",
    "data.samples=200",
    "data.test=50",
    "data.shape=[4]",
    "data.classes=3",
    "partition.clients=10",
    "model.hidden=[4]",
]
SWEEP += ["participation.cohort=4", "rounds=200", "evaluation.every=40", "checkpoint.every=10"]
GRID = ["algorithm=fedau,feddyn", "seed=0,1"]
RUNS = 4
LAUNCHERS = {"basic": [], "joblib": ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]}
ENDS = (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL, signal.SIGINT)
MARK = "FEDSIM_KILL_SWEEP"  # in the environment of all processes of a sweep
PATIENCE = 300  # seconds for anything at all


class Sweep:
    """A sweep in a folder, which can be started, ended and looked at. typed: overrides beside those
    above."""

    def __init__(self, folder: Path, name: str, typed: list[str]) -> None:
        self.folder, self.mark = folder / "multirun" / name, uuid.uuid4().hex
        self.place, self.arguments = folder, ["-m", *SWEEP, *GRID, f"sweep={name}", *typed]

    def start(self) -> subprocess.Popen:
        """Start it, in a session of its own, as a terminal would."""
        code = (
            "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); from"
            " fedsim.cli.main import main; sys.exit(main())"
        )
        path = os.pathsep.join(
            [
                str(Path(__file__).resolve().parents[2]),
                *filter(None, [os.environ.get("PYTHONPATH")]),
            ]
        )
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path, MARK: self.mark}
        command = [sys.executable, "-c", code, "run", *self.arguments]
        quiet = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        return subprocess.Popen(
            command, cwd=self.place, env=environment, start_new_session=True, **quiet
        )

    def end(self, process: subprocess.Popen, how: signal.Signals) -> None:
        """Send the signal to the process that leads the sweep; SIGINT, as a terminal would, to all
        that are in its group."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, how) if how == signal.SIGINT else process.send_signal(how)

    def files(self, pattern: str) -> dict[Path, tuple[int, int]]:
        """Files of its runs, and what changes when one is written anew."""
        found = {}
        for path in self.folder.glob(pattern):
            try:
                found[path] = (path.stat().st_ino, path.stat().st_mtime_ns)
            except OSError:  # removed meanwhile
                continue
        return found

    def finished(self) -> dict[Path, tuple[int, int]]:
        """Runs that are done, and what would change if one were done again."""
        return {
            path: stamp
            for path, stamp in self.files("*/status.json").items()
            if json.loads(path.read_text())["status"] == "done"
        }

    def results(self) -> dict[str, tuple[str, str]]:
        """Key of a run -> SHA-256 of its models and of its metric rows."""
        read = {
            path.parent.name[-10:]: json.loads(path.read_text())
            for path in self.folder.glob("*/summary.json")
        }
        return {
            key: (found["model_sha256"], found["metrics_sha256"])
            for key, found in read.items()
            if "model_sha256" in found
        }

    def left(self) -> list[str]:
        """What it has left behind: processes, once they had time to end, and temporary files."""
        wait_for(lambda: not self.processes(), 30)
        shared = [str(path) for path in Path("/dev/shm").glob("fedsim-*") if self.mark in path.name]
        return (
            [f"process {number}" for number in self.processes()]
            + [str(path) for path in self.place.rglob("*.tmp")]
            + shared
        )

    def processes(self) -> list[int]:
        """Its processes that have not ended."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                alive = entry.joinpath("stat").read_text().rpartition(")")[2].split()[0] != "Z"
                if alive and f"{MARK}={self.mark}".encode() in entry.joinpath(
                    "environ"
                ).read_bytes().split(b"\0"):
                    found.append(int(entry.name))
            except OSError:
                continue
        return found


def wait_for(true: Callable[[], object], seconds: float = PATIENCE) -> bool:
    """Whether `true()` came true within some seconds."""
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


def end(
    sweep: Sweep,
    process: subprocess.Popen,
    how: signal.Signals,
    delay: float,
    pattern: str = "*/status.json",
) -> int:
    """End a start of a sweep some seconds after it has written a file of the pattern; the exit
    code."""
    before = sweep.files(pattern)
    wait_for(
        lambda: (
            process.poll() is not None
            or any(before.get(path) != stamp for path, stamp in sweep.files(pattern).items())
        )
    )
    time.sleep(delay)
    sweep.end(process, how)
    try:
        process.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:  # somebody hangs, and will be found as left behind
        process.kill()
    return process.wait()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--times",
        type=int,
        default=12,
        help="starts that are ended, of all sweeps together (%(default)s)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="another seed, other moments (%(default)s)"
    )
    options = parser.parse_args()
    draw, bad, remaining = random.Random(options.seed), 0, options.times
    with tempfile.TemporaryDirectory() as top:
        whole = Sweep(Path(top), "whole", [])
        output, _ = whole.start().communicate(timeout=PATIENCE)
        expected = whole.results()
        print(f"undisturbed: {len(expected)} runs")
        if len(expected) != RUNS:
            print(output)
            return 1
        print(
            f"{'launcher':8} {'starts':>6} {'ended by':32} {'repeated':>8} {'differ':>6}"
            f" {'missing':>7} {'left':>5}"
        )
        while remaining > 0:
            for launcher, typed in LAUNCHERS.items():
                if remaining <= 0:
                    break
                sweep, ends, repeated, left = (
                    Sweep(Path(top), f"{launcher}{remaining}", typed),
                    [],
                    0,
                    [],
                )
                for number in range(min(4, remaining)):
                    done, process, how = sweep.finished(), sweep.start(), ENDS[number]
                    code = end(sweep, process, how, draw.uniform(0, 1.5))
                    expected_code = -9 if how == signal.SIGKILL else 128 + how
                    ends.append(
                        how.name
                        if code == expected_code
                        else "complete"
                        if code == 0
                        else f"{how.name}: {code}?"
                    )
                    bad += code not in (expected_code, 0)
                    left += sweep.left()
                    repeated += sum(
                        sweep.files("*/status.json").get(path) != stamp
                        for path, stamp in done.items()
                    )
                remaining -= len(ends)
                done, process = sweep.finished(), sweep.start()
                output, _ = process.communicate(timeout=PATIENCE)
                repeated += sum(
                    sweep.files("*/status.json").get(path) != stamp for path, stamp in done.items()
                )
                found = sweep.results()
                differ = sum(found[key] != expected.get(key) for key in found)
                left += sweep.left()
                missing = len(expected.keys() - found.keys())
                kinds = " ".join(name.removeprefix("SIG") for name in ends)
                print(
                    f"{launcher:8} {len(ends) + 1:6} {kinds:32} {repeated:8} {differ:6} {missing:7}"
                    f" {len(left):5}",
                    flush=True,
                )
                if process.returncode or repeated or differ or missing or left:
                    bad += 1
                    print(f"exit code {process.returncode}", *left, output, sep="\n")
    print(
        "all runs complete, none twice, the same bytes"
        if not bad
        else f"{bad} not as they should be"
    )
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
