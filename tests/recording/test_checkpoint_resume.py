"""A run that is stopped and gone on with gives the bytes of one that was not."""

import json
import os
import signal
import threading
from pathlib import Path

import numpy as np
import pytest

from fedsim.algorithms import FedAU, FedSpeed
from fedsim.engine import InProcess
from fedsim.engine.ray import Ray
from fedsim.errors import ConfigError
from fedsim.evaluation.evaluator import Evaluation
from fedsim.network.topology import RandomRegular
from fedsim.participation import Bernoulli, Cyclic, Markov, Uniform
from fedsim.protocols import Gossip
from fedsim.recording import Logger, NoLogger, read_table
from fedsim.recording.checkpoints import Checkpoint
from fedsim.simulation.interruption import Interrupted
from fedsim.training import LocalTraining
from tests.helpers import algorithms, blobs_simulation

ROUNDS = 7
HASHES = ("model_sha256", "metrics_sha256")


@pytest.fixture(autouse=True)
def no_picture(monkeypatch):
    """Drawing the curves would take most of the time."""
    monkeypatch.setattr("fedsim.analysis.curves.run_curves", lambda *_: None)


class SignalIn(Logger):
    """Sends this process a signal while the rows of a round are recorded."""

    def __init__(self, round: int, number: int = signal.SIGINT) -> None:
        self.round, self.number = round, number

    def rows(self, rows):
        if rows[0]["round"] == self.round:
            self.round = -1
            os.kill(os.getpid(), self.number)


def simulation(folder=None, stop: int | None = None, number: int = signal.SIGINT, **parts):
    """A run over unequal clients; stop: round in which it is sent a signal."""
    parts = {"participation": Markov(probability=0.5), "evaluation": Evaluation(every=2), **parts}
    return blobs_simulation(
        ROUNDS,
        folder=folder,
        loggers=[NoLogger() if stop is None else SignalIn(stop, number)],
        **parts,
    )


def hashes(result) -> tuple[str, ...]:
    return tuple(result.summary[name] for name in HASHES)


def stopped(folder, stop: int, number: int = signal.SIGINT, **parts) -> Interrupted:
    with pytest.raises(Interrupted) as caught:
        simulation(folder, stop, number, **parts).run(resume=True)
    return caught.value


def checkpoints(folder) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


def status(folder) -> dict:
    return json.loads((folder / "status.json").read_text())


# ------------------------------------------------------------------------------------------------
# the same bytes


@pytest.mark.parametrize("name", algorithms())
def test_every_algorithm_goes_on_to_the_same_bytes(tmp_path, name):
    parts = algorithms()[name]
    whole = simulation(**parts).run()
    stopped(tmp_path, 3, **parts)
    stopped(tmp_path, 4, **parts)
    result = simulation(tmp_path, **parts).run(resume=True)
    assert hashes(result) == hashes(whole) and result.models.tobytes() == whole.models.tobytes()
    steady = [
        run.metrics[~run.metrics.metric.str.startswith("seconds")].drop(columns="clock")
        for run in (whole, result)
    ]
    assert steady[0].equals(steady[1]) and read_table(tmp_path).equals(result.metrics)


LASTING = {
    "bernoulli": {"participation": Bernoulli(probability=0.4)},
    "cyclic": {"participation": Cyclic(probability=0.5, period=4)},
    "uniform": {"participation": Uniform(cohort=3)},
    "momentum": {
        "client": FedSpeed(),
        "aggregator": FedAU(),
        "local": LocalTraining(steps=2, batch_size=4, rate=0.2, momentum=0.5, keep_optimizer=True),
    },
    "graph drawn each round": {
        "protocol": Gossip(same_start=False),
        "topology": RandomRegular(degree=3, per_round=True),
    },
}


@pytest.mark.parametrize("parts", LASTING.values(), ids=LASTING)
def test_what_lasts_between_rounds_is_in_the_checkpoint(tmp_path, parts):
    stopped(tmp_path, 5, **parts)
    assert hashes(simulation(tmp_path, **parts).run(resume=True)) == hashes(
        simulation(**parts).run()
    )


@pytest.mark.parametrize("round", [1, ROUNDS])
def test_the_first_and_the_last_round_can_be_stopped_in(tmp_path, round):
    assert (
        str(stopped(tmp_path, round))
        == f"interrupted after round {round}; go on with: fedsim run resume={tmp_path}"
    )
    assert hashes(simulation(tmp_path).run(resume=True)) == hashes(simulation().run())


def test_engines_may_change_between_a_checkpoint_and_its_resumption(ray_session, tmp_path):
    parts = {"client": FedSpeed(), "aggregator": FedAU()}
    stopped(tmp_path, 2, engine=Ray(workers=2), **parts)
    stopped(tmp_path, 4, engine=InProcess(), **parts)
    assert hashes(simulation(tmp_path, engine=Ray(workers=1), **parts).run(resume=True)) == hashes(
        simulation(**parts).run()
    )


# ------------------------------------------------------------------------------------------------
# signals


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_round_writes_a_checkpoint_and_says_how_to_go_on(
    tmp_path, monkeypatch, number, code
):
    monkeypatch.chdir(tmp_path)
    before = signal.getsignal(number)
    stop = stopped(Path("run"), 3, number)
    assert (
        str(stop) == "interrupted after round 3; go on with: fedsim run resume=run"
        and stop.code == code
    )
    assert isinstance(stop, KeyboardInterrupt) and signal.getsignal(number) is before
    assert checkpoints(tmp_path / "run") == ["round_000003.safetensors"]
    found = status(tmp_path / "run")
    assert (found["status"], found["round"], found["reason"]) == ("interrupted", 3, str(stop))


class Twice(SignalIn):
    def rows(self, rows):
        again = rows[0]["round"] == self.round
        super().rows(rows)
        if again:
            os.kill(os.getpid(), self.number)


def test_a_second_signal_does_not_wait_for_the_end_of_the_round(tmp_path):
    with pytest.raises(
        Interrupted, match=r"^interrupted; go on after round 2 with: fedsim run resume="
    ):
        blobs_simulation(
            ROUNDS, folder=tmp_path, loggers=[Twice(3)], checkpoint=Checkpoint(every=2)
        ).run()
    assert checkpoints(tmp_path) == ["round_000002.safetensors"] and status(tmp_path)["round"] == 2
    with pytest.raises(
        Interrupted, match=r"^interrupted before the first checkpoint; go on with: "
    ):
        blobs_simulation(ROUNDS, folder=tmp_path, loggers=[Twice(3)]).run()
    assert hashes(blobs_simulation(ROUNDS, folder=tmp_path).run(resume=True)) == hashes(
        blobs_simulation(ROUNDS).run()
    )


def test_a_run_in_memory_is_interrupted_at_once():
    with pytest.raises(KeyboardInterrupt, match="a run without a folder keeps nothing"):
        simulation(stop=3).run()


def test_a_signal_after_the_last_round_reaches_whoever_would_have_had_it(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "fedsim.simulation.simulation.Simulation._finish",
        lambda *_: os.kill(os.getpid(), signal.SIGINT),
    )
    with pytest.raises(KeyboardInterrupt) as caught:
        simulation(tmp_path).run()
    assert not isinstance(caught.value, Interrupted)


def test_outside_the_main_thread_signals_are_left_alone():
    found = []
    thread = threading.Thread(target=lambda: found.append(simulation().run()))
    thread.start()
    thread.join()
    assert found[0].status == "done"


# ------------------------------------------------------------------------------------------------
# what there is to go on from


def test_the_last_two_checkpoints_stay_and_a_finished_run_is_not_run_again(tmp_path, monkeypatch):
    first = simulation(tmp_path, checkpoint=Checkpoint(every=2)).run()
    assert checkpoints(tmp_path) == ["round_000004.safetensors", "round_000006.safetensors"]
    monkeypatch.setattr("fedsim.simulation.simulation.Simulation.prepare", None)
    again = simulation(tmp_path).run(resume=True)
    assert (
        again.models.tobytes() == first.models.tobytes()
        and again.metrics.equals(first.metrics)
        and again.status == "done"
    )
    assert list(again.model) == list(first.model) and again.summary == first.summary


def test_of_a_finished_graph_the_mean_model_is_read_back(tmp_path):
    parts = algorithms()["gossip"]
    first, again = (
        simulation(tmp_path, **parts).run(),
        simulation(tmp_path, **parts).run(resume=True),
    )
    assert again.models is None and all(
        np.array_equal(again.model[name], tensor) for name, tensor in first.model.items()
    )


def test_a_finished_run_that_lost_its_model_is_gone_on_with(tmp_path, capsys):
    first = simulation(tmp_path, checkpoint=Checkpoint(every=2)).run()
    (tmp_path / "model.safetensors").unlink()
    again = simulation(tmp_path).run(resume=True)
    assert hashes(again) == hashes(first) and (tmp_path / "model.safetensors").is_file()
    assert "cannot be read as a finished run, and goes on: model=" in capsys.readouterr().err


def test_a_diverged_run_is_finished(tmp_path):
    explosive = {
        "local": LocalTraining(steps=2, rate=1e8, batch_size=4),
        "participation": Uniform(cohort=8),
    }
    first = simulation(tmp_path, **explosive).run()
    again = simulation(tmp_path, **explosive).run(resume=True)
    assert first.status == again.status == "diverged" and hashes(first) == hashes(again)


def test_where_nothing_is_the_run_begins_and_without_resume_it_begins_again(tmp_path):
    whole = hashes(simulation().run())
    assert hashes(simulation(tmp_path / "new").run(resume=True)) == whole
    stopped(tmp_path / "other", 3)
    assert hashes(simulation(tmp_path / "other").run()) == whole
    assert checkpoints(tmp_path / "other") == []


def test_a_run_without_a_folder_has_nothing_to_go_on_from():
    with pytest.raises(ConfigError, match=r"^resume=True: needs the run folder"):
        simulation().run(resume=True)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"seed": 1}, r"^seed=1: the run in .* has 0; accepted is the same, or another folder$"),
        (
            {"aggregator": FedAU(cutoff=3)},
            r"^aggregator\._target_='fedsim.algorithms.FedAU': the run in .* has 'fedsim",
        ),
        ({"evaluation": Evaluation(every=1)}, r"^evaluation\.every=1: the run in .* has 2"),
        ({"participation": Markov(probability=0.25)}, r"^participation\.probability=0\.25: "),
    ],
)
def test_other_settings_are_refused_and_nothing_is_touched(tmp_path, parts, message):
    stopped(tmp_path, 3)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(ConfigError, match=message):
        simulation(tmp_path, **parts).run(resume=True)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


class NotNow(InProcess):
    def open(self, task, make_worker):
        raise ConfigError("engine", "not now", "another engine")


def test_an_engine_that_refuses_leaves_the_folder_as_it_was(tmp_path):
    stopped(tmp_path, 3)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(ConfigError, match="not now"):
        simulation(tmp_path, engine=NotNow()).run(resume=True)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_settings_that_change_no_result_may_differ(tmp_path):
    stopped(tmp_path, 3, name="one")
    parts = {"name": "two", "checkpoint": Checkpoint(every=1), "plots": True}
    assert hashes(simulation(tmp_path, **parts).run(resume=True)) == hashes(simulation().run())


# ------------------------------------------------------------------------------------------------
# damage


def damaged(folder, how: str) -> str:
    """Stop a run after its fourth round, with checkpoints of rounds 3 and 4, and damage the newer
    one."""
    stopped(folder, 4, checkpoint=Checkpoint(every=3))
    newest = folder / "checkpoints" / "round_000004.safetensors"
    content = newest.read_bytes()
    if how == "cut off":
        newest.write_bytes(content[: len(content) // 2])
    elif how == "one bit":
        newest.write_bytes(content[:-9] + bytes([content[-9] ^ 4]) + content[-8:])
    elif how == "empty":
        newest.write_bytes(b"")
    elif how == "of another run":
        stopped(folder.with_name("other"), 4, seed=5)
        newest.write_bytes((folder.with_name("other") / "checkpoints" / newest.name).read_bytes())
    return newest.name


@pytest.mark.parametrize("how", ["cut off", "one bit", "empty", "of another run"])
def test_a_bad_checkpoint_is_named_and_the_one_before_is_used(tmp_path, capsys, how):
    name = damaged(tmp_path / "run", how)
    result = simulation(tmp_path / "run").run(resume=True)
    said = [line for line in capsys.readouterr().err.splitlines() if "fedsim" in line]
    assert len(said) == 1 and f"{name} is not used: it is " in said[0]
    assert hashes(result) == hashes(simulation().run())


def test_with_no_good_checkpoint_left_the_run_refuses(tmp_path, capsys):
    damaged(tmp_path, "cut off")
    (tmp_path / "checkpoints" / "round_000003.safetensors").write_bytes(b"nothing")
    before = status(tmp_path)
    with pytest.raises(
        ConfigError,
        match=(
            r"^resume=.*: none of its checkpoints can be used; without resume it starts from the"
            r" beginning$"
        ),
    ):
        simulation(tmp_path).run(resume=True)
    assert capsys.readouterr().err.count("is not used") == 2 and status(tmp_path) == before


@pytest.mark.parametrize(
    "after",
    [b'{"round":9,"scope":"run","metric":"x","value":1}\n', b'{"round": 9, "sco', b"\0\0\0"],
)
def test_rows_after_the_checkpoint_are_cut(tmp_path, after):
    stopped(tmp_path, 3)
    with open(tmp_path / "metrics.jsonl", "ab") as file:
        file.write(after)
    result = simulation(tmp_path).run(resume=True)
    assert hashes(result) == hashes(simulation().run())
    (tmp_path / "metrics.parquet").unlink()
    assert read_table(tmp_path).equals(result.metrics)


def test_a_checkpoint_whose_rows_are_gone_is_not_used(tmp_path, capsys):
    stopped(tmp_path, 4, checkpoint=Checkpoint(every=3))
    rows = (tmp_path / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "metrics.jsonl").write_bytes(b"".join(rows[:-1]))
    result = simulation(tmp_path).run(resume=True)
    assert (
        "round_000004.safetensors is not used: metrics.jsonl no longer holds the rows it goes with"
        in capsys.readouterr().err
    )
    assert hashes(result) == hashes(simulation().run())


def test_a_pipe_in_the_place_of_the_rows_is_not_waited_for(tmp_path, capsys):
    stopped(tmp_path, 4)
    (tmp_path / "metrics.jsonl").unlink()
    os.mkfifo(tmp_path / "metrics.jsonl")
    with pytest.raises(ConfigError, match="none of its checkpoints can be used"):
        simulation(tmp_path).run(resume=True)
    assert (
        "metrics.jsonl, which it goes with, cannot be read (Not a regular file)"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize("content", [b"", b"[1]", b"{", b"\xff"])
def test_a_damaged_status_does_not_keep_a_run_from_going_on(tmp_path, content):
    stopped(tmp_path, 3)
    (tmp_path / "status.json").write_bytes(content)
    assert hashes(simulation(tmp_path).run(resume=True)) == hashes(simulation().run())


def test_what_a_killed_process_was_writing_is_removed(tmp_path):
    stopped(tmp_path, 3)
    for place in (tmp_path, tmp_path / "checkpoints"):
        (place / ".round_000004.safetensors.0a1b2c3d.tmp").write_bytes(b"half")
    simulation(tmp_path).run(resume=True)
    assert not list(tmp_path.rglob("*.tmp"))
