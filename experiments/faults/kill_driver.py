"""Kill -9 the driver at random moments and go on, again and again: one hash, and nothing left
behind.

    python experiments/faults/kill_driver.py --times 50

Every run is `fedsim run` of a small experiment with checkpoints, killed a few times at seeded
random moments (while it starts, trains, evaluates, writes or ends) and gone on with by `fedsim run
resume=FOLDER`, in process and on Ray workers, whose number changes. Prints a table; exit code 1 if
a hash differs from the undisturbed run's, or a process, shared memory or a temporary file is left.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

EXPERIMENT = [
    *(
        "algorithm=fedspeed",
        "aggregator=fedau",
        "participation=markov",
        "partition.clients=20",
        "model.hidden=[16]",
    ),
    *("local.steps=2", "evaluation.every=10", "checkpoint.every=15", "progress=false"),
]
IN_PROCESS, ONE, TWO = (
    ["engine=inprocess"],
    ["engine=ray", "engine.workers=1"],
    ["engine=ray", "engine.workers=2"],
)
SCENARIOS = {  # the engines of a run's attempts, in turn
    "in process": [IN_PROCESS],
    "2 workers": [TWO],
    "2 and 1 workers": [TWO, ONE],
    "workers and in process": [TWO, IN_PROCESS],
}
# An environment variable, by which all processes of an attempt are found
MARK = "FEDSIM_KILL_DRIVER"
GONE_SECONDS = 60  # for Ray to notice that its driver is dead
START_SECONDS, END_SECONDS = 4.0, 0.5  # about what starting takes, and writing the results


@dataclass
class Outcome:
    """What became of one run. killed: round of the newest checkpoint at each kill; left: what
    should not be there."""

    scenario: str
    killed: list[int] = field(default_factory=list)
    hashes: tuple[str, ...] = ()
    left: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Moment:
    """When the run is under way and metrics.jsonl has so many lines (0: from the start), and some
    seconds after."""

    lines: int
    seconds: float


def moment(now: int, all_lines: int, chance: random.Random) -> Moment:
    """A random moment of an attempt that goes on from `now` of `all_lines` lines: while it starts,
    computes or ends."""
    part = chance.random()
    if part < 0.15:
        return Moment(0, chance.uniform(0, START_SECONDS))
    if part < 0.85:
        return Moment(
            min(all_lines, now + 1 + int(chance.uniform(0, 0.5) * (all_lines - now))),
            chance.uniform(0, 0.02),
        )
    return Moment(all_lines, chance.uniform(0, END_SECONDS))


class Attempt:
    """One process that begins a run or goes on with it."""

    def __init__(self, folder: Path, engine: Sequence[str], rounds: int) -> None:
        there = (folder / "config.yaml").exists()
        settings = (
            [f"resume={folder}"]
            if there
            else [*EXPERIMENT, f"rounds={rounds}", f"hydra.run.dir={folder}"]
        )
        self.folder, self.mark, self.log = folder, uuid.uuid4().hex, folder.with_suffix(".log")
        environment = {**os.environ, MARK: self.mark, "OMP_NUM_THREADS": "1"}
        self.before = stamp(folder)
        with open(self.log, "ab") as log:
            command = [sys.executable, "-m", "fedsim", "run", *settings, *engine]
            self.process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)

    def finish(self) -> None:
        """Wait for the end. Raises RuntimeError if it failed."""
        if self.process.wait():
            raise RuntimeError(
                f"exit code {self.process.returncode}:\n{self.log.read_text()[-4000:]}"
            )

    def kill(self, moment: Moment) -> bool:
        """Kill -9 the driver at that moment; whether it was still there. What it started has to end
        by itself."""
        while (
            self.process.poll() is None
            and moment.lines
            and (stamp(self.folder) == self.before or lines(self.folder) < moment.lines)
        ):
            time.sleep(0.002)
        time.sleep(moment.seconds)
        if self.process.poll() is not None:
            self.finish()
            return False
        self.process.kill()
        self.process.wait()
        return True

    def left(self) -> list[str]:
        """Processes of this attempt that do not end."""
        until = time.monotonic() + GONE_SECONDS
        while (found := self._living()) and time.monotonic() < until:
            time.sleep(0.2)
        return [f"process {name}" for name in found]

    def _living(self) -> list[str]:
        found = []
        for process in psutil.process_iter():
            try:
                if (
                    process.environ().get(MARK) == self.mark
                    and process.status() != psutil.STATUS_ZOMBIE
                ):
                    found.append(" ".join(process.cmdline())[:60])
            except psutil.Error:
                continue
        return found


def run(
    scenario: str, folder: Path, kills: int, rounds: int, all_lines: int, chance: random.Random
) -> Outcome:
    """One run, killed up to `kills` times. all_lines: that its metrics.jsonl has in the end."""
    outcome, engines = Outcome(scenario), SCENARIOS[scenario]
    for number in range(kills + 1):
        at = moment(newest(folder) * all_lines // rounds, all_lines, chance)
        attempt = Attempt(folder, engines[number % len(engines)], rounds)
        if number == kills or not attempt.kill(at):
            attempt.finish()
            break
        outcome.killed.append(newest(folder))
        outcome.left += attempt.left()
    outcome.left += attempt.left() + litter(folder)
    outcome.hashes = hashes(folder)
    return outcome


def lines(folder: Path) -> int:
    """Lines of metrics.jsonl."""
    try:
        return (folder / "metrics.jsonl").read_bytes().count(b"\n")
    except FileNotFoundError:
        return 0


def stamp(folder: Path) -> float:
    """Changes when a process takes the run up."""
    try:
        return (folder / "status.json").stat().st_mtime
    except FileNotFoundError:
        return 0.0


def newest(folder: Path) -> int:
    """Round of the newest checkpoint, 0: none."""
    return max(
        (
            int(path.stem.removeprefix("round_"))
            for path in folder.glob("checkpoints/round_*.safetensors")
        ),
        default=0,
    )


def litter(folder: Path) -> list[str]:
    """Temporary files in the run folder, and shared memory and folders of Ray whose process is
    gone."""
    there = [*Path("/dev/shm").glob("fedsim-*-*"), *Path(tempfile.gettempdir()).glob(".fedsim-*-*")]
    abandoned = [path for path in there if not psutil.pid_exists(int(path.name.split("-")[1]))]
    return [str(path) for path in [*folder.rglob("*tmp*"), *abandoned]]


def hashes(folder: Path) -> tuple[str, ...]:
    """SHA-256 of the final models and of the metric rows."""
    summary = json.loads((folder / "summary.json").read_text())
    return summary["model_sha256"], summary["metrics_sha256"]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description="Kill the driver at random moments and go on: one hash, nothing left behind."
    )
    parser.add_argument("--times", type=int, default=50, help="kills in all (%(default)s)")
    parser.add_argument("--each", type=int, default=5, help="kills of one run (%(default)s)")
    parser.add_argument("--rounds", type=int, default=300, help="rounds of a run (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (%(default)s)")
    parser.add_argument("--scenarios", nargs="+", choices=SCENARIOS, default=list(SCENARIOS))
    options = parser.parse_args(arguments)
    chance = random.Random(options.seed)
    with tempfile.TemporaryDirectory(prefix="kill-") as place:
        return report(options, Path(place), chance)


def report(options: argparse.Namespace, place: Path, chance: random.Random) -> int:
    """Make the runs, print what became of them."""
    undisturbed, all_lines = set(), 0
    for engine in {
        engine[0]: engine for name in options.scenarios for engine in SCENARIOS[name]
    }.values():
        folder = place / engine[0].replace("=", "_")
        Attempt(folder, engine, options.rounds).finish()
        undisturbed.add(hashes(folder))
        all_lines = lines(folder)
        print(
            f"undisturbed, {engine[0]}: model {hashes(folder)[0][:12]}, rows"
            f" {hashes(folder)[1][:12]}",
            flush=True,
        )
    print(
        f"{'run':>3}  {'engine':24}{'kills':>5}  {'model':14}{'rows':14}newest checkpoint at each"
        " kill; what is left",
        flush=True,
    )
    outcomes: list[Outcome] = []
    while (left := options.times - sum(len(outcome.killed) for outcome in outcomes)) > 0:
        scenario = options.scenarios[len(outcomes) % len(options.scenarios)]
        folder = place / f"run_{len(outcomes)}"
        outcome = run(scenario, folder, min(options.each, left), options.rounds, all_lines, chance)
        outcomes.append(outcome)
        model, rows = (part[:12] for part in outcome.hashes)
        print(
            f"{len(outcomes):3}  {scenario:24}{len(outcome.killed):5} "
            f" {model:14}{rows:14}{outcome.killed} {outcome.left or ''}",
            flush=True,
        )
    found = undisturbed | {outcome.hashes for outcome in outcomes}
    remains = [each for outcome in outcomes for each in outcome.left]
    kills = sum(len(outcome.killed) for outcome in outcomes)
    print(
        f"{kills} kills in {len(outcomes)} runs: {len(found)} hash{'es' * (len(found) > 1)},"
        f" {len(remains)} things left behind"
    )
    return int(len(found) > 1 or bool(remains))


if __name__ == "__main__":
    sys.exit(main())
