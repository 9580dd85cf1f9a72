"""Runs that differ in the seed, trained together: each gives what it gives alone."""

import functools
import json
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass

import numpy as np
import pytest

import fedsim.simulation.batched_engine as meeting
from fedsim.algorithms import Sgd
from fedsim.cli.main import main
from fedsim.config.building import build, parse_seeds
from fedsim.config.composition import compose
from fedsim.data import Npz
from fedsim.data.partition import Natural
from fedsim.engine.ray import Ray
from fedsim.errors import ConfigError
from fedsim.models import MLP, LeNet
from fedsim.parameters import flat_parameters
from fedsim.participation import Uniform
from fedsim.simulation.batched_seeds import run_together
from fedsim.simulation.interruption import Interrupted
from fedsim.simulation.simulation import Simulation
from tests.helpers import blobs_simulation, mostly_long

SHORT = [
    "rounds=6",
    "partition.clients=30",
    "participation.cohort=3",
    "evaluation.every=3",
    "model.hidden=[8]",
    "progress=false",
]
SHORT += ["partition=iid", "metrics=[client_spread]"]  # shards of one size: all batches are as wide
CASES = {
    "fedavg": ["algorithm=fedavg"],
    "fedau": ["algorithm=fedau", "participation=bernoulli"],
    "scaffold": ["algorithm=scaffold"],
    "fedspeed": ["algorithm=fedspeed"],
    "fisher": ["algorithm=fisher"],
    "krum": ["algorithm=krum", "participation.cohort=6"],
    "epochs": ["partition=dirichlet", "local.steps=null", "local.epochs=2"],
    "momentum": ["local.momentum=0.9", "local.keep_optimizer=true"],
    "adam": ["local=adam", "local.clip_norm=1.0"],
    "adahessian": ["local=adahessian"],
    "label_flip": ["attack=label_flip"],
    "vc_gossip": ["algorithm=vc_gossip", "participation=bernoulli"],
    "srrw": ["algorithm=srrw", "participation=full"],
    "looped": ["local.execution=looped"],
    "normalised apart": ["data=synthetic"],
    "odd": ["local.batch_size=5"],
}


def typed(case: str, **more) -> list[str]:
    """Without a cohort where the participation pattern has none."""
    patterned = any(each.startswith("participation=") for each in CASES[case])
    short = [each for each in SHORT if not (patterned and each.startswith("participation.cohort"))]
    return [*short, *CASES[case], *(f"{key}={value}" for key, value in more.items())]


def built(case: str, seeds=range(3), **more) -> list[Simulation]:
    return [build(compose(typed(case, seed=seed, **more)), None, False) for seed in seeds]


@pytest.fixture
def calls(monkeypatch) -> list[int]:
    """How many runs each call of training was for."""
    found: list[int] = []
    train = meeting._train
    monkeypatch.setattr(
        meeting, "_train", lambda turns: (found.append(len(turns)), train(turns))[1]
    )
    return found


@pytest.mark.parametrize("case", mostly_long(CASES, *list(CASES)[::3]))
def test_each_run_gives_the_same_bytes_as_alone(case, calls):
    alone = [simulation.run().summary for simulation in built(case)]
    assert not calls
    together = [result.summary for result in run_together(built(case))]
    for key in ("model_sha256", "metrics_sha256", "bytes_up"):
        assert [summary[key] for summary in together] == [summary[key] for summary in alone]
    assert len({summary["model_sha256"] for summary in alone}) == 3
    # draws by its seed in the middle of training; one client a call; normalised otherwise; products
    # may depend on a client's place
    apart = case in ("adahessian", "looped", "normalised apart", "odd")
    assert (max(calls) == 1) if apart else (max(calls) > 1)


def test_all_runs_of_small_cohorts_share_every_call(calls):
    run_together(built("fedavg"))
    assert calls == [3] * 6


def test_runs_of_other_lengths_and_rules_run_beside_each_other(calls):
    simulations = [*built("fedavg", [0], rounds=2), *built("fedavg", [1]), *built("scaffold", [2])]
    expected = [simulation.run().models for simulation in simulations]
    for result, models in zip(run_together(simulations), expected, strict=True):
        np.testing.assert_array_equal(result.models, models)
    assert sorted(calls) == [1] * (4 + 6) + [2] * 2


@pytest.mark.parametrize("shared", [True, False])
def test_a_run_that_fails_leaves_the_others_alone(shared, calls):
    """Whether it fails in a call of its own or in one for all."""
    first = {
        seed: float(flat_parameters(built("fedavg", [seed])[0].prepare().task.module)[0])
        for seed in range(3)
    }

    @dataclass
    class Failing(Sgd):
        number: int = 0

        def finish(self, x, anchor, state, shared, info):
            if (anchor[:, 0] == first[1]).any():
                raise ArithmeticError("on purpose")
            return super().finish(x, anchor, state, shared, info)

    simulations = built("fedavg")
    expected = [simulation.run().models for simulation in simulations]
    for number, simulation in enumerate(simulations):
        simulation.client = Failing(0 if shared else number)
    found = run_together(simulations)
    assert isinstance(found[1], ArithmeticError) and max(calls) == (3 if shared else 1)
    for seed in (0, 2):
        np.testing.assert_array_equal(found[seed].models, expected[seed])


@pytest.mark.parametrize("which", range(3))
def test_a_run_that_is_refused_or_done_leaves_the_others_alone(which, tmp_path):
    """Whoever ends has to do the work of those who wait."""
    expected = [simulation.run().models for simulation in built("fedavg")]
    simulations = built("fedavg")
    simulations[which].model = functools.partial(MLP, hidden=[0])
    found = run_together(simulations)
    assert isinstance(found[which], ConfigError)
    for seed in {0, 1, 2} - {which}:
        np.testing.assert_array_equal(found[seed].models, expected[seed])
    done, *others = built("fedavg", [which, *({0, 1, 2} - {which})])
    done.folder = tmp_path / "done"
    done.run()
    found = run_together([*others, done], [False, False, True])
    np.testing.assert_array_equal(found[2].models, expected[which])
    np.testing.assert_array_equal(found[0].models, expected[others[0].seed])


def test_other_models_are_not_trained_together(calls):
    simulations = built("fedavg")
    for simulation, activation in zip(simulations, ("relu", "tanh", "relu"), strict=True):
        simulation.model = functools.partial(MLP, hidden=[8], activation=activation)
    expected = [simulation.run().models for simulation in simulations]
    for result, models in zip(run_together(simulations), expected, strict=True):
        np.testing.assert_array_equal(result.models, models)
    assert sorted(calls) == [1] * 6 + [2] * 6


def test_models_that_cannot_be_compared_run_beside_each_other(calls):
    class Sized(MLP):
        def __init__(self, input_shape, outputs, hidden) -> None:
            super().__init__(input_shape, outputs, hidden=hidden.tolist())

    simulations = built("fedavg", [0, 1], rounds=2)
    for simulation in simulations:
        simulation.model = functools.partial(Sized, hidden=np.array([8, 4]))  # == gives an array
    expected = [simulation.run().models for simulation in simulations]
    for result, models in zip(run_together(simulations), expected, strict=True):
        np.testing.assert_array_equal(result.models, models)
    assert calls == [1] * 4


def test_convolutions_are_trained_together_to_the_same_bytes(tmp_path, calls):
    draw = np.random.default_rng(0)
    x, y = draw.integers(0, 256, (240, 1, 12, 12), dtype=np.uint8), draw.integers(0, 3, 240)
    np.savez(
        tmp_path / "images.npz", x=x, y=y, client=np.arange(240) // 20, x_test=x[:40], y_test=y[:40]
    )
    parts = {
        "data": Npz(file=str(tmp_path / "images.npz"), validation=0.0),
        "partition": Natural(),
        "model": LeNet,
        "rounds": 4,
    }
    simulations = [
        Simulation(**parts, participation=Uniform(cohort=2), progress=False, seed=seed)
        for seed in range(3)
    ]
    expected = [simulation.run().models for simulation in simulations]
    for result, models in zip(run_together(simulations), expected, strict=True):
        np.testing.assert_array_equal(result.models, models)
    assert max(calls) == 2  # of 2 clients each, at most 4 in a call


def test_what_goes_wrong_for_all_is_raised_by_each(monkeypatch):
    def no_memory(parts):
        raise MemoryError("on purpose")

    monkeypatch.setattr(meeting, "joined", no_memory)
    assert [type(error) for error in run_together(built("fedavg"))] == [MemoryError] * 3


@pytest.mark.parametrize("runs", [1, 3])
def test_a_signal_ends_runs_without_folders_at_once(runs):
    simulations = built("fedavg", rounds=100_000)[:runs]
    threading.Timer(1.5, lambda: signal.raise_signal(signal.SIGINT)).start()
    with pytest.raises(Interrupted):
        run_together(simulations)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("run ")]


def test_ray_is_refused():
    with pytest.raises(ConfigError, match="engine='Ray'.*engine=inprocess"):
        run_together([blobs_simulation(engine=Ray(workers=2))])


@pytest.mark.parametrize(
    "value", [3, "0..x", "3..1", [1, 1], [], [-1], [0.5], [True], "0..1000", "0..", {"a": 1}]
)
def test_seeds_that_are_none_are_refused(value):
    with pytest.raises(ConfigError, match="accepted is a range such as 0..9 or a list"):
        parse_seeds(value)


def test_seeds_are_a_range_or_a_list():
    assert (parse_seeds("2..4"), parse_seeds([7, 0]), parse_seeds(None)) == ([2, 3, 4], [7, 0], [])


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_sweep_over_seed_finds_the_runs_of_seeds(here, capsys):
    several = ["run", "-m", "sweep=s", "algorithm=fedavg,fedau", *SHORT]
    assert main([*several, "seeds=0..2"]) == 0
    names = {f"algorithm={name},seed={seed}" for name in ("fedau", "fedavg") for seed in range(3)}
    assert {
        path.name.rpartition("-")[0]
        for path in (here / "multirun" / "s").iterdir()
        if path.is_dir()
    } == names
    capsys.readouterr()
    assert main([*several, "seed=0,1,2"]) == 0 and capsys.readouterr().out.count("done before") == 6
    assert (
        main([*several, "seeds=[0,3]"]) == 0 and capsys.readouterr().out.count("done before") == 2
    )
    folders = {
        path.name.rpartition("-")[0]
        for path in (here / "multirun" / "s").iterdir()
        if path.is_dir()
    }
    assert folders == {*names, "algorithm=fedau,seed=3", "algorithm=fedavg,seed=3"}


def test_without_a_name_a_sweep_over_seed_is_found_too(here, capsys):
    assert main(["run", "-m", *SHORT, "algorithm=fedavg,fedau", "seed=0,1"]) == 0
    assert main(["run", "-m", *SHORT, "algorithm=fedavg,fedau", "seeds=0..2"]) == 0
    assert (
        capsys.readouterr().out.count("done before") == 4
        and len(list((here / "multirun").iterdir())) == 1
    )


def test_a_sweep_reports_what_is_refused_each_time(here, capsys):
    for _ in range(2):
        assert main(["run", "-m", *SHORT, "sweep=s", "model.hidden=[8],[0]", "seeds=0..1"]) == 2
        captured = capsys.readouterr()
        assert (
            captured.err.startswith("2 failed:")
            and captured.err.count("model.hidden=[0]: accepted is") == 2
        )


def test_a_single_command_records_a_folder_for_each_seed(here, capsys):
    assert main(["run", *SHORT, "seeds=0..1", "hydra.run.dir=out"]) == 0
    assert sorted(path.name for path in (here / "out").iterdir()) == ["seed=0", "seed=1"]
    assert main(["run", *SHORT, "seed=1", "hydra.run.dir=one"]) == 0
    alone, together = (
        json.loads((here / each / "summary.json").read_text()) for each in ("one", "out/seed=1")
    )
    assert (
        alone["model_sha256"] == together["model_sha256"]
        and alone["metrics_sha256"] == together["metrics_sha256"]
    )
    assert (here / "out/seed=1/overrides.yaml").read_text() == (
        here / "one/overrides.yaml"
    ).read_text()


@pytest.mark.parametrize(
    "wrong", ["model.hidden=[0]", "engine=ray", "seeds=4", "partition.clients=0", "seed=1"]
)
def test_what_is_refused_leaves_nothing(here, capsys, wrong):
    assert main(["run", *SHORT, "seeds=0..2", wrong]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert not list(here.iterdir())


@pytest.mark.long
def test_an_interrupted_command_goes_on_to_the_same_bytes(here):
    arguments = [*SHORT, "rounds=400", "seeds=0..2", "hydra.run.dir=out"]
    command = [sys.executable, "-m", "fedsim", "run", *arguments]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    metrics = here / "out" / "seed=0" / "metrics.jsonl"
    while process.poll() is None and not (
        metrics.exists() and len(metrics.read_text().splitlines()) > 3
    ):
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert (
        process.returncode == 143
        and said
        == "interrupted; the same command with hydra.run.dir=out goes on with what is missing\n"
    )
    states = [
        json.loads((here / "out" / f"seed={seed}" / "status.json").read_text())["status"]
        for seed in range(3)
    ]
    assert states == ["interrupted"] * 3
    assert main(["run", *arguments]) == 0
    for seed in range(3):
        assert (
            main(["run", *SHORT, "rounds=400", f"seed={seed}", f"hydra.run.dir=alone{seed}"]) == 0
        )
        whole, parts = (
            json.loads((here / each / "summary.json").read_text())
            for each in (f"alone{seed}", f"out/seed={seed}")
        )
        assert (
            whole["model_sha256"] == parts["model_sha256"]
            and whole["metrics_sha256"] == parts["metrics_sha256"]
        )
