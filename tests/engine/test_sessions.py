"""Jobs and groups of the in-process engine: what may change a result and what may not, kept state,
and what is left behind."""

import dataclasses

import numpy as np
import pytest
import torch

from fedsim.algorithms import FedAvg, FedSpeed
from fedsim.data.dataset import Split
from fedsim.engine import InProcess
from fedsim.engine.inprocess import InProcessSession
from fedsim.errors import ConfigError
from fedsim.network.topology import Ring
from fedsim.participation import Uniform
from fedsim.protocols import Gossip
from fedsim.rounds import worker as worker_file
from fedsim.rounds.jobs import TrainJob
from fedsim.training import LocalTraining
from fedsim.training.examples import Examples
from tests.helpers import Blobs, Cohorts, Ticks, blobs_simulation


def local(**settings) -> LocalTraining:
    return LocalTraining(**{"steps": 3, "batch_size": 4, "rate": 0.2, **settings})


GOSSIP = {"protocol": Gossip(same_start=False), "topology": Ring()}
SPEED = {"client": FedSpeed(mean_dual="none"), "participation": Uniform(cohort=5)}


@pytest.mark.parametrize(
    "parts",
    [{}, SPEED, GOSSIP, {**GOSSIP, **SPEED}],
    ids=["server", "server, state", "graph", "graph, state"],
)
def test_execution_chunks_and_groups_change_nothing_beyond_rounding(parts):
    settings = [
        {},
        {"clients_per_batch": 1},
        {"clients_per_batch": 3},
        {"groups": 1},
        {"groups": 3},
        {"execution": "looped"},
    ]
    first, *others = [
        blobs_simulation(4, local=local(**setting), **parts).run().models for setting in settings
    ]
    for other in others:
        np.testing.assert_allclose(other, first, rtol=0, atol=1e-6)


def jobs_of(monkeypatch, cohorts: list, **settings) -> list[list[TrainJob]]:
    """The training jobs of each round that has any."""
    phases = []
    run = InProcessSession.run
    monkeypatch.setattr(
        InProcessSession, "run", lambda self, jobs: phases.append(jobs) or run(self, jobs)
    )
    with Ticks(blobs_simulation(local=local(**settings), participation=Cohorts(*cohorts))) as ticks:
        ticks.run(len(cohorts))
    return [[job for job in jobs if isinstance(job, TrainJob)] for jobs in phases]


def test_the_cohort_is_cut_into_groups_of_whole_chunks_in_client_order(monkeypatch):
    (first, second) = jobs_of(monkeypatch, [range(8), [2, 5, 7]], clients_per_batch=2, groups=3)
    assert [job.clients.tolist() for job in first] == [[0, 1, 2], [3, 4, 5], [6, 7]]
    assert [job.clients.tolist() for job in second] == [[2, 5], [7]]  # two chunks: no third group
    assert [job.columns.tolist() for job in second] == [[0, 1], [2]]
    sizes = 3 + np.arange(8)
    assert [job.cost for job in first] == [
        (3 * np.minimum(sizes[job.clients], 4)).sum() for job in first
    ]
    total = sum(job.weights["update"].sum() for job in first)
    assert total == pytest.approx(1) and first[0].weights["update"] == pytest.approx(
        sizes[:3] / sizes.sum()
    )


def test_an_empty_cohort_is_no_work(monkeypatch):
    (only,) = jobs_of(monkeypatch, [[], [1], []])
    assert [job.round for job in only] == [1]


def test_state_is_kept_for_those_who_took_part_and_nobody_else():
    simulation = blobs_simulation(client=FedSpeed(), participation=Cohorts([1, 4], [4, 6], [0]))
    with Ticks(simulation) as ticks:
        ticks.run()
        first = ticks.kept("rule.dual")
        ticks.run()
        second = ticks.kept("rule.dual")
        assert (ticks.rounds.clients.rows.row >= 0).tolist() == [
            False,
            True,
            False,
            False,
            True,
            False,
            True,
            False,
        ]
    assert np.flatnonzero(first.any(axis=1)).tolist() == [1, 4]
    assert np.flatnonzero(second.any(axis=1)).tolist() == [1, 4, 6]
    assert np.array_equal(second[1], first[1]) and not np.array_equal(second[4], first[4])


def test_first_participation_starts_from_the_rules_own_state():
    class Counting(FedSpeed):
        """The dual counts participations, from 100."""

        def init(self, x):
            return {"dual": torch.full_like(x, 100.0)}

        def direction(self, grad, x, anchor, state, shared):
            return torch.zeros_like(x)

        def finish(self, x, anchor, state, shared, info):
            return {"update": x - anchor}, {"dual": state["dual"] + 1}

    rule = Counting(mean_dual="none")
    with Ticks(blobs_simulation(client=rule, participation=Cohorts([0, 1], [1, 2], [1]))) as ticks:
        ticks.run(3)
        assert ticks.kept("rule.dual")[:, 0].tolist() == [101, 103, 101, 0, 0, 0, 0, 0]


def test_momentum_is_kept_on_request():
    kept = []
    for keep in (True, False):
        with Ticks(
            blobs_simulation(
                local=local(momentum=0.9, keep_optimizer=keep), participation=Cohorts([3], [3])
            )
        ) as ticks:
            models = ticks.run(2)
            kept.append((list(ticks.session.arena.named("client/")), models))
    assert kept[0][0] == ["local.momentum"] and kept[1][0] == []
    assert not np.array_equal(kept[0][1], kept[1][1])


def test_threads_are_given_back(monkeypatch):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    seen = []
    monkeypatch.setattr(
        FedAvg,
        "step",
        lambda self, base, mixed, state, info: (
            seen.append(torch.get_num_threads()) or (base, state)
        ),
    )
    try:
        blobs_simulation(1).run()
        assert seen == [1] and torch.get_num_threads() == 2
        monkeypatch.setattr(FedAvg, "step", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            blobs_simulation(1).run()
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("device", ["gpu", "cuda:x", "", "meta", "mps"])
def test_unknown_devices_are_refused(device):
    with pytest.raises(
        ConfigError, match=rf"^engine\.device='{device}': accepted are cpu, cuda, cuda:0"
    ):
        InProcess(device=device).check()


def test_a_gpu_that_is_not_there_is_refused_before_anything_starts(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"^engine\.device='cuda': no GPU is available here"):
        blobs_simulation(engine=InProcess(device="cuda"), folder=tmp_path / "run").run()
    assert not list(tmp_path.iterdir())


def images():
    """A data set of uint8 images with values per channel."""
    dataset = Blobs().load(0)
    x = np.arange(4 * 2 * 3 * 3, dtype=np.uint8).reshape(4, 2, 3, 3)
    mean, std = (
        np.array(values, np.float32).reshape(2, 1, 1) for values in ([0.1, 0.2], [0.5, 2.0])
    )
    return dataclasses.replace(
        dataset, train=Split(x, np.arange(4)), mean=mean, std=std, scale=1 / 255
    )


def test_examples_are_normalised_when_used():
    dataset = images()
    examples = Examples(dataset.train, dataset, torch.device("cpu"))
    assert examples.x.dtype == torch.uint8 and len(examples) == 4
    index = np.array([[2, 0], [3, 3]])
    x, y = examples.batch(index)
    expected = (dataset.train.x[index] / 255 - dataset.mean) / dataset.std
    np.testing.assert_allclose(x.numpy(), expected, rtol=0, atol=1e-6)
    assert x.dtype == torch.float32 and y.tolist() == index.tolist()
    # In memory that is used again, smaller and larger
    for again in (index, index[:1], index.repeat(3, axis=1)):
        assert all(
            torch.equal(found, afresh)
            for found, afresh in zip(examples.staged(again), examples.batch(again), strict=True)
        )


def test_tokens_are_used_as_they_are():
    dataset = dataclasses.replace(
        images(), train=Split(np.arange(12).reshape(4, 3), np.arange(4)), tokens=True
    )
    x, _ = Examples(dataset.train, dataset, torch.device("cpu")).batch(np.array([1, 3]))
    assert x.tolist() == [[3, 4, 5], [9, 10, 11]]
    x, _ = Examples(dataset.train, dataset, torch.device("cpu")).staged(np.array([1, 3]))
    assert x.tolist() == [[3, 4, 5], [9, 10, 11]]


@pytest.mark.parametrize("index", [slice(1, 3), np.array([1, 2])], ids=["slice", "array"])
def test_using_examples_leaves_the_data_alone(index):
    x = np.arange(8, dtype=np.float32).reshape(4, 2)
    dataset = dataclasses.replace(
        images(),
        train=Split(x, np.arange(4)),
        mean=np.ones(2, np.float32),
        std=np.full(2, 2, np.float32),
        scale=1.0,
    )
    examples = Examples(dataset.train, dataset, torch.device("cpu"))
    for _ in range(2):
        assert examples.batch(index)[0].tolist() == [[0.5, 1.0], [1.5, 2.0]]
    assert x.tolist() == np.arange(8).reshape(4, 2).tolist()


def test_evaluation_batches_change_nothing(monkeypatch):
    whole = blobs_simulation(2).run().summary
    monkeypatch.setattr(worker_file, "EVALUATION_BATCH", 7)
    parts = blobs_simulation(2).run().summary
    assert (
        parts["loss"] == pytest.approx(whole["loss"], abs=1e-6)
        and parts["accuracy"] == whole["accuracy"]
    )
