"""Graphs whose receivers only average: mixed by columns, against dense products and against the
general exchange."""

import threading

import numpy as np
import pytest
import torch
from scipy.sparse import random_array

from fedsim.algorithms import FedAU, FedAvg, FedCM, FedSam, VarianceCorrection
from fedsim.attacks import InnerProduct
from fedsim.data import Synthetic
from fedsim.data.partition import Iid
from fedsim.engine import inprocess
from fedsim.engine.inprocess import InProcess
from fedsim.engine.ray import Ray
from fedsim.evaluation import ClientSpread
from fedsim.network.mixing import Uniform as UniformMixing
from fedsim.network.topology import RandomRegular, Star
from fedsim.participation import Bernoulli, Full
from fedsim.protocols import Gossip, Walk
from fedsim.rounds import weighted_sums as products
from fedsim.rounds.failures import Failures
from fedsim.rounds.jobs import Task
from fedsim.rounds.screening import Diverged
from fedsim.rounds.weighted_sums import LINE, block_width, product, shares, tiles
from fedsim.rounds.worker import Worker
from fedsim.training import LocalTraining
from tests.helpers import Ticks, blobs_simulation, mlp

GRAPH = {
    "protocol": Gossip(same_start=False),
    "topology": RandomRegular(degree=3),
    "model": mlp(16),
}


@pytest.fixture
def matrix():
    found = random_array(
        (7, 11), density=0.4, format="csr", dtype=np.float32, rng=np.random.default_rng(0)
    )
    found.data[found.indptr[2] : found.indptr[3]] = 0
    return found


def test_a_product_is_that_of_dense_matrices_whatever_columns_it_is_asked_for(matrix):
    rows = torch.randn(20, 100, generator=torch.Generator().manual_seed(0))
    whole = product(matrix, rows)
    np.testing.assert_allclose(whole, matrix.toarray() @ rows[:11].numpy(), rtol=1e-5, atol=1e-6)
    for columns in (slice(0, 100), slice(16, 48), slice(96, 100), slice(3, 4)):
        assert torch.equal(product(matrix, rows[:, columns].contiguous()), whole[:, columns])
    some = np.array([5, 2])
    assert torch.equal(product(matrix[some], rows), whole[some])


@pytest.mark.parametrize("size", [1, 15, 16, 100, 50_890])
@pytest.mark.parametrize("count", [1, 3, 16])
def test_shares_and_tiles_cover_all_columns_in_whole_cache_lines(size, count):
    found = shares(size, count)
    assert len(found) <= count
    pieces = [tile for share in found for tile in tiles(share, 100)]
    assert [at for piece in pieces for at in range(piece.start, piece.stop)] == list(range(size))
    assert all(piece.start % LINE == 0 for piece in pieces)


CASES = {
    "everyone": {"participation": Full()},
    "some": {"participation": Bernoulli(probability=0.6)},
    "unequal weights": {
        "participation": Bernoulli(probability=0.6),
        "mixing": UniformMixing(over="heard"),
        "topology": Star(),
    },
    "by size": {"aggregator": FedAvg(), "participation": Bernoulli(probability=0.6)},
    "learned weights": {"aggregator": FedAU(cutoff=3), "participation": Bernoulli(probability=0.6)},
    "models first": {"protocol": Gossip(order="combine_then_adapt", same_start=False)},
    "steps uphill": {"client": FedSam(), "participation": Bernoulli(probability=0.6)},
    "forged messages": {
        "attack": InnerProduct(share=0.3),
        "participation": Bernoulli(probability=0.6),
    },
    "broken messages": {"failures": Failures(broken=0.2, policy="drop")},
    "dropouts": {"failures": Failures(dropout=0.3)},
    "tokens": {"protocol": Walk(tokens=3)},
}


@pytest.fixture(params=["whole rows", "blocks"])
def blocks(request, monkeypatch):
    """Models as they are stored for few receivers, and as for many."""
    if request.param != "whole rows":
        monkeypatch.setattr(products, "TILE", 1)
    return request.param != "whole rows"


@pytest.mark.parametrize("parts", CASES.values(), ids=CASES)
def test_the_average_is_what_the_general_exchange_gives(monkeypatch, parts, blocks):
    parts = {"aggregator": FedAvg(weighting="uniform"), **GRAPH, **parts}
    with Ticks(blobs_simulation(4, **parts)) as ticks:
        assert ticks.session.arena["models/1"].shape[0] == (
            len(range(0, ticks.task.layout.size, 32)) if blocks else 1
        )
    jobs, average = [], Worker._average
    monkeypatch.setattr(
        Worker, "_average", lambda self, job: jobs.append(job) or average(self, job)
    )
    found = blobs_simulation(4, **parts).run()
    assert jobs
    monkeypatch.setattr(Task, "averages", False)
    np.testing.assert_allclose(
        found.models, blobs_simulation(4, **parts).run().models, rtol=0, atol=1e-6
    )
    assert np.abs(found.models - found.models[0]).max() > 1e-3


@pytest.mark.parametrize("count", [1, 3, 16])
def test_the_number_of_jobs_changes_no_bit(count, blocks):
    one, many = (
        blobs_simulation(3, local=local, **GRAPH).run().models
        for local in map(with_groups, (1, count))
    )
    assert one.tobytes() == many.tobytes()


@pytest.mark.parametrize(
    "parts", [{}, CASES["some"], CASES["models first"]], ids=["everyone", "some", "models first"]
)
def test_how_models_are_stored_changes_no_bit(monkeypatch, parts):
    """Nor anything that is measured of them."""
    settings = {**GRAPH, "metrics": [ClientSpread()], **parts}
    found = blobs_simulation(4, **settings).run()
    monkeypatch.setattr(products, "TILE", 1)
    blocks = blobs_simulation(4, **settings).run()
    assert (
        blocks.models.tobytes() == found.models.tobytes()
        and blocks.summary["metrics_sha256"] == found.summary["metrics_sha256"]
    )


@pytest.mark.parametrize("other", [1, products.TILE], ids=["blocks", "whole rows"])
def test_a_run_goes_on_from_what_was_stored_in_either_way(monkeypatch, blocks, other):
    simulation = blobs_simulation(4, **{**GRAPH, **CASES["some"]})
    with Ticks(simulation) as ticks:
        ticks.run(2)
        state = {name: array.copy() for name, array in ticks.rounds.state().items()}
        expected = ticks.run(2)
    monkeypatch.setattr(products, "TILE", other)
    with Ticks(simulation) as again:
        again.rounds.restore(state)
        again.round = 2
        assert again.run(2).tobytes() == expected.tobytes()


class Garbling(FedAvg):
    """A user's aggregator, what it makes of updates is not finite."""

    def encode(self, messages, memory):
        return {name: message * float("nan") for name, message in messages.items()}, memory


def test_what_an_aggregator_makes_of_finite_updates_is_looked_at(blocks):
    with Ticks(blobs_simulation(3, **GRAPH, aggregator=Garbling(weighting="uniform"))) as ticks:
        assert ticks.task.averages
        with pytest.raises(Diverged, match="^round 0: the next model of a node is not finite"):
            ticks.run()


def test_what_is_not_finite_is_found_where_it_may_be(blocks):
    """Policy keep lets messages that are not finite through: their average is not."""
    with Ticks(blobs_simulation(3, **GRAPH, failures=Failures(broken=0.2, policy="keep"))) as ticks:
        with pytest.raises(Diverged, match="^round 0: the next model of a node is not finite"):
            ticks.run()
        assert np.isfinite(ticks.models).all()


@pytest.mark.parametrize(
    ("rows", "columns", "width"),
    [(4, 500, 500), (256, 50_890, 50_890), (257, 50_890, 992), (1000, 200, 200)],
)
def test_columns_lie_together_where_rows_of_a_tile_are_shorter_than_a_page(rows, columns, width):
    assert block_width(rows, columns) == width


def test_many_nodes_give_the_same_bits_in_process_on_workers_and_without_shared_memory(ray_session):
    parts = {
        "data": Synthetic(samples=900, shape=[20], test=100),
        "partition": Iid(clients=300),
        "model": mlp(64),
        "participation": Bernoulli(probability=0.7),
        "protocol": Gossip(),
        "topology": RandomRegular(degree=3),
    }
    engines = [InProcess(), Ray(workers=1), Ray(workers=2), Ray(workers=2, shared_memory=False)]
    first, *others = [blobs_simulation(2, engine=engine, **parts).run() for engine in engines]
    assert first.models.shape[1] > block_width(300, first.models.shape[1])
    assert {result.models.tobytes() for result in others} == {first.models.tobytes()}


def with_groups(groups: int):
    return LocalTraining(steps=3, batch_size=4, rate=0.2, groups=groups, clients_per_batch=1)


@pytest.mark.parametrize(
    ("parts", "averages"),
    [
        ({}, True),
        ({"correction": VarianceCorrection()}, False),
        ({"aggregator": FedAvg(weighting="uniform", rate=0.5)}, False),
        ({"client": FedCM()}, False),
    ],
)
def test_who_only_averages(parts, averages):
    assert blobs_simulation(**{**GRAPH, **parts}).prepare().task.averages is averages


@pytest.fixture
def three_threads(monkeypatch):
    """torch has three, and mixing is always shared by them, two jobs at once for sure. The threads
    in which jobs of mixing ran."""
    monkeypatch.setattr(inprocess, "WORTH_A_THREAD", 1)
    average, seen, one_by_one, two = (
        Worker._average,
        set(),
        threading.Lock(),
        threading.Barrier(2, timeout=60),
    )

    def noted(self, job):
        thread = threading.current_thread()
        with one_by_one:
            waits = thread is not threading.main_thread() and thread not in seen and len(seen) < 2
            seen.add(thread)
        if waits:
            two.wait()
        return average(self, job)

    monkeypatch.setattr(Worker, "_average", noted)
    torch.set_num_threads(3)
    yield seen
    torch.set_num_threads(1)


@pytest.mark.parametrize("case", CASES)
def test_threads_share_the_mixing_and_change_no_bit(case, three_threads):
    parts = {**GRAPH, **CASES[case], "model": mlp(200)}
    found = blobs_simulation(**parts).run().models
    assert threading.main_thread() not in three_threads and 2 <= len(three_threads) <= 3
    assert torch.get_num_threads() == 3
    torch.set_num_threads(1)
    three_threads.clear()
    np.testing.assert_array_equal(found, blobs_simulation(**parts).run().models)
    assert three_threads == {threading.main_thread()}


def test_what_goes_wrong_in_a_thread_is_raised(three_threads, monkeypatch):
    def no_memory(*arguments):
        raise MemoryError("on purpose")

    monkeypatch.setattr("fedsim.rounds.worker.average", no_memory)
    with pytest.raises(MemoryError, match="on purpose"):
        blobs_simulation(**GRAPH).run()
    assert all(not thread.is_alive() for thread in three_threads)
