"""Partitioned gossip: one merge by hand, a plain loop over rounds, and its bytes."""

import numpy as np
import pytest
import torch

from fedsim import rng
from fedsim.algorithms import PartitionedGossip
from fedsim.algorithms.base import RoundInfo
from fedsim.data.partition import Natural
from fedsim.errors import ConfigError
from fedsim.network.directed_graphs import RandomOut
from fedsim.network.mixing import Uniform
from fedsim.network.topology import Complete
from fedsim.protocols import Gossip
from fedsim.simulation.simulation import Simulation
from fedsim.training import LocalTraining
from tests.helpers import Cohorts, Point, Quadratics, Ticks, blobs_simulation

GRAPH = {"protocol": Gossip(), "mixing": Uniform()}
NODES, WIDTH, PARTS = 6, 10, 3
SPANS = [slice(0, 3), slice(3, 7), slice(7, 10)]


def part_of(node, round, parts=PARTS, seed=0):
    return int(rng.uniform(seed, "part", round, np.array([node]))[0] * parts)


@pytest.mark.parametrize(
    "topology",
    [RandomOut(degree=1, per_round=True), RandomOut(degree=2, per_round=True), Complete()],
    ids=repr,
)
def test_a_plain_loop_gives_the_same(topology):
    """Ages follow local steps; parts that arrive together are merged together; a node that is away
    keeps parts and ages."""
    centres = 4 * np.random.Generator(np.random.Philox(8)).standard_normal((NODES, WIDTH))
    cohorts = [
        [0, 1, 2, 3],
        list(range(NODES)),
        [2, 4, 5],
        list(range(NODES)),
        [0, 5],
        list(range(NODES)),
    ]
    data, several, merged = Quadratics(centres=centres.tolist()), 0, 0
    graph = {**GRAPH, "topology": topology, "participation": Cohorts(*cohorts)}
    local = LocalTraining(steps=2, rate=0.5)
    with Ticks(
        Simulation(
            data, Natural(), Point, aggregator=PartitionedGossip(parts=PARTS), local=local, **graph
        )
    ) as ticks:
        x, ages = np.zeros((NODES, WIDTH)), np.zeros((NODES, PARTS))
        for round, cohort in enumerate(cohorts):
            y = x.copy()
            for node in cohort:
                y[node] = centres[node] + (1 - local.rate) ** 2 * (x[node] - centres[node])
                ages[node] += 2
            hears = topology.adjacency(NODES, 0, round).toarray()
            following, after = y.copy(), ages.copy()
            for r in cohort:
                for part, span in enumerate(SPANS):
                    senders = [s for s in cohort if hears[r, s] and part_of(s, round) == part]
                    weights = [ages[r, part], *(ages[s, part] for s in senders)]
                    following[r, span] = np.average(
                        [y[r, span], *(y[s, span] for s in senders)], axis=0, weights=weights
                    )
                    after[r, part] = max(weights)
                    several, merged = several + (len(senders) > 1), merged + (len(senders) == 1)
            x, ages = following, after
        np.testing.assert_allclose(ticks.run(len(cohorts)), x, atol=1e-5)
        np.testing.assert_array_equal(ticks.rounds.weighing.links["ages"], ages)
    assert merged > 5 and (several > 2 or topology == RandomOut(degree=1, per_round=True))


def test_a_merge_by_hand():
    """Receiver 7, trained to 1 everywhere from 0, hears 2 (shares 0.25) and 5 (0.5)."""
    parts = PartitionedGossip(parts=2)
    info = RoundInfo(
        3, 0, np.array([7]), torch.tensor([[2.0]]), 9, 0.1, 1.0, senders=np.array([2, 5, 7])
    )
    updates = torch.tensor([[5.0] * 4, [9.0] * 4, [1.0] * 4])
    merged = parts.merge(updates, torch.tensor([0.25, 0.5, 1.0]), info)
    expected = np.ones(4)
    for node, share, value in ((2, 0.25, 5.0), (5, 0.5, 9.0)):
        start = 2 * part_of(node, 3, parts=2)
        expected[start : start + 2] += share * (value - 1)
    np.testing.assert_allclose(merged, expected)


def test_bytes_are_those_of_a_part_and_its_age():
    P = 4 * 5 + 5 + 5 * 3 + 3
    # 6 and 2 messages
    graph = {**GRAPH, "topology": Complete(), "participation": Cohorts([0, 1, 2], [4], [5, 7])}
    for parts, numbers in ((1, P + 1), (10, 5 + 1)):
        summary = (
            blobs_simulation(3, aggregator=PartitionedGossip(parts=parts), **graph).run().summary
        )
        assert summary["bytes_up"] == summary["bytes_down"] == 8 * numbers * 4


def test_needs_a_graph():
    with pytest.raises(ConfigError, match="protocol=gossip"):
        blobs_simulation(aggregator=PartitionedGossip()).prepare()
    with pytest.raises(ConfigError, match="adapt_then_combine"):
        graph = {**GRAPH, "topology": Complete(), "protocol": Gossip(order="combine_then_adapt")}
        blobs_simulation(aggregator=PartitionedGossip(), **graph).prepare()
