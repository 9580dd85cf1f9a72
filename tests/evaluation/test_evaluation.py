"""What is measured, against scikit-learn and plain loops over the final models."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, log_loss
from torch import nn

from fedsim.data.dataset import DataSource, Split
from fedsim.data.partition import Iid
from fedsim.data.shards import Shards
from fedsim.errors import ConfigError
from fedsim.evaluation import ClientSpread, Objective, evaluator as evaluation_file
from fedsim.evaluation.evaluator import Evaluation
from fedsim.models import build_model
from fedsim.network.topology import Ring
from fedsim.parameters import Layout
from fedsim.protocols import Gossip
from fedsim.rounds import worker as worker_file
from fedsim.training import LocalTraining
from tests.helpers import Blobs, Point, Quadratics, blobs_simulation, quadratic_run

GRAPH = {"protocol": Gossip(same_start=False), "topology": Ring()}


class Scaled(DataSource):
    """Blobs with units of their own and other samples in each part; the models see the blobs
    again."""

    def load(self, seed):
        train, other = Blobs().load(seed), Blobs().load(seed + 1)
        parts = {
            "train": train.train,
            "validation": other.train.take(np.arange(30)),
            "test": other.train.take(np.arange(30, 52)),
        }
        parts = {name: dataclasses.replace(part, x=part.x * 3 + 1) for name, part in parts.items()}
        return dataclasses.replace(
            train, **parts, mean=np.ones(4, np.float32), std=np.full(4, 1.5, np.float32), scale=0.5
        )


class Zeros(nn.Sequential):
    """Tells no classes apart."""

    def __init__(self, input_shape: Sequence[int], outputs: int) -> None:
        super().__init__(
            nn.Flatten(), nn.Linear(input_shape[0], 3), nn.ReLU(), nn.Linear(3, outputs)
        )
        for parameter in self.parameters():
            nn.init.zeros_(parameter)


class Run:
    """A finished run beside its parts."""

    def __init__(self, rounds: int = 3, **parts) -> None:
        simulation = blobs_simulation(rounds, **{"data": Scaled(), **parts})
        prepared = simulation.prepare()
        self.task, self.held_out = prepared.task, prepared.client_shards
        self.result = simulation.run()
        self.dataset = self.task.dataset
        self.module = build_model(
            simulation.model, self.dataset.input_shape, self.dataset.outputs, 0
        )

    def logits(self, model: np.ndarray, split: Split) -> np.ndarray:
        for name, view in Layout.of(self.module).views(torch.from_numpy(model)).items():
            self.module.get_parameter(name).data.copy_(view)
        x = (split.x * self.dataset.scale - self.dataset.mean) / self.dataset.std
        with torch.no_grad():
            return self.module(torch.from_numpy(x.astype(np.float32))).double().numpy()

    def scores(self, model: np.ndarray, split: Split) -> tuple[float, float]:
        """Loss and accuracy by scikit-learn."""
        logits = self.logits(model, split)
        exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
        classes = np.arange(self.dataset.classes)
        loss = log_loss(
            split.y, exponentials / exponentials.sum(axis=1, keepdims=True), labels=classes
        )
        return loss, accuracy_score(split.y, logits.argmax(axis=1))

    def measured(self, scope: str, metric: str, round: int = -1) -> np.ndarray:
        """Values of the last round, or of `round`, in order of nodes."""
        table = self.result.metrics
        rows = table[(table.scope == scope) & (table.metric == metric)]
        return (
            rows[rows["round"] == (rows["round"].max() if round < 0 else round)]
            .sort_values("node")
            .value.to_numpy()
        )


@pytest.mark.parametrize("split", ["test", "validation"])
def test_loss_and_accuracy_of_the_servers_model(split):
    run = Run(evaluation=Evaluation(split=split))
    loss, accuracy = run.scores(run.result.models[0], getattr(run.dataset, split))
    assert run.measured("server", "loss") == pytest.approx([loss], abs=1e-6)
    assert run.measured("server", "accuracy").tolist() == [accuracy] == [run.result.accuracy]
    assert (
        run.result.summary["loss"]
        == run.measured("server", "loss")[0]
        != run.measured("server", "loss", 0)[0]
    )


@pytest.mark.parametrize(
    "parts",
    [{}, GRAPH, {"partition": Iid(clients=60, min_size=0)}],
    ids=["server", "graph", "empty clients"],
)
def test_metrics_of_the_clients_training_losses(parts):
    run = Run(metrics=[Objective(), ClientSpread()], **parts)
    model = run.result.models.mean(axis=0, dtype=np.float64).astype(np.float32)
    shards = [run.task.shards.shard(client) for client in range(len(run.task.shards))]
    losses = [run.scores(model, run.dataset.train.take(shard))[0] for shard in shards if len(shard)]
    expected = {
        "objective": np.mean(losses),
        "client_loss_std": np.std(losses),
        "client_loss_max": max(losses),
    }
    for name, value in expected.items():
        assert run.measured("mean_model" if parts == GRAPH else "server", name) == pytest.approx(
            [value], abs=1e-6
        )
        assert run.result.summary[name] == pytest.approx(value, abs=1e-6)


def test_objective_counts_a_sample_as_often_as_a_client_holds_it(monkeypatch):
    held = [[0, 0, 0, 5], [0, 7]]
    shards = Shards(np.concatenate(held), np.array([0, 4, 6]))
    monkeypatch.setattr(Iid, "split", lambda *_: shards)
    run = Run(partition=Iid(clients=2), metrics=[Objective()])
    losses = [
        run.scores(run.result.models[0], run.dataset.train.take(np.array(samples)))[0]
        for samples in held
    ]
    assert run.measured("server", "objective") == pytest.approx([np.mean(losses)], abs=1e-6)


@pytest.mark.parametrize("split", ["test", "validation"])
def test_nodes_and_their_mean_and_spread(split):
    run = Run(evaluation=Evaluation(split=split), **GRAPH)
    examples = getattr(run.dataset, split)
    models = run.result.models
    loss, accuracy = np.array([run.scores(model, examples) for model in models]).T
    assert accuracy.std() > 0
    for name, values in (("loss", loss), ("accuracy", accuracy)):
        assert run.measured("node", name) == pytest.approx(values, abs=1e-6)
        for statistic in ("mean", "min", "max", "std"):
            assert run.measured("nodes", f"{name}_{statistic}") == pytest.approx(
                [getattr(values, statistic)()], abs=1e-6
            )
    mean = models.mean(axis=0, dtype=np.float64)
    expected = run.scores(mean.astype(np.float32), examples)
    assert run.measured("mean_model", "loss") == pytest.approx([expected[0]], abs=1e-6)
    assert run.measured("mean_model", "accuracy").tolist() == [expected[1]]
    assert run.result.accuracy == pytest.approx(accuracy.mean())
    table = run.result.metrics
    assert set(table[table.scope == "node"]["round"]) == {3}  # each node's values belong to the end


def test_each_node_at_every_evaluation_on_request():
    few, all_along = (
        Run(evaluation=Evaluation(every=2, nodes=3, per_node=per_node), **GRAPH)
        for per_node in (False, True)
    )
    for round in (0, 2, 3):
        accuracy = all_along.measured("node", "accuracy", round)
        assert len(accuracy) == 3
        for statistic in ("mean", "min"):
            assert all_along.measured("nodes", f"accuracy_{statistic}", round) == pytest.approx(
                [getattr(accuracy, statistic)()]
            )
    assert len(few.measured("node", "accuracy", 2)) == 0
    assert few.measured("node", "loss").tolist() == all_along.measured("node", "loss").tolist()


def test_nodes_without_data_are_not_measured():
    run = Run(partition=Iid(clients=60, min_size=0), **GRAPH)
    members = np.flatnonzero(run.task.shards.sizes)
    losses = [run.scores(run.result.models[node], run.dataset.test)[0] for node in members]
    assert len(members) == 52 and run.measured("node", "loss") == pytest.approx(losses, abs=1e-6)
    assert run.measured("nodes", "loss_mean") == pytest.approx([np.mean(losses)], abs=1e-6)
    models = run.result.models[members].astype(np.float64)
    mean = models.mean(axis=0)
    distance = np.sqrt(np.square(models - mean).sum(axis=1).mean())
    assert run.measured("nodes", "consensus_distance") == pytest.approx([distance])
    loss, _ = run.scores(mean.astype(np.float32), run.dataset.test)
    assert run.measured("mean_model", "loss") == pytest.approx([loss], abs=1e-6)
    saved = Layout.of(run.module).flatten(run.result.model).numpy()
    # The model that is kept is the one that was measured
    assert saved == pytest.approx(mean, abs=1e-6)


def test_consensus_distance_by_hand():
    """Nodes at 0, 3 and 6 in the first coordinate and at 1 in the second: the root of the mean
    squared distance to (3, 1)."""
    gossip = {"protocol": Gossip(order="combine_then_adapt"), "topology": Ring()}
    result = quadratic_run([[0, 1], [3, 1], [6, 1]], 1, rate=1.0, **gossip)
    assert result.models.tolist() == [[0, 1], [3, 1], [6, 1]]
    assert result.summary["consensus_distance"] == pytest.approx(6**0.5)
    table = result.metrics
    distance = table[table.metric == "consensus_distance"]
    assert distance.scope.tolist() == [
        "nodes",
        "nodes",
    ] and distance.value.tolist() == pytest.approx([0, 6**0.5])


@pytest.mark.parametrize("parts", [{}, GRAPH], ids=["server", "graph"])
def test_clients_are_judged_on_their_own_held_out_examples(parts):
    run = Run(evaluation=Evaluation(clients=0.3), **parts)
    training = run.task.shards
    accuracy = []
    for client in range(len(training)):
        own = run.held_out.shard(client)
        assert len(own) and not np.isin(own, training.shard(client)).any()
        model = run.result.models[client if parts == GRAPH else 0]
        accuracy.append(run.scores(model, run.dataset.train.take(own))[1])
    assert np.std(accuracy) > 0
    assert run.measured("client", "accuracy") == pytest.approx(accuracy)
    assert run.measured("clients", "accuracy_mean") == pytest.approx([np.mean(accuracy)])
    assert run.measured("clients", "accuracy_min") == pytest.approx([min(accuracy)])
    for quantile in (10, 25, 50, 75, 90):
        assert run.measured("clients", f"accuracy_q{quantile}") == pytest.approx(
            [np.quantile(accuracy, quantile / 100)]
        )


def test_no_client_values_unless_asked_for():
    table = Run().result.metrics
    assert not (table.scope == "clients").any() and set(table[table.scope == "client"].metric) == {
        "participations"
    }


@pytest.mark.parametrize(
    ("every", "rounds", "evaluated"),
    [(3, 7, [0, 3, 6, 7]), (3, 6, [0, 3, 6]), (1, 3, [0, 1, 2, 3]), (100, 5, [0, 5])],
)
def test_schedule_has_the_first_models_and_the_last_round(every, rounds, evaluated):
    table = Run(rounds, evaluation=Evaluation(every=every)).result.metrics
    for metric in ("accuracy", "seconds"):
        assert table[table.metric == metric]["round"].tolist() == evaluated


def test_a_choice_of_nodes_is_keyed_and_stays():
    def nodes(seed: int) -> list[int]:
        run = Run(3, evaluation=Evaluation(every=1, nodes=3), seed=seed, **GRAPH)
        chosen = np.sort(
            run.result.metrics.query("scope == 'node' and metric == 'loss'").node.to_numpy()
        )
        scores = [run.scores(run.result.models[node], run.dataset.test) for node in chosen]
        assert run.measured("node", "loss") == pytest.approx([loss for loss, _ in scores], abs=1e-6)
        assert run.measured("nodes", "accuracy_mean") == pytest.approx(
            [np.mean([accuracy for _, accuracy in scores])]
        )
        return chosen.tolist()

    choices = [nodes(seed) for seed in range(4)]
    assert all(len(set(choice)) == 3 for choice in choices)
    assert choices[0] == nodes(0) and len({tuple(choice) for choice in choices}) > 1


def test_more_nodes_than_there_are_is_all_of_them():
    assert Run(1, evaluation=Evaluation(nodes=50), **GRAPH).measured("node", "loss").shape == (8,)


@pytest.mark.parametrize("most", [1, 2, 3])
def test_how_many_nodes_are_evaluated_in_one_call_changes_nothing_beyond_rounding(
    monkeypatch, most
):
    settings = {"local": LocalTraining(groups=2), "evaluation": Evaluation(per_node=True), **GRAPH}
    eight = Run(**settings)
    monkeypatch.setattr(worker_file, "EVALUATED", most)
    few = Run(**settings)
    assert few.measured("node", "loss") == pytest.approx(eight.measured("node", "loss"), abs=1e-6)
    assert few.measured("node", "accuracy").tolist() == eight.measured("node", "accuracy").tolist()


@pytest.mark.parametrize("parts", [{}, GRAPH], ids=["server", "graph"])
def test_of_equal_logits_the_first_is_the_answer(parts):
    run = Run(1, model=Zeros, evaluation=Evaluation(per_node=True), **parts)
    expected = np.mean(run.dataset.test.y == 0)
    assert 0 < expected < 1
    assert run.measured("mean_model" if parts else "server", "accuracy", 0) == pytest.approx(
        [expected]
    )
    if parts:
        assert run.measured("node", "accuracy", 0) == pytest.approx([expected] * 8)


def test_blocks_of_examples_change_nothing(monkeypatch):
    settings = {"evaluation": Evaluation(clients=0.3), "metrics": [Objective()]}
    whole = Run(**settings).result.summary
    monkeypatch.setattr(evaluation_file, "BLOCK", 7)
    parts = Run(**settings).result.summary
    for name in ("loss", "accuracy", "objective"):
        assert parts[name] == pytest.approx(whole[name], abs=1e-6)


def test_regression_has_losses_and_no_accuracy():
    """One client at 2 in one dimension, start 0, rate 0.25: the point goes to 0.5, and the squared
    error, curvature 1, is 2.25 / 2."""
    result = quadratic_run([[2.0]], 1, rate=0.25)
    assert result.models[0].tolist() == pytest.approx([0.5])
    assert result.summary["loss"] == pytest.approx(1.5**2 / 2)
    assert not any("accuracy" in name for name in [*result.metrics.metric, *result.summary])


@pytest.mark.parametrize(
    ("evaluation", "message"),
    [
        ({"every": 0}, r"^Evaluation\.every=0: "),
        ({"split": "train"}, r"^Evaluation\.split='train': input should be 'test' or 'validation'"),
        ({"clients": 1.0}, r"^Evaluation\.clients=1\.0: "),
        ({"nodes": 0}, r"^Evaluation\.nodes=0: "),
        ({"target": 70}, r"^Evaluation\.target=70: "),
    ],
)
def test_refused_settings(evaluation, message):
    with pytest.raises(ConfigError, match=message):
        Evaluation(**evaluation)


def test_settings_that_the_data_do_not_allow_are_refused():
    with pytest.raises(
        ConfigError, match=r"^evaluation\.split='validation': needs data\.validation above 0$"
    ):
        blobs_simulation(evaluation=Evaluation(split="validation")).prepare()
    with pytest.raises(
        ConfigError,
        match=r"^evaluation\.target=0\.7: is an accuracy, and regression has none; use null$",
    ):
        blobs_simulation(
            data=Quadratics(centres=[[1.0]]), model=Point, evaluation=Evaluation(target=0.7)
        ).prepare()


def test_evaluating_does_not_change_the_run():
    local = LocalTraining(steps=2, batch_size=4)
    seldom, often = (
        Run(4, local=local),
        Run(4, local=local, evaluation=Evaluation(every=1), metrics=[Objective()]),
    )
    assert seldom.result.models.tobytes() == often.result.models.tobytes()
