"""Whole runs: the same bytes twice, the rounds' totals by hand, runs that diverge or fail, and
refusals before anything starts."""

import functools
import hashlib
import json
import random

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from fedsim.algorithms import FedAU, FedAvg, FedSpeed, Sgd, VarianceCorrection
from fedsim.data.partition import Dirichlet, Iid
from fedsim.engine import InProcess
from fedsim.errors import ConfigError
from fedsim.evaluation.evaluator import Evaluation
from fedsim.models import LogisticRegression
from fedsim.network.topology import RandomRegular, Ring
from fedsim.participation import Bernoulli, Full, Markov, Uniform
from fedsim.protocols import Gossip
from fedsim.recording.metric_rows import read_table
from fedsim.schedules import Linear
from fedsim.training import LocalTraining
from tests.helpers import Cohorts, blobs_simulation, mlp, quadratic_run

GRAPH = {"protocol": Gossip(), "topology": Ring()}
P = 4 * 5 + 5 + 5 * 3 + 3  # parameters of the model of `blobs_simulation`
EVERY_ROUND = Evaluation(every=1)


def final(table, scope: str, metric: str) -> list[float]:
    """Values of the last evaluation in order of nodes."""
    rows = table[
        (table.scope == scope) & (table.metric == metric) & (table["round"] == table["round"].max())
    ]
    return rows.sort_values("node").value.tolist()


# ------------------------------------------------------------------------------------------------
# repeatability

RANDOM = {
    "server": {
        "client": FedSpeed(),
        "aggregator": FedAU(),
        "participation": Bernoulli(probability=0.4),
    },
    "graph": {
        "correction": VarianceCorrection(),
        "participation": Markov(),
        "protocol": Gossip(same_start=False),
        "topology": RandomRegular(degree=3),
    },
}


@pytest.mark.parametrize("parts", RANDOM.values(), ids=RANDOM)
def test_the_same_settings_give_the_same_bytes_and_another_seed_others(parts):
    parts = {"partition": Dirichlet(clients=10), **parts}
    first, second, other = (blobs_simulation(5, **parts, seed=seed).run() for seed in (3, 3, 4))
    assert first.models.tobytes() == second.models.tobytes() != other.models.tobytes()
    steady = [
        run.metrics[~run.metrics.metric.str.startswith("seconds")].drop(columns="clock")
        for run in (first, second)
    ]
    assert steady[0].equals(steady[1])
    assert first.summary["model_sha256"] == hashlib.sha256(second.models.tobytes()).hexdigest()


def test_one_object_can_run_twice():
    simulation = blobs_simulation(
        4, client=FedSpeed(), aggregator=FedAU(), participation=Uniform(cohort=3)
    )
    assert simulation.run().models.tobytes() == simulation.run().models.tobytes()


@pytest.mark.parametrize("parts", RANDOM.values(), ids=RANDOM)
def test_global_generators_are_neither_moved_nor_read(parts):
    def run(state: int) -> bytes:
        random.seed(state)
        np.random.seed(state)
        torch.manual_seed(state)
        before = random.getstate(), np.random.get_state(), torch.get_rng_state()
        models = (
            blobs_simulation(3, partition=Dirichlet(clients=10), **parts).run().models.tobytes()
        )
        after = random.getstate(), np.random.get_state(), torch.get_rng_state()
        assert before[0] == after[0] and torch.equal(before[2], after[2])
        assert all(np.array_equal(one, two) for one, two in zip(before[1], after[1], strict=True))
        return models

    assert run(1) == run(2)


def test_algorithms_see_the_same_cohorts():
    runs = [
        blobs_simulation(5, participation=Uniform(cohort=3), **parts).run()
        for parts in ({}, {"aggregator": FedAU()}, GRAPH)
    ]
    counts = [final(run.metrics, "client", "participations") for run in runs]
    assert counts[0] == counts[1] == counts[2] and sum(counts[0]) == 15


def test_algorithms_see_the_same_batches():
    """At a rate too small to move the model, updates are gradients at the first model, whatever the
    rule."""
    local = LocalTraining(steps=1, batch_size=2, rate=1e-7)
    still = {"local": local, "participation": Cohorts([2], [5], [2]), "evaluation": EVERY_ROUND}
    runs = [
        blobs_simulation(3, **still, client=client).run().metrics
        for client in (Sgd(), FedSpeed(radius=0, prox=1e6))
    ]
    norms = [run[run.metric == "update_norm"].value.to_numpy() for run in runs]
    assert norms[0] == pytest.approx(norms[1], rel=1e-3)
    assert len(norms[0]) == len(set(norms[0])) == 3  # three different batches


def test_the_schedule_multiplies_the_rate_round_by_round():
    """One client at 1 and a start of 0: the distance shrinks by 1 - 0.5 * (1 - t / 4) in round
    t."""
    result = quadratic_run([[1.0]], 4, rate=0.5, schedule=Linear())
    assert 1 - result.models[0, 0] == pytest.approx(0.5 * (1 - 0.375) * (1 - 0.25) * (1 - 0.125))


# ------------------------------------------------------------------------------------------------
# totals


def test_participations_are_counted():
    result = blobs_simulation(
        4, participation=Cohorts([0, 1, 2], [1], [], [1, 7]), evaluation=EVERY_ROUND
    ).run()
    assert final(result.metrics, "client", "participations") == [1, 3, 1, 0, 0, 0, 0, 1]
    run = result.metrics[result.metrics.scope == "run"]
    assert run[run.metric == "participants"].value.tolist() == [0, 3, 1, 0, 2]
    assert run[run.metric == "participations"].value.tolist() == [0, 3, 4, 4, 6]
    assert run[run.metric == "bytes_up"].value.tolist() == [
        count * P * 4 for count in (0, 3, 4, 4, 6)
    ]
    summary = result.summary
    assert (
        summary["participations_min"],
        summary["participations_max"],
        summary["participations_mean"],
    ) == (0, 3, 6 / 8)
    assert summary["rounds"] == 4 and summary["parameters"] == P and summary["clients"] == 8


def test_update_norm_is_the_cohorts_mean():
    """Clients at distance 2 and 4 move half-way: 1 and 2."""
    result = quadratic_run([[2.0], [-4.0]], 1)
    assert final(result.metrics, "run", "update_norm") == pytest.approx([1.5])


@pytest.mark.parametrize(("target", "reached"), [(0.0, 2), (1.0, "not reached")])
def test_rounds_to_target_or_not_reached(target, reached):
    local = LocalTraining(steps=1, rate=1e-6)
    summary = (
        blobs_simulation(4, local=local, evaluation=Evaluation(every=1, target=target))
        .run()
        .summary
    )
    assert summary["rounds_to_target"] == reached and summary["target"] == target


def test_the_folder_holds_the_result(tmp_path):
    result = blobs_simulation(
        3, folder=tmp_path, **{**GRAPH, "protocol": Gossip(same_start=False)}
    ).run()
    saved = load_file(tmp_path / "model.safetensors")
    mean = result.models.mean(axis=0, dtype=np.float64).astype(np.float32)
    assert np.array_equal(
        np.concatenate([tensor.numpy().ravel() for tensor in result.model.values()]), mean
    )
    assert saved.keys() == result.model.keys() and all(
        torch.equal(saved[name], tensor) for name, tensor in result.model.items()
    )
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (
        summary.items()
        >= {
            name: value for name, value in result.summary.items() if isinstance(value, int | str)
        }.items()
    )
    assert read_table(tmp_path).equals(result.metrics)


# ------------------------------------------------------------------------------------------------
# clients without data


@pytest.mark.parametrize("participation", [Full(), Bernoulli(probability=0.9), Uniform(cohort=40)])
@pytest.mark.parametrize("parts", [{}, GRAPH], ids=["server", "graph"])
def test_clients_without_data_never_take_part(parts, participation):
    simulation = blobs_simulation(
        3, partition=Iid(clients=60, min_size=0), participation=participation, **parts
    )
    empty = simulation.prepare().task.shards.sizes == 0
    assert empty.sum() == 8
    result = simulation.run()
    counts = np.array(final(result.metrics, "client", "participations"))
    assert not counts[empty].any() and counts[~empty].any()
    if parts:
        first = simulation._first_models(simulation.prepare().task)[0].numpy()
        assert (result.models[empty] == first).all() and (result.models[~empty] != first).any()


# ------------------------------------------------------------------------------------------------
# runs that go wrong


@pytest.mark.parametrize("parts", [{}, GRAPH], ids=["server", "graph"])
def test_a_run_that_diverges_keeps_its_curve_and_its_last_finite_models(tmp_path, parts):
    explosive = LocalTraining(steps=2, rate=1e5, batch_size=4)
    result = blobs_simulation(
        50, local=explosive, evaluation=EVERY_ROUND, folder=tmp_path, model=mlp(5, 5, 5), **parts
    ).run()
    rounds = result.summary["rounds"]
    assert result.status == result.summary["status"] == "diverged" and 0 < rounds < 50
    assert np.isfinite(result.models).all()
    curve = result.metrics.query("metric == 'participants'")
    assert curve["round"].tolist() == list(range(rounds + 1)) and read_table(tmp_path).equals(
        result.metrics
    )
    status = json.loads((tmp_path / "status.json").read_text())
    assert status["status"] == "diverged"
    assert (
        f"round {rounds}: the update of " in status["reason"]
        and "lower local.rate, set local.clip_norm, or choose failures.policy=drop"
        in status["reason"]
    )
    same = blobs_simulation(rounds, local=explosive, model=mlp(5, 5, 5), **parts).run()
    assert same.status == "done" and same.models.tobytes() == result.models.tobytes()


@pytest.mark.parametrize("rounds", [1, 3])
@pytest.mark.parametrize("parts", [{}, GRAPH], ids=["server", "graph"])
def test_models_that_the_aggregator_makes_too_large_are_no_result(parts, rounds):
    result = blobs_simulation(rounds, aggregator=FedAvg(rate=1e300), **parts).run()
    assert result.status == "diverged" and np.isfinite(result.models).all()


@pytest.mark.parametrize("error", [ZeroDivisionError("round 7"), KeyboardInterrupt()])
def test_an_error_in_a_round_keeps_the_rows_before_it(tmp_path, error):
    class Failing(FedAvg):
        rounds = 0

        def coefficients(self, *arguments):
            self.rounds += 1
            if self.rounds == 8:
                raise error
            return super().coefficients(*arguments)

    simulation = blobs_simulation(
        20, aggregator=Failing(), folder=tmp_path, evaluation=Evaluation(every=2)
    )
    with pytest.raises(type(error)):
        simulation.run()
    table = read_table(tmp_path)
    assert (
        sorted(table[table.metric == "accuracy"]["round"]) == [0, 2, 4, 6]
        and table["round"].max() == 7
    )
    status = json.loads((tmp_path / "status.json").read_text())
    assert (
        status["status"] == "failed"
        and type(error).__name__ in status["reason"]
        and "in coefficients" in status["traceback"]
    )
    assert (
        not (tmp_path / "model.safetensors").exists()
        and not (tmp_path / "metrics.parquet").exists()
    )


# ------------------------------------------------------------------------------------------------
# refusals


class NeverOpened(InProcess):
    def open(self, task, make_worker):
        raise AssertionError("the engine was started")


@pytest.mark.parametrize("below", ["", "deeper"])
def test_a_folder_that_cannot_be_made_is_refused_before_the_engine_starts(tmp_path, below):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"^folder='.*': a folder that can be made and written"):
        blobs_simulation(folder=tmp_path / "file" / below, engine=NeverOpened()).run()


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"rounds": 0}, r"rounds=0: accepted is an integer of at least 1"),
        ({"rounds": 2.5}, r"rounds=2\.5: "),
        ({"seed": -1}, r"seed=-1: accepted is an integer from 0"),
        ({"seed": "one"}, r"seed='one': "),
        ({"plots": True, "folder": None}, r"plots=True: needs a run folder"),
        ({"topology": Ring()}, r"topology='Ring': a server has no topology"),
        ({"protocol": Gossip()}, r"topology=None: protocol=gossip needs a topology"),
        (
            {"client": FedSpeed(), **GRAPH},
            r"client\.mean_dual='everyone': .* over a graph accepted are none and active",
        ),
        (
            {"participation": Uniform(cohort=9)},
            r"participation\.cohort=9: at most the number of clients that hold data, 8",
        ),
        (
            {"model": functools.partial(LogisticRegression, zero=1)},
            r"model\.zero=1: unknown setting of LogisticRegression",
        ),
    ],
    ids=lambda value: value[:20] if isinstance(value, str) else "",
)
def test_parts_that_do_not_fit_are_refused_in_one_line_with_nothing_written(
    tmp_path, parts, message
):
    with pytest.raises(ConfigError, match="^" + message) as refusal:
        blobs_simulation(**{"folder": tmp_path / "run", "engine": NeverOpened(), **parts}).run()
    assert "\n" not in str(refusal.value)
    assert not list(tmp_path.iterdir())
