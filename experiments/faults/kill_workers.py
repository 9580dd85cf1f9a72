"""Kills a Ray worker in each phase of a run, and a node of a cluster: `python
experiments/faults/kill_workers.py`.

Each run must go on and end with the models and metric rows of an undisturbed run in process. A
table is printed; the exit code is 1 if a run ended otherwise, or if nothing was killed. Everything
is real: processes are sent SIGKILL (or SIGSTOP, after which they hang), and clusters are Ray nodes
on this machine.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from fedsim.engine.ray import Ray  # noqa: E402
from tests.engine.faulty import (  # noqa: E402
    EVALUATION,
    EXCHANGE,
    PHASES,
    SOME,
    TRAINING,
    Fault,
    faulty_simulation,
)

NODES = {  # CPUs of the head node and of others, of which one with a worker is killed
    "node, replaced elsewhere": (1, 1, 1),
    "node, no CPU left": (1, 1),
}


@dataclass(frozen=True)
class Outcome:
    """What became of a run. phase: where it was disturbed; killed: whether that happened; went_on:
    whether it ended as done; same: whether with the models and metric rows of the undisturbed run;
    said: lines on standard error."""

    phase: str
    killed: bool
    went_on: bool
    same: bool
    said: str

    @property
    def good(self) -> bool:
        return self.killed and self.went_on and self.same and "was lost" in self.said


def disturbed(
    phase: str, fault: Fault, expected: tuple[str, str], engine: Ray, **parts: Any
) -> Outcome:
    """Run with a fault; expected: hashes of models and rows without."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        try:
            result = faulty_simulation(fault, engine, **parts).run()
        except Exception as error:
            print(f"{type(error).__name__}: {error}", file=said)
            result = None
    same = result is not None and hashes(result) == expected
    return Outcome(
        phase,
        fault.happened > 0,
        result is not None and result.status == "done",
        same,
        said.getvalue().strip(),
    )


def hashes(result) -> tuple[str, str]:
    return result.summary["model_sha256"], result.summary["metrics_sha256"]


def undisturbed(graph: bool) -> tuple[str, str]:
    return hashes(faulty_simulation(graph=graph).run())


def kill_a_worker(
    phase: str,
    marks: Path,
    expected: tuple[str, str],
    engine: Ray,
    how: str = "kill",
    graph: bool = True,
) -> Outcome:
    """In one of `PHASES`, after some of its work has been done."""
    return disturbed(
        phase, Fault(marks, [phase], how, {**SOME, EVALUATION: 1}), expected, engine, graph=graph
    )


def kill_a_node(
    name: str, marks: Path, expected: tuple[str, str], shared_memory: bool = True
) -> Outcome:
    """A node of a cluster that has one of the two workers, in training."""
    fault = Fault(marks, [TRAINING], "wait")  # whoever comes there first waits for the node to die
    with cluster(NODES[name]) as (address, kill):
        watcher = threading.Thread(target=kill_when, args=(fault, kill))
        watcher.start()
        outcome = disturbed(
            name, fault, expected, Ray(address=address, shared_memory=shared_memory)
        )
        watcher.join()
    return outcome


def kill_when(fault: Fault, kill: Callable[[list[int]], None]) -> None:
    """Kill the node when the fault has happened, then let the worker go that waits there."""
    deadline = time.monotonic() + 120
    while not fault.happened and time.monotonic() < deadline:
        time.sleep(0.05)
    kill(fault.workers())
    fault.release()


@contextlib.contextmanager
def cluster(cpus: tuple[int, ...]) -> Iterator[tuple[str, Callable[[list[int]], None]]]:
    """Ray nodes on this machine, the first of them the head; its address, and what kills one that
    has any of these workers (processes)."""
    Ray().check()  # imports Ray with fedsim's settings
    import ray
    from ray.cluster_utils import Cluster

    ray.shutdown()  # of the cases before
    small = {"include_dashboard": False, "object_store_memory": 100_000_000}
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": cpus[0], **small})
    try:
        others = {}
        for count in cpus[1:]:
            node = nodes.add_node(num_cpus=count, **small)
            others[node.all_processes["raylet"][0].process.pid] = node

        def kill(workers: list[int]) -> None:
            parents = {
                worker: int(Path(f"/proc/{worker}/stat").read_text().rsplit(")", 1)[1].split()[1])
                for worker in workers
            }
            chosen = next(parent for parent in parents.values() if parent in others)
            nodes.remove_node(others[chosen], allow_graceful=False)
            for worker, parent in parents.items():
                if parent == chosen:  # it would end by itself within a second
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(worker, signal.SIGKILL)

        yield nodes.address, kill
    finally:
        ray.shutdown()
        nodes.shutdown()


def cases(workers: int) -> dict[str, Callable[[Path, dict[bool, tuple[str, str]]], Outcome]]:
    """What is done, by its name: functions of a folder for marks and of the hashes expected over a
    graph (True) and at a server."""
    found = {}
    for graph in (True, False):
        for phase in PHASES:
            if graph or phase != EXCHANGE:  # a server's exchange is the driver's
                name = f"{'graph' if graph else 'server'}, {phase}"
                found[name] = lambda marks, hashes, phase=phase, graph=graph: kill_a_worker(
                    phase, marks, hashes[graph], Ray(workers=workers), graph=graph
                )
    alone, brief = Ray(workers=workers, shared_memory=False), Ray(workers=workers, hang_seconds=5)
    found["graph, training, no shared memory"] = lambda marks, hashes: kill_a_worker(
        TRAINING, marks, hashes[True], alone
    )
    found["graph, evaluation, stopped"] = lambda marks, hashes: kill_a_worker(
        EVALUATION, marks, hashes[True], brief, "stop"
    )
    for name in NODES:
        for shared in (True, False):
            label = f"graph, {name}{'' if shared else ', no shared memory'}"
            found[label] = lambda marks, hashes, name=name, shared=shared: kill_a_node(
                name, marks, hashes[True], shared
            )
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=2, help="of each run (%(default)s)")
    parser.add_argument("--only", default="", help="cases whose name holds this text")
    options = parser.parse_args()
    expected = {graph: undisturbed(graph) for graph in (True, False)}
    outcomes: list[Outcome] = []
    print(f"{'place':<8}{'phase':<44}{'killed':<8}{'went on':<9}{'same hash':<11}said")
    with tempfile.TemporaryDirectory() as folder:
        for name, run in cases(options.workers).items():
            if options.only in name:
                outcomes.append(run(Path(tempfile.mkdtemp(dir=folder)), expected))
                answers = (
                    "yes" if part else "NO"
                    for part in (outcomes[-1].killed, outcomes[-1].went_on, outcomes[-1].same)
                )
                print(
                    "{:<8}{:<44}{:<8}{:<9}{:<11}{}".format(
                        *name.split(", ", 1), *answers, outcomes[-1].said
                    ),
                    flush=True,
                )
    bad = sum(not outcome.good for outcome in outcomes)
    print(f"{len(outcomes)} runs disturbed, {len(outcomes) - bad} survived with the same hash")
    return 1 if bad or not outcomes else 0


if __name__ == "__main__":
    sys.exit(main())
