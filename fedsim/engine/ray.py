"""The Ray engine: a few long-lived actors host the clients and run groups of them. The only file that imports Ray.

On the driver's machine the actors map the driver's arena, so a round sends no vectors at all. On other machines of a cluster each call
carries the rows a job reads (what all jobs read, the model, once per round and machine) and brings back the rows it wrote. Data go once to
each machine's object store.
"""

from __future__ import annotations

import contextlib
import math
import os
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedsim.component import PositiveInt, component
from fedsim.engine.arena import Arena, SharedArena
from fedsim.engine.base import Engine, Session
from fedsim.engine.task import Job, Task
from fedsim.engine.worker import Worker
from fedsim.errors import ConfigError, require

START_SECONDS = 120  # until all workers are there
AT_ONCE = 0.75  # share of a phase's work that is dealt out at once, longest first; the rest goes to whoever is free


@component
class Ray(Engine):
    """Clients on Ray actors, on this machine or a cluster.

    workers: actors, each with one CPU and an equal share of the GPUs where device is "cuda"; device: "cpu" or "cuda";
    address: of an existing cluster ("auto" or host:port), null: a session on this machine, started once per process;
    shared_memory: false sends vectors in calls on this machine too, as between machines.
    """

    workers: PositiveInt = 2
    device: str = "cpu"
    address: str | None = None
    shared_memory: bool = True

    def check(self) -> None:
        require(self.device in ("cpu", "cuda"), "engine.device", self.device, "accepted are cpu and cuda; Ray deals out the GPUs")
        if self.device == "cpu" or self.address is None:
            super().check()  # the GPUs of a cluster need not be on the driver's machine
        try:
            import ray  # noqa: F401
        except ImportError:
            raise ConfigError("engine", "ray", "needs the package ray; install it or use engine=inprocess") from None
        shared = Path("/dev/shm").is_dir() or not self.shared_memory
        require(shared, "engine.shared_memory", True, "this machine has no /dev/shm; use engine.shared_memory=false")

    def open(self, task: Task) -> Session:
        return RaySession(self, task, self._connect())

    def _connect(self) -> dict[str, float]:
        """Join or start a Ray session; the share of CPUs and GPUs that a worker reserves."""
        import ray

        if not ray.is_initialized():
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
            _answers(self.address)
            here = {"num_cpus": max(os.cpu_count() or 1, self.workers), "include_dashboard": False}
            try:
                ray.init(log_to_driver=False, logging_level="ERROR", **(here if self.address is None else {"address": self.address}))
            except (ConnectionError, ValueError, RuntimeError) as error:
                raise ConfigError("engine.address", self.address, f"a Ray cluster that answers ({str(error).splitlines()[0]})") from None
        joined = ray.get_runtime_context().gcs_address
        mine = self.address in (None, "auto") or _resolved(self.address) == _resolved(joined)
        require(mine, "engine.address", self.address, f"this process is already joined to the Ray session at {joined}")
        cpus, gpus = (ray.cluster_resources().get(kind, 0) for kind in ("CPU", "GPU"))
        enough = self.address is None or cpus >= self.workers
        require(enough, "engine.workers", self.workers, f"the cluster has {cpus:.0f} CPUs, one for each worker")
        require(self.device == "cpu" or gpus > 0, "engine.device", self.device, "the Ray session has no GPU; use engine.device=cpu")
        # In a session of our own more workers than CPUs share them: slower, with the same results
        each = 0 if self.device == "cpu" else 1 if gpus >= self.workers else 1 / math.ceil(self.workers / gpus)
        return {"num_cpus": min(1, cpus / self.workers), "num_gpus": each}


def _answers(address: str | None) -> None:
    """Refuse host:port where nobody listens; Ray itself would try for minutes."""
    host, _, port = (address or "").rpartition(":")
    if host and port.isdigit() and "//" not in host:
        try:
            socket.create_connection((host, int(port)), timeout=5).close()
        except (OSError, OverflowError) as error:
            raise ConfigError("engine.address", address, f"a Ray cluster that answers ({error})") from None


def _resolved(address: str) -> tuple[str, str]:
    """Host and port, the host as an address in the network, and all names of this machine as one."""
    host, _, port = address.rpartition(":")
    try:
        found = socket.gethostbyname(host)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as own:
            own.bind((found, 0))  # works for this machine's addresses alone
            return "here", port
    except OSError:
        return host, port


class Host:
    """An actor: a worker on the driver's arena, or on a private one where that is on another machine."""

    def __init__(self, task: Task, folder: Path | None) -> None:
        self.task = task
        self.shares_memory = folder is not None and folder.is_dir()
        arena = SharedArena(task.arrays(), folder) if self.shares_memory else Arena(task.arrays())
        self.worker = Worker(task, arena)

    def ready(self) -> bool:
        """Whether this worker maps the driver's arena."""
        return self.shares_memory

    def run(self, jobs: list[Job], inputs: list[dict[str, Any]]) -> tuple[list, list[dict]]:
        """Results of jobs, and what each wrote where the arena is not shared. inputs: references to what each job reads there."""
        import ray

        results, outputs = [], []
        for job, refs in zip(jobs, inputs, strict=True):
            arena = self.worker.arena
            if not self.shares_memory:
                values = dict(zip(refs, ray.get(list(refs.values())), strict=True))
                arena.put(job.reads(self.task, arena), values)
            results.append(self.worker.run(job))
            outputs.append({} if self.shares_memory else arena.take(job.writes(self.task, arena)))
        return results, outputs


class RaySession(Session):
    def __init__(self, settings: Ray, task: Task, share: dict[str, float]) -> None:
        import ray

        self.ray, self.task = ray, task
        self.arena = SharedArena(task.arrays()) if settings.shared_memory else Arena(task.arrays())
        self.hosts: list = []
        try:
            folder = self.arena.folder if isinstance(self.arena, SharedArena) else None
            actor = ray.remote(**share)(Host)
            shared_task = ray.put(task)
            self.hosts = [actor.remote(shared_task, folder) for _ in range(settings.workers)]
            self.maps = ray.get([host.ready.remote() for host in self.hosts], timeout=START_SECONDS)
        except ray.exceptions.GetTimeoutError:
            self.close()
            raise TimeoutError(
                f"no {settings.workers} workers within {START_SECONDS} s: the Ray session has no free CPUs or GPUs"
            ) from None
        except BaseException:
            self.close()
            raise

    def run(self, jobs: Sequence[Job]) -> list:
        order = sorted(range(len(jobs)), key=lambda j: -jobs[j].cost)  # longest first
        results: list = [None] * len(jobs)
        sent: dict[tuple, Any] = {}  # what was put in the object store for this call, by array and rows
        dealt, rest = self._deal(order, jobs)
        pending = {self._call(worker, mine, jobs, sent): (worker, mine) for worker, mine in enumerate(dealt) if mine}
        while pending:
            (done,), _ = self.ray.wait(list(pending), num_returns=1)
            worker, mine = pending.pop(done)
            for j, result, written in zip(mine, *self.ray.get(done), strict=True):
                results[j] = result
                if written:
                    self.arena.put(jobs[j].writes(self.task, self.arena), written)
            if rest:
                nxt = [rest.pop(0)]
                pending[self._call(worker, nxt, jobs, sent)] = (worker, nxt)
        return results

    def _deal(self, order: list[int], jobs: Sequence[Job]) -> tuple[list[list[int]], list[int]]:
        """Jobs for each worker at once, each to the least loaded, and the rest."""
        loads, dealt = [0.0] * len(self.hosts), [[] for _ in self.hosts]
        limit, given = AT_ONCE * sum(job.cost for job in jobs), 0.0
        for place, j in enumerate(order):
            if given >= limit and place >= len(self.hosts):
                return dealt, order[place:]
            worker = loads.index(min(loads))
            dealt[worker].append(j)
            loads[worker] += jobs[j].cost
            given += jobs[j].cost
        return dealt, []

    def _call(self, worker: int, mine: list[int], jobs: Sequence[Job], sent: dict[tuple, Any]):
        inputs = [{} if self.maps[worker] else self._references(jobs[j], sent) for j in mine]
        return self.hosts[worker].run.remote([jobs[j] for j in mine], inputs)

    def _references(self, job: Job, sent: dict[tuple, Any]) -> dict[str, Any]:
        references = {}
        for name, rows in job.reads(self.task, self.arena).items():
            key = (name, str(rows) if isinstance(rows, slice) else rows.tobytes())
            if key not in sent:
                sent[key] = self.ray.put(self.arena.take({name: rows})[name])
            references[name] = sent[key]
        return references

    def close(self) -> None:
        for host in self.hosts:
            with contextlib.suppress(Exception):
                self.ray.kill(host)
        self.hosts = []
        self.arena.close()
