"""Runs from Python: the same as the command line and the object form, many at once, and inside
other Hydra programs."""

import functools
import itertools
import json

import numpy as np
import pytest
import yaml

import fedsim
from fedsim import ConfigError, Simulation, simulate, simulate_many
from fedsim.algorithms import FedAU, FedSpeed
from fedsim.config.building import Settings, build
from fedsim.config.composition import compose
from fedsim.config.from_python import combinations
from fedsim.config.options import find_options
from fedsim.data import Synthetic
from fedsim.data.partition import Dirichlet
from fedsim.engine import InProcess
from fedsim.evaluation.evaluator import Evaluation
from fedsim.models import MLP
from fedsim.participation import Bernoulli
from fedsim.schedules import Linear
from fedsim.training import LocalTraining

TINY = [
    "data=synthetic",
    "data.samples=200",
    "data.test=50",
    "data.shape=[6]",
    "data.classes=4",
    "partition.clients=8",
    "model.hidden=[5]",
]
TINY += [
    "partition.alpha=1",
    "participation=bernoulli",
    "participation.probability=0.6",
    "topology.degree=3",
    "rounds=6",
    "evaluation.every=6",
]


def tiny(*typed: str) -> list[str]:
    """Overrides of a run of 8 clients; the topology's degree only where there is one."""
    graph = any(word in override for override in typed for word in ("gossip", "dpsgd"))
    return [override for override in TINY if graph or not override.startswith("topology")] + list(
        typed
    )


def test_every_algorithm_runs_and_gives_another_model_than_every_other():
    models = {
        option.name: simulate(tiny(f"algorithm={option.name}", "seed=3")).models.mean(axis=0)
        for option in find_options()["algorithm"]
    }
    assert len(models) >= 10
    assert all(np.isfinite(model).all() for model in models.values())
    alike = {("average_participating", "uniform_soup")}  # the same by definition
    alike |= {("fedavg", "last_average"), ("srrw", "srrw_history")}  # the same in so few rounds
    for one, other in itertools.combinations(models, 2):
        assert (one, other) in alike or not np.array_equal(models[one], models[other]), (one, other)


def test_overrides_and_objects_give_the_same_bytes():
    typed = [
        "algorithm=fedspeed",
        "aggregator=fedau",
        "aggregator.cutoff=3",
        "schedule=linear",
        "local.steps=2",
        "seed=5",
    ]
    simulation = Simulation(
        data=Synthetic(samples=200, test=50, shape=[6], classes=4),
        partition=Dirichlet(clients=8, alpha=1.0),
        model=functools.partial(MLP, hidden=[5]),
        client=FedSpeed(),
        aggregator=FedAU(cutoff=3),
        participation=Bernoulli(probability=0.6),
        local=LocalTraining(steps=2),
        schedule=Linear(),
        engine=InProcess(),
        evaluation=Evaluation(every=6),
        rounds=6,
        seed=5,
        progress=False,
    )
    result, other = simulate(tiny(*typed)), simulation.run()
    assert result.models.tobytes() == other.models.tobytes()
    assert result.summary["model_sha256"] == other.summary["model_sha256"]


def test_the_recorded_configuration_gives_the_run_again(tmp_path):
    result = simulate(tiny("algorithm=vc_gossip", "seed=2"), folder=tmp_path / "run")
    recorded = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert recorded["choices"]["algorithm"] == "vc_gossip"
    assert yaml.safe_load((tmp_path / "run" / "overrides.yaml").read_text()) == tiny(
        "algorithm=vc_gossip", "seed=2"
    )
    again = build(
        Settings({key: value for key, value in recorded.items() if key != "choices"}),
        progress=False,
    ).run()
    assert again.models.tobytes() == result.models.tobytes()


def test_simulate_can_be_used_inside_another_hydra_program(tmp_path):
    import hydra
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.hydra_config import HydraConfig

    (tmp_path / "other.yaml").write_text("value: 3\n")
    with hydra.initialize_config_dir(str(tmp_path), version_base="1.3"):
        mine, config = GlobalHydra.instance().hydra, HydraConfig.instance().cfg
        first, second = compose(["seed=1"]), compose(["seed=1"])
        with pytest.raises(ConfigError):
            compose(["nonsense=1"])
        assert (GlobalHydra.instance().hydra, HydraConfig.instance().cfg) == (mine, config)
        assert hydra.compose("other").value == 3
    assert first == second


@pytest.mark.parametrize("overrides", ["rounds=3", [3], [["rounds=3"]]])
def test_overrides_must_be_a_list_of_texts(overrides):
    with pytest.raises(ConfigError, match="a list of texts"):
        simulate(overrides)


def test_errors_of_parts_name_the_setting():
    with pytest.raises(ConfigError) as error:
        simulate(tiny("model.hidden=[0]"))
    assert error.value.key == "model.hidden"


def test_axes_make_every_combination():
    assert combinations(
        {"algorithm": ["fedavg", "fedau"], "seed": range(2), "local.clip_norm": None, "plots": True}
    ) == [
        [f"algorithm={algorithm}", f"seed={seed}", "local.clip_norm=null", "plots=true"]
        for algorithm in ("fedavg", "fedau")
        for seed in (0, 1)
    ]
    assert build(compose(combinations({"model.hidden": [[4, 3]]})[0])).model.keywords["hidden"] == [
        4,
        3,
    ]


def test_many_runs_in_processes_give_what_single_runs_give(tmp_path):
    runs = [tiny(f"seed={seed}") for seed in (1, 2)]
    results = simulate_many(runs, folder=tmp_path, processes=2)
    assert [result.summary["model_sha256"] for result in results] == [
        simulate(run).summary["model_sha256"] for run in runs
    ]
    assert [result.folder.parent for result in results] == [tmp_path, tmp_path]
    assert [result.folder.name[:-11] for result in results] == ["seed=1", "seed=2"]
    table = fedsim.load_runs(tmp_path)
    assert sorted(table["seed"].unique()) == [1, 2]


def test_many_runs_are_checked_before_any_starts_and_all_end_before_a_failure_is_raised(tmp_path):
    with pytest.raises(ConfigError, match="rounds=0"):
        simulate_many([tiny(), tiny("rounds=0")], folder=tmp_path / "first", processes=1)
    assert not (tmp_path / "first").exists()
    with pytest.raises(RuntimeError, match="1 of 3 runs failed, the first .*partition.min_size=99"):
        simulate_many(
            [tiny("seed=1"), tiny("partition.min_size=99"), tiny("seed=2")],
            folder=tmp_path,
            processes=1,
        )
    found = {
        path.parent.name[:-11]: json.loads(path.read_text())["status"]
        for path in tmp_path.glob("*/status.json")
    }
    assert found == {"seed=1": "done", "partition.min_size=99": "failed", "seed=2": "done"}


def test_many_runs_of_which_some_are_finished_repeat_nothing(tmp_path, monkeypatch):
    first = simulate_many([tiny("seed=1"), tiny("seed=2")], folder=tmp_path, processes=1)
    monkeypatch.setattr("fedsim.rounds.round.Rounds.run", None)  # whatever runs now fails
    again = simulate_many(
        [tiny("seed=2", "engine=ray"), tiny("seed=1", "name=other")], folder=tmp_path, processes=1
    )
    assert [result.folder for result in again] == [result.folder for result in reversed(first)]
    assert [result.summary for result in again] == [result.summary for result in reversed(first)]
    assert all(
        one.models.tobytes() == other.models.tobytes()
        for one, other in zip(again, reversed(first), strict=True)
    )
    assert all(
        one.metrics.equals(other.metrics) for one, other in zip(again, reversed(first), strict=True)
    )
    with pytest.raises(RuntimeError, match="1 of 2 runs failed"):
        simulate_many([tiny("seed=1"), tiny("seed=3")], folder=tmp_path, processes=1)


def test_many_runs_beside_each_other_are_refused_on_ray():
    with pytest.raises(ConfigError, match="with engine=ray use processes=1"):
        simulate_many([tiny("engine=ray"), tiny()], processes=2)
