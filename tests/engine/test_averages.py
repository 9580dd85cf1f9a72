"""Graphs whose receivers only average: mixed by columns, against dense products and against the general exchange."""

import numpy as np
import pytest
import torch
from scipy.sparse import random_array

from fedsim.algorithms import FedAU, FedAvg, FedCM, FedSam, VarianceCorrection
from fedsim.engine.task import Task
from fedsim.engine.worker import Worker
from fedsim.mixing import Uniform as UniformMixing
from fedsim.participation import Bernoulli, Full
from fedsim.products import LINE, product, shares, tiles
from fedsim.protocols import Gossip
from fedsim.topology import RandomRegular, Star
from tests.helpers import blobs_simulation, mlp

GRAPH = {"protocol": Gossip(same_start=False), "topology": RandomRegular(degree=3), "model": mlp(16)}


@pytest.fixture
def matrix():
    found = random_array((7, 11), density=0.4, format="csr", dtype=np.float32, rng=np.random.default_rng(0))
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
    "unequal weights": {"participation": Bernoulli(probability=0.6), "mixing": UniformMixing(over="heard"), "topology": Star()},
    "by size": {"aggregator": FedAvg(), "participation": Bernoulli(probability=0.6)},
    "learned weights": {"aggregator": FedAU(cutoff=3), "participation": Bernoulli(probability=0.6)},
    "models first": {"protocol": Gossip(order="combine_then_adapt", same_start=False)},
    "steps uphill": {"client": FedSam(), "participation": Bernoulli(probability=0.6)},
}


@pytest.mark.parametrize("parts", CASES.values(), ids=CASES)
def test_the_average_is_what_the_general_exchange_gives(monkeypatch, parts):
    parts = {"aggregator": FedAvg(weighting="uniform"), **GRAPH, **parts}
    jobs, average = [], Worker._average
    monkeypatch.setattr(Worker, "_average", lambda self, job: jobs.append(job) or average(self, job))
    found = blobs_simulation(4, **parts).run()
    assert jobs
    monkeypatch.setattr(Task, "averages", False)
    np.testing.assert_allclose(found.models, blobs_simulation(4, **parts).run().models, rtol=0, atol=1e-6)
    assert np.abs(found.models - found.models[0]).max() > 1e-3


def test_the_number_of_jobs_changes_no_bit():
    one, many = (blobs_simulation(3, local=local, **GRAPH).run().models for local in map(with_groups, (1, 16)))
    assert one.tobytes() == many.tobytes()


def with_groups(groups: int):
    from fedsim.local import LocalTraining

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
