"""Bytes that clients send and receive, counted by hand from the cohorts and the links that
carried."""

import pytest
import torch

from fedsim.algorithms import (
    COHORT,
    Aggregator,
    ClientRule,
    FedAU,
    FedAvg,
    FedSpeed,
    VarianceCorrection,
)
from fedsim.data.partition import Iid
from fedsim.network.topology import RandomRegular, Ring
from fedsim.participation import Bernoulli
from fedsim.protocols import Gossip
from fedsim.training import LocalTraining
from tests.helpers import Cohorts, blobs_simulation

P = 4 * 5 + 5 + 5 * 3 + 3  # parameters of the model of `blobs_simulation`; two weight tensors
# 6 participations; over a ring 0-1 and 1-2 are the only pairs that meet
COHORTS = Cohorts([0, 1, 2], [4], [], [5, 7])


class Controlled(ClientRule):
    """Sends two vectors, and reads one that is kept at the receiver."""

    channels = {"update": COHORT, "control": COHORT}

    def init_shared(self, x):
        return {"control": torch.zeros_like(x)}

    def finish(self, x, anchor, state, shared, info):
        return {"update": x - anchor, "control": anchor - x}, state


class Absorbing(ClientRule):
    absorbs_update = True


class Halved(Aggregator):
    def coefficients(self, links, heard, reports, state):
        return heard.weight / 2, state


@pytest.mark.parametrize(
    ("parts", "up", "down"),
    [
        ({}, P, P),
        ({"aggregator": FedAU()}, P, P),
        ({"client": Controlled()}, 2 * P, 2 * P),
        # Duals move by the updates, and their mean stays at the server
        ({"client": FedSpeed()}, P, P),
        ({"client": FedSpeed(mean_dual="active")}, P, P),
        ({"correction": VarianceCorrection()}, P + 2, P),
        ({"correction": VarianceCorrection(tensors="all")}, P + 4, P),
        ({"local": LocalTraining(momentum=0.5, keep_optimizer=True)}, P, P),
    ],
)
def test_bytes_at_a_server_are_those_of_the_cohorts_messages(parts, up, down):
    result = blobs_simulation(4, participation=COHORTS, **parts).run()
    assert result.summary["bytes_up"] == 6 * up * 4 and result.summary["bytes_down"] == 6 * down * 4


@pytest.mark.parametrize(
    ("parts", "numbers"),
    [
        # The trained model alone, as model and update have the same weights
        ({"aggregator": Aggregator()}, P),
        ({"aggregator": FedAvg(weighting="uniform")}, P),
        ({"aggregator": FedAvg(weighting="uniform", rate=0.5)}, 2 * P),  # model and update
        ({"aggregator": FedAvg(weighting="all")}, 2 * P),
        ({"aggregator": FedAvg(weighting="size")}, 2 * P),
        ({"aggregator": FedAU()}, 2 * P),
        ({"aggregator": Halved()}, 2 * P),
        # An update stays at home
        ({"aggregator": Halved(), "protocol": Gossip(order="combine_then_adapt")}, P),
        ({"aggregator": Aggregator(), "client": Absorbing()}, 2 * P),
        ({"aggregator": Aggregator(), "client": Controlled()}, 2 * P),
        ({"aggregator": Aggregator(), "client": FedSpeed(mean_dual="none")}, P),
        ({"aggregator": Aggregator(), "correction": VarianceCorrection()}, P + 2),
    ],
)
def test_bytes_over_a_graph_are_those_of_the_links_that_carried(parts, numbers):
    result = blobs_simulation(
        4, participation=COHORTS, **{"protocol": Gossip(), "topology": Ring(), **parts}
    ).run()
    assert result.summary["bytes_up"] == result.summary["bytes_down"] == 4 * numbers * 4


def test_weighting_by_equal_sizes_sends_no_more_than_equal_weights():
    parts = {
        "partition": Iid(clients=26),
        "participation": Bernoulli(probability=0.6),
        "protocol": Gossip(),
        "topology": RandomRegular(),
    }
    runs = [
        blobs_simulation(3, aggregator=FedAvg(weighting=weighting), **parts).run()
        for weighting in ("uniform", "size")
    ]
    assert runs[0].summary["bytes_up"] == runs[1].summary["bytes_up"] > 0
