"""Workers that are killed, hang, break or run out of memory, for real: what goes on to the same
bytes, and what stops with which words."""

import json
import os
import pickle
import subprocess
import sys

import pytest

from fedsim.engine.inprocess import InProcess
from fedsim.engine.ray import Ray
from fedsim.engine.worker_errors import Failure, WorkersLost
from fedsim.recording.checkpoints import Checkpoint
from tests.engine.faulty import (
    EVALUATION,
    EXCHANGE,
    PHASES,
    SOME,
    START,
    TRAINING,
    Fault,
    faulty_simulation,
    state_of,
)
from tests.helpers import mostly_long
from tests.paths import REPOSITORY

pytestmark = [pytest.mark.xdist_group("ray")]
ROOT = REPOSITORY
SERVER_PHASES = tuple(phase for phase in PHASES if phase != EXCHANGE)


def hashes(result) -> tuple[str, str]:
    return result.summary["model_sha256"], result.summary["metrics_sha256"]


@pytest.mark.parametrize(
    ("phases", "graph", "shared_memory"),
    [
        pytest.param(PHASES, True, True, id="graph"),
        pytest.param(SERVER_PHASES, False, True, id="server", marks=pytest.mark.long),
        pytest.param(
            (TRAINING, EXCHANGE), True, False, id="graph, messages", marks=pytest.mark.long
        ),
    ],
)
def test_workers_killed_in_every_phase_change_nothing(
    ray_session, tmp_path, capfd, phases, graph, shared_memory
):
    expected = hashes(faulty_simulation(graph=graph).run())
    fault = Fault(tmp_path, phases, after=SOME)
    engine = Ray(restarts=len(phases), shared_memory=shared_memory)
    assert hashes(faulty_simulation(fault, engine, graph=graph).run()) == expected
    assert fault.happened == len(phases)
    said = capfd.readouterr().err.splitlines()
    lost = [line for line in said if "was lost" in line]
    assert len(lost) == len(phases) and all(
        "(its process was killed or crashed); replaced, " in line for line in lost
    )
    assert lost[-1].endswith(f"; replaced, 0 of {len(phases)} restarts left")
    if START in phases:
        assert "at its start" in lost[0]


@pytest.mark.parametrize("how", mostly_long(["hang", "stop", "exit"], "hang"))
def test_a_worker_that_hangs_or_leaves_is_replaced(ray_session, tmp_path, capfd, how):
    """Stopped processes do not answer anybody; time limits are far above what a job takes, so that
    slow machines do not matter."""
    expected = hashes(faulty_simulation().run())
    fault = Fault(tmp_path, [EVALUATION], how)
    assert hashes(faulty_simulation(fault, Ray(hang_seconds=5)).run()) == expected
    said = capfd.readouterr().err
    assert fault.happened == 1 and said.count("was lost") == 1
    assert ("it hung: no job came back for 5 s" in said) == (how != "exit")
    if how == "stop":  # it could go on later, and write
        assert not any(state_of(pid) == "T" for pid in fault.workers())


@pytest.mark.long
def test_a_slow_worker_is_not_taken_for_lost(ray_session, tmp_path, capfd):
    """Five jobs of two seconds each in one call take longer than the limit, but the worker counts
    on."""
    fault = Fault(tmp_path, [TRAINING], "slow", times=10)
    engine = Ray(workers=1, hang_seconds=9)
    assert hashes(faulty_simulation(fault, engine, rounds=1).run()) == hashes(
        faulty_simulation(rounds=1).run()
    )
    assert fault.happened == 10 and "lost" not in capfd.readouterr().err


def test_after_so_many_losses_the_run_stops_and_can_be_resumed(ray_session, tmp_path):
    """Each worker dies at its seventh block of receivers, so both live through two rounds, and no
    three through six rounds."""
    parts = {"folder": tmp_path / "run", "checkpoint": Checkpoint(every=2)}
    fault = Fault(tmp_path, [EXCHANGE], after={EXCHANGE: 6}, times=10)
    with pytest.raises(
        WorkersLost,
        match=(
            r"^3 workers died, and engine\.restarts=2 is used up; the last: worker \d in the"
            r" exchange of round "
        ),
    ):
        faulty_simulation(fault, Ray(restarts=2), **parts).run()
    status = json.loads((tmp_path / "run" / "status.json").read_text())
    assert status["status"] == "failed" and "engine.restarts=2 is used up" in status["reason"]
    assert list((tmp_path / "run" / "checkpoints").iterdir())
    resumed = faulty_simulation(fault, InProcess(), **parts).run(resume=True)
    assert hashes(resumed) == hashes(faulty_simulation().run())


def test_what_a_job_raises_is_not_tried_again(ray_session, tmp_path, capfd):
    fault = Fault(tmp_path, [TRAINING], "raise", times=10)
    with pytest.raises(ArithmeticError, match="^no gradient today$") as error:
        faulty_simulation(fault, Ray(workers=1)).run()
    assert fault.happened == 1 and "lost" not in capfd.readouterr().err
    text = str(error.value.__cause__)
    assert (
        "faulty.py" in text
        and "in direction" in text
        and "ray/" not in text.replace("fedsim/engine/ray.py", "")
    )


@pytest.mark.parametrize("engine", [InProcess(), Ray(workers=1)], ids=["in process", "ray"])
def test_memory_that_is_wanting_gives_advice(ray_session, tmp_path, engine):
    fault = Fault(tmp_path, [TRAINING], "memory", driver=0)  # in process, too
    with pytest.raises(
        MemoryError,
        match=r"^out of memory \(.*allocate memory.*\); lower .*local\.clients_per_batch",
    ) as error:
        faulty_simulation(fault, engine).run()
    assert ("engine.workers" in str(error.value)) == isinstance(engine, Ray)


class Locked(Exception):
    """Cannot be sent to another process."""

    def __init__(self, name: str, number: int) -> None:
        super().__init__(f"{name} {number}")


def test_an_exception_that_cannot_travel_goes_with_its_name_and_traceback():
    try:
        raise Locked("shelf", 3)
    except Locked as error:
        failure = Failure.of(error, lambda error: pickle.loads(pickle.dumps(error)))
    with pytest.raises(RuntimeError, match=r"^Locked: shelf 3$") as found:
        failure.throw()
    assert 'raise Locked("shelf", 3)' in str(found.value.__cause__)


STARVED = """
from fedsim.engine.ray import Ray
from tests.engine.faulty import faulty_simulation
try:
    faulty_simulation(None, Ray(workers=1, restarts=1)).run()
except Exception as error:
    print(type(error).__name__, error)
"""


def test_workers_that_ray_kills_for_want_of_memory_get_advice():
    """Ray's own monitor, with a limit that is below what the machine uses in any case."""
    limits = {"RAY_memory_usage_threshold": "0.001", "RAY_memory_monitor_refresh_ms": "100"}
    ran = run([sys.executable, "-c", STARVED], {**os.environ, **limits})
    assert ran.stdout.startswith(
        "WorkersLost 2 workers died, and engine.restarts=1 is used up; the last: worker 0 at its"
        " start (out of memory; "
    )
    advice = (
        "(out of memory; lower engine.workers, local.clients_per_batch (clients trained in one"
        " call) or local.batch_size"
    )
    assert advice in ran.stdout and advice in ran.stderr


@pytest.mark.long
def test_a_node_that_dies_changes_nothing():
    """The short form of the script: two nodes of one CPU each, so the worker of the dead one is not
    replaced."""
    ran = run([sys.executable, "experiments/faults/kill_workers.py", "--only", "no CPU left, no"])
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "(its node died); no CPU or GPU is left for another, 1 of 2 workers go on" in ran.stdout
    assert "1 runs disturbed, 1 survived with the same hash" in ran.stdout


def run(
    command: list[str], environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess:
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
