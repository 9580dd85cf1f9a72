"""The Ray engine: a few long-lived actors host the clients and run groups of them. Only this file
and `fedsim.engine.ray_private`, which starts sessions, import Ray.

On the driver's machine the actors map the driver's arena, so a round sends no vectors at all, and
are given jobs over a line each (`fedsim.engine.connection`), for which Ray only starts and ends
them. On other machines of a cluster each call carries the rows a job reads (what all jobs read, the
model, once per round and machine) and brings back the rows it wrote. Data go once to each machine's
object store. What happens when a worker is lost is in `fedsim.engine.ray_session`.
"""

from __future__ import annotations

import contextlib
import math
import os
import pickle
import re
import socket
import sys
from pathlib import Path
from typing import Any

from fedsim.component import NonNegativeInt, Positive, PositiveInt, component
from fedsim.engine.arena import Arena, ArraySpec, SharedArena
from fedsim.engine.base import Engine, MakeWorker, Session, Task
from fedsim.engine.connection import answered, listener
from fedsim.engine.own_folders import is_own
from fedsim.engine.processes import Greeting, process_namespace
from fedsim.engine.ray_private import hide_token, start_private
from fedsim.engine.ray_session import DONE, LINE, RaySession
from fedsim.engine.worker_errors import Failure
from fedsim.errors import ConfigError, require

ANSWER_SECONDS = 5  # until somebody answers at the address of a cluster
ENVIRONMENT = {  # of Ray, which reads it when it is imported or started
    "RAY_USAGE_STATS_ENABLED": "0",  # no telemetry
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # leave the variables that name GPUs alone
    "RAY_worker_niceness": "0",  # not the 15 that lets everything else on the machine go first
    # Its own lines on lost workers, of a screen's length each: fedsim says it in one
    "RAY_DEDUP_LOGS_SKIP_REGEX": (
        "A worker died or was killed|low on memory|memory pressure|marked dead|Raylet is terminated"
    ),
}


@component
class Ray(Engine):
    """Clients on Ray actors, on this machine or a cluster.

    workers: actors, each with one CPU and an equal share of the GPUs where device is "cuda";
    device: "cpu" or "cuda"; address: of an existing cluster ("auto", host:port or ray://host:port),
    null: a session on this machine, started once per process, which listens on localhost only,
    obeys this user only, and has no dashboard; restarts: lost workers that are replaced, after
    which the run stops; hang_seconds: a worker of whose jobs none comes back for so long is taken
    for lost (null: never); shared_memory: false sends vectors in calls on this machine too, as
    between machines.
    """

    workers: PositiveInt = 2
    device: str = "cpu"
    address: str | None = None
    restarts: NonNegativeInt = 3
    hang_seconds: Positive | None = 600.0
    shared_memory: bool = True

    def check(self) -> None:
        require(
            self.device in ("cpu", "cuda"),
            "engine.device",
            self.device,
            "accepted are cpu and cuda; Ray deals out the GPUs",
        )
        known = self.address in (None, "auto") or re.fullmatch(r"(ray://)?[^/]+:\d+", self.address)
        require(
            known,
            "engine.address",
            self.address,
            "accepted are auto, host:port, ray://host:port and null, which starts a session",
        )
        if self.device == "cpu" or self.address is None:
            super().check()  # the GPUs of a cluster need not be on the driver's machine
        try:
            _import_ray()
        except ImportError:
            raise ConfigError(
                "engine", "ray", "needs the package ray; install it or use engine=inprocess"
            ) from None
        shared = Path("/dev/shm").is_dir() or not self.shared_memory
        require(
            shared,
            "engine.shared_memory",
            True,
            "this machine has no /dev/shm; use engine.shared_memory=false",
        )

    def open(self, task: Task, make_worker: MakeWorker) -> Session:
        share = self._connect()
        return RaySession(_import_ray(), self, task, share, Host, make_worker)

    def _connect(self) -> dict[str, float]:
        """Join or start a Ray session; the share of CPUs and GPUs that a worker reserves."""
        ray = _import_ray()
        if not ray.is_initialized():
            _answers(self.address)
            quiet = {"log_to_driver": False, "logging_level": "ERROR"}
            try:
                if self.address is None:
                    start_private(num_cpus=max(os.cpu_count() or 1, self.workers), **quiet)
                else:
                    ray.init(address=self.address, **quiet)
            except (ConnectionError, ValueError, RuntimeError) as error:
                raise ConfigError(
                    "engine.address",
                    self.address,
                    f"a Ray cluster that answers ({str(error).splitlines()[0]})",
                ) from None
        joined = ray.get_runtime_context().gcs_address
        # An address that Ray does not tell again
        through = ray.util.client.ray.is_connected() and "ray://" in (self.address or "")
        mine = (
            self.address in (None, "auto")
            or through
            or _resolved(self.address) == _resolved(joined)
        )
        require(
            mine,
            "engine.address",
            self.address,
            f"this process is already joined to the Ray session at {joined}",
        )
        cpus, gpus = (ray.cluster_resources().get(kind, 0) for kind in ("CPU", "GPU"))
        enough = self.address is None or cpus >= self.workers
        require(
            enough,
            "engine.workers",
            self.workers,
            f"the cluster has {cpus:.0f} CPUs, one for each worker",
        )
        require(
            self.device == "cpu" or gpus > 0,
            "engine.device",
            self.device,
            "the Ray session has no GPU; use engine.device=cpu",
        )
        # In a session of our own more workers than CPUs share them: slower, with the same results
        each = (
            0
            if self.device == "cpu"
            else 1
            if gpus >= self.workers
            else 1 / math.ceil(self.workers / gpus)
        )
        return {"num_cpus": min(1, cpus / self.workers), "num_gpus": each}


def _import_ray() -> Any:
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import ray

    return ray


def _answers(address: str | None) -> None:
    """Refuse an address where nobody listens, or something else than Ray; Ray itself would try for
    minutes."""
    found = address
    if address == "auto":
        from ray._private.services import canonicalize_bootstrap_address

        # A variable of the environment or a file, which may be of a cluster that is gone
        found = canonicalize_bootstrap_address("auto")
    if found is None:
        return
    host, _, port = found.removeprefix("ray://").rpartition(":")
    try:
        with socket.create_connection(
            (host.strip("[]"), int(port)), timeout=ANSWER_SECONDS
        ) as server:
            encrypted = os.environ.get("RAY_USE_TLS", "0") != "0"
            # HTTP/2, which Ray speaks, begins with a frame of that type
            if not encrypted and server.recv(4)[3:] != b"\x04":
                raise ConnectionError("something else listens there")
    except (OSError, OverflowError) as error:
        where = f"{found}: " if found != address else ""
        raise ConfigError(
            "engine.address", address, f"a Ray cluster that answers ({where}{error})"
        ) from None


def _resolved(address: str) -> tuple[str, str]:
    """Host and port, the host as an address in the network, and all names of this machine as
    one."""
    host, _, port = address.rpartition(":")
    try:
        found = socket.gethostbyname(host)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as own:
            own.bind((found, 0))  # works for this machine's addresses alone
            return "here", port
    except OSError:
        return host, port


class Host:
    """An actor: a worker on the driver's arena, or on a private one where that is on another
    machine.

    number: of the worker; folder: of the driver's arena; counts: folder of the arena where workers
    count their jobs, and of their sockets.
    """

    def __init__(
        self, number: int, folder: Path | None, counts: Path | None, importing: list[str]
    ) -> None:
        # last: they stand for no library
        sys.path += [place for place in importing if place and place not in sys.path]
        self.number, self.folder, self.counts = number, folder, counts

    def start(self, task: Task, make_worker: MakeWorker) -> Greeting | Failure:
        """Get ready; apart from the constructor, whose errors Ray wraps."""
        import ray

        try:
            hide_token()
            self.task, self.done = task, None
            # On another machine somebody may have made a folder of that name
            self.shares_memory = self.folder is not None and is_own(self.folder)
            arena = (
                SharedArena(task.arrays(), self.folder)
                if self.shares_memory
                else Arena(task.arrays())
            )
            if self.shares_memory:
                workers = (self.counts / DONE).stat().st_size // 8
                self.done = SharedArena({DONE: ArraySpec((workers,), "int64")}, self.counts)[DONE]
                with contextlib.suppress(OSError):  # without a line there are calls
                    self.listener = listener(self.counts / LINE.format(self.number))
            self.worker = make_worker(task, arena)
        except Exception as error:
            return Failure.of(error, _there_and_back)
        return Greeting(
            self.shares_memory,
            ray.get_runtime_context().get_node_id(),
            os.getpid(),
            process_namespace(),
        )

    def serve(self) -> None:
        """Run the jobs that come over the line, until the driver hangs up."""
        with contextlib.suppress(EOFError, OSError), answered(self.listener) as line:
            while True:
                answer = self.run(line.recv_bytes())
                try:
                    packed = _packed(answer)
                except Exception as error:
                    packed = _packed(Failure.of(error, _there_and_back))
                line.send_bytes(packed)

    def run(self, work: bytes, *values: Any) -> tuple[list, list[dict]] | Failure:
        """Results of jobs, and what each wrote. work: the jobs, and where the arena is not shared,
        the names of what each one reads, which values has one after the other; pickled, since Ray
        would send each of the many small arrays apart."""
        try:
            jobs, names = pickle.loads(work)
            results: list = []
            outputs: list[dict] = []
            given = iter(values)
            self.worker.announce(jobs)
            for number, job in enumerate(jobs):
                arena = self.worker.arena
                if not self.shares_memory:
                    arena.put(
                        job.reads(self.task, arena), {name: next(given) for name in names[number]}
                    )
                results.append(self.worker.run(job))
                if self.shares_memory:
                    outputs.append({})
                    self.done[self.number] += 1
                else:
                    outputs.append(arena.take(job.writes(self.task, arena)))
            return results, outputs
        except Exception as error:
            return Failure.of(error, _there_and_back)


def _there_and_back(error: Exception) -> None:
    """Raise if this exception cannot be sent to another process."""
    _cloudpickle().loads(_cloudpickle().dumps(error))


def _packed(answer: Any) -> bytes:
    """Failures may hold what only cloudpickle can send, which takes longer."""
    return (
        _cloudpickle().dumps(answer)
        if isinstance(answer, Failure)
        else pickle.dumps(answer, pickle.HIGHEST_PROTOCOL)
    )


def _cloudpickle() -> Any:
    from ray import cloudpickle

    return cloudpickle
