"""The Ray engine: the same bytes as in process, errors that surface, and nothing left behind."""

import json
import os
import socket
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from hypothesis import given, strategies as st
from torch import nn

from fedsim.algorithms import FedAU, FedSpeed, VarianceCorrection
from fedsim.engine import arena as arena_file, ray_session as session_file
from fedsim.engine.ray import Ray
from fedsim.engine.scheduling import deal
from fedsim.errors import ConfigError
from fedsim.evaluation import Objective
from fedsim.evaluation.evaluator import Evaluation
from fedsim.network.topology import Ring
from fedsim.participation import Bernoulli, Uniform
from fedsim.protocols import Gossip
from fedsim.training import LocalTraining
from fedsim.training.vectorised import TRACED_AFTER
from tests.helpers import blobs_simulation
from tests.paths import REPOSITORY

# Vectors of every kind: kept state, momentum, shared vectors, two channels, empty clients of a
# cohort
SERVER = {
    "client": FedSpeed(),
    "aggregator": FedAU(),
    "participation": Bernoulli(probability=0.5),
    "local": LocalTraining(
        steps=2, batch_size=4, rate=0.2, momentum=0.5, keep_optimizer=True, clients_per_batch=1
    ),
    "evaluation": Evaluation(every=3, clients=0.3),
    "metrics": [Objective()],
}
GRAPH = {
    "client": FedSpeed(mean_dual="none"),
    "correction": VarianceCorrection(),
    "participation": Uniform(cohort=6),
    "protocol": Gossip(same_start=False),
    "topology": Ring(),
    "evaluation": Evaluation(every=3, clients=0.3),
}


@pytest.fixture(autouse=True)
def no_long_wait(monkeypatch):
    monkeypatch.setattr(session_file, "START_SECONDS", 60)


def living_actors() -> list[str]:
    from ray._private.state import actors

    return [actor["ActorID"] for actor in actors().values() if actor["State"] != "DEAD"]


def assert_nothing_is_left() -> None:
    deadline = time.monotonic() + 20  # Ray ends an actor some time after it was told to
    while living_actors() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert living_actors() == []
    assert not list(arena_file.SHARED_MEMORY.glob(f"fedsim-{os.getpid()}-*"))


def values(result):
    table = result.metrics
    return (
        table[~table.metric.str.startswith("seconds")].drop(columns="clock").reset_index(drop=True)
    )


@pytest.mark.parametrize(
    ("parts", "engine"),
    [
        (SERVER, Ray(workers=1)),
        (SERVER, Ray(workers=3)),
        (SERVER, Ray(shared_memory=False)),
        (GRAPH, Ray()),
        (GRAPH, Ray(shared_memory=False)),
    ],
    ids=["server, 1", "server, 3", "server, messages", "graph, 2", "graph, messages"],
)
def test_same_bytes_as_in_process(ray_session, parts, engine):
    """Three workers are more than the session's CPUs; without shared memory, vectors travel as
    between machines."""
    expected, found = (
        blobs_simulation(6, **parts, **engines).run() for engines in ({}, {"engine": engine})
    )
    assert found.models.tobytes() == expected.models.tobytes()
    assert values(found).equals(values(expected))
    assert_nothing_is_left()


class Residual(nn.Linear):
    """A user's module, whose gradients are stacked, and traced when calls have come often: on fewer
    workers sooner."""

    def __init__(self, input_shape, outputs) -> None:
        super().__init__(input_shape[0], outputs)
        self.inner = nn.Linear(input_shape[0], input_shape[0])

    def forward(self, x):
        return super().forward(x + torch.tanh(self.inner(x)))


@pytest.mark.long
def test_stacked_gradients_have_the_same_bits_wherever_they_are_traced(ray_session):
    engines = {}, {"engine": Ray(workers=1)}, {"engine": Ray(workers=2)}
    assert 12 * 8 > 2 * TRACED_AFTER > 12 * 2
    first, *others = [blobs_simulation(12, model=Residual, **engine).run() for engine in engines]
    assert {result.models.tobytes() for result in others} == {first.models.tobytes()}


class Fragile(nn.Linear):
    """Passes the check on zeros, evaluates, and breaks where it is trained."""

    def __init__(self, input_shape, outputs, fault: str) -> None:
        super().__init__(input_shape[0], outputs)
        self.fault = fault

    def forward(self, x):
        if torch.is_grad_enabled() and self.fault == "raise":
            raise ArithmeticError("no gradient today")
        if torch.is_grad_enabled() and self.fault == "die":
            os._exit(1)
        return super().forward(x)


@pytest.mark.parametrize(("fault", "says"), [("raise", "no gradient today"), ("die", "died")])
def test_a_job_that_fails_ends_the_run_and_leaves_nothing(ray_session, tmp_path, fault, says):
    simulation = blobs_simulation(
        model=partial(Fragile, fault=fault), engine=Ray(restarts=0), folder=tmp_path
    )
    with pytest.raises(Exception, match=says) as error:
        simulation.run()
    assert isinstance(error.value, ArithmeticError) or fault == "die"
    assert_nothing_is_left()
    status = json.loads((tmp_path / "status.json").read_text())
    assert status["status"] == "failed" and says in status["traceback"]
    assert '"round": 0' in (tmp_path / "metrics.jsonl").read_text()


def test_shared_memory_that_is_too_small_is_said_and_leaves_nothing(ray_session, monkeypatch):
    def full(descriptor, start, length):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(
        MemoryError,
        match=(
            r"^shared memory is full: models/0 needs .*; use engine=inprocess or a smaller model$"
        ),
    ):
        blobs_simulation(engine=Ray()).run()
    assert_nothing_is_left()


def test_workers_that_never_come_are_an_error(ray_session, monkeypatch):
    monkeypatch.setattr(session_file, "START_SECONDS", 2)
    monkeypatch.setattr(Ray, "_connect", lambda self: {"num_cpus": 50})
    with pytest.raises(TimeoutError, match=r"^no 2 workers within 2 s: "):
        blobs_simulation(engine=Ray()).run()
    assert_nothing_is_left()


def test_more_workers_than_a_cluster_has_cpus_are_refused(ray_session):
    with pytest.raises(
        ConfigError, match=r"^engine\.workers=9: the cluster has 2 CPUs, one for each worker$"
    ):
        Ray(workers=9, address="auto")._connect()


def test_gpus_that_a_session_lacks_are_refused(ray_session):
    with pytest.raises(ConfigError, match=r"^engine\.device='cuda': the Ray session has no GPU"):
        Ray(device="cuda", address="auto")._connect()


@pytest.fixture
def closed_port() -> str:
    """An address of this machine where nobody listens."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{closed.getsockname()[1]}"


def test_another_address_than_that_of_the_joined_session_is_refused(
    ray_session, tmp_path, closed_port
):
    with pytest.raises(ConfigError, match=rf"^engine\.address='{closed_port}': ") as refusal:
        blobs_simulation(engine=Ray(address=closed_port), folder=tmp_path / "run").run()
    assert "\n" not in str(refusal.value)
    assert not list(tmp_path.iterdir())
    assert_nothing_is_left()


JOIN = """
import sys
from fedsim.engine.ray import Ray
from fedsim.errors import ConfigError
from tests.helpers import blobs_simulation
try:
    simulation = blobs_simulation(engine=Ray(workers=1, address=sys.argv[1]), folder=sys.argv[2])
    print(simulation.run().summary["model_sha256"], simulation.run().summary["model_sha256"])
except ConfigError as error:
    print(error)
"""


def join(address: str, folder: Path) -> str:
    """What another process prints that runs a simulation twice on the Ray session at `address`."""
    command = [sys.executable, "-c", JOIN, address, str(folder)]
    return subprocess.run(
        command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=True
    ).stdout


@pytest.mark.parametrize("address", ["{}", "ray://{}", "nonsense", "local", "auto"])
def test_a_cluster_that_does_not_answer_is_refused_soon(
    tmp_path, closed_port, address, monkeypatch
):
    """`join` ends the process after a minute; by itself Ray would try for longer. "local" would be
    Ray's own, open session."""
    monkeypatch.setenv("RAY_ADDRESS", closed_port)
    address = address.format(closed_port)
    said = join(address, tmp_path / "run")
    assert said.startswith(f"engine.address='{address}': ") and said.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.long
def test_another_process_joins_a_session_by_any_of_its_addresses(ray_session, tmp_path):
    import ray

    port = ray.get_runtime_context().gcs_address.rpartition(":")[2]
    assert (
        join(f"127.0.0.1:{port}", tmp_path).split()
        == [blobs_simulation().run().summary["model_sha256"]] * 2
    )


def test_what_ray_needs_is_checked_before_anything_starts(monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(Path, "is_dir", lambda self: False)
        with pytest.raises(
            ConfigError,
            match=(
                r"^engine\.shared_memory=True: this machine has no /dev/shm; use"
                r" engine\.shared_memory=false$"
            ),
        ):
            Ray().check()
        Ray(shared_memory=False).check()
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(
        ConfigError,
        match=r"^engine='ray': needs the package ray; install it or use engine=inprocess$",
    ):
        Ray().check()


@given(costs=st.lists(st.floats(0.1, 100), max_size=30), workers=st.integers(1, 5))
def test_jobs_are_dealt_once_each_and_longest_first(costs, workers):
    dealt, rest = deal(costs, workers)
    assert sorted(sum(dealt, rest)) == list(range(len(costs)))
    assert all(dealt) or not rest  # nobody waits while there is work
    longest_left = max((costs[j] for j in rest), default=0)
    assert all(costs[j] >= longest_left for mine in dealt for j in mine)
    loads = [sum(costs[j] for j in mine) for mine in dealt]
    assert max(loads, default=0) - min(loads) <= max(costs, default=0) + 1e-9
