"""Attacks: by hand, who attacks, and what it does to a mean."""

import numpy as np
import pytest
import torch
from scipy.stats import norm

from fedsim.algorithms import FedAvg, FedSpeed
from fedsim.attacks import GaussianNoise, InnerProduct, LabelFlip, LittleIsEnough, SignFlip
from fedsim.attacks.colluding import largest_deviation
from fedsim.network.topology import Ring
from fedsim.participation import Uniform
from fedsim.protocols import Gossip
from tests.helpers import Ticks, blobs_simulation, quadratic_run

UPDATES = torch.tensor([[1.0, 2.0], [3.0, -2.0], [10.0, 10.0], [5.0, 6.0]])
HOSTILE = np.array([False, False, True, False])
MEAN, SPREAD = torch.tensor([3.0, 2.0]), torch.tensor([(8 / 3) ** 0.5, (32 / 3) ** 0.5])


def test_forged_updates_by_hand():
    torch.testing.assert_close(
        SignFlip(scale=2.0).forge(UPDATES, HOSTILE, 0, 0), torch.tensor([[-20.0, -20.0]])
    )
    torch.testing.assert_close(
        InnerProduct(scale=0.5).forge(UPDATES, HOSTILE, 0, 0), -0.5 * MEAN[None]
    )
    torch.testing.assert_close(
        LittleIsEnough(deviations=2.0).forge(UPDATES, HOSTILE, 0, 0), (MEAN - 2 * SPREAD)[None]
    )
    # K = floor(4 / 2 + 1) - 1 = 2 more are needed: (4 - 1 - 2) / 3 < 1/2
    assert largest_deviation(4, 1) == 0
    expected = norm.ppf((50 - 12 - 14) / 38)
    assert largest_deviation(50, 12) == pytest.approx(expected) and expected > 0.3
    # Attackers are the majority
    assert largest_deviation(4, 3) == 0 and largest_deviation(12, 8) == pytest.approx(
        norm.ppf(3 / 4)
    )


def test_all_attackers_of_a_collusion_send_the_same_and_alone_they_can_do_nothing():
    hostile = np.array([True, False, True, False])
    for attack in (InnerProduct(), LittleIsEnough()):
        forged = attack.forge(UPDATES, hostile, 0, 0)
        assert forged.shape == (2, 2) and torch.equal(forged[0], forged[1])
        torch.testing.assert_close(attack.forge(UPDATES, np.ones(4, bool), 0, 0), UPDATES)


def test_noise_has_its_spread_and_is_new_in_every_round():
    hostile, updates = np.ones(3, bool), torch.zeros(3, 20_000)
    drawn = [
        GaussianNoise(std=0.3).forge(updates, hostile, seed, round)
        for seed, round in ((0, 0), (0, 1), (1, 0))
    ]
    for noise in drawn:
        # the standard deviation of a sample of n has the standard error s / sqrt(2 n)
        np.testing.assert_allclose(noise.std(dim=1), 0.3, atol=5 * 0.3 / 40_000**0.5)
    values = torch.cat(drawn)
    assert len(torch.unique(values[:, 0])) == 9
    torch.testing.assert_close(drawn[0], GaussianNoise(std=0.3).forge(updates, hostile, 0, 0))


def test_attackers_are_a_share_of_the_clients_and_the_same_for_every_algorithm():
    attack = SignFlip(share=0.3)
    chosen = attack.attackers(5, 40)
    assert chosen.sum() == 12 and (chosen == InnerProduct(share=0.3).attackers(5, 40)).all()
    assert (chosen != attack.attackers(6, 40)).any()
    with (
        Ticks(blobs_simulation(2, attack=attack)) as one,
        Ticks(blobs_simulation(2, attack=attack, client=FedSpeed())) as other,
    ):
        np.testing.assert_array_equal(one.task.attackers, other.task.attackers)


def test_one_round_with_a_flipped_sign():
    """From 0, one step of 1/2 towards 2, 4, 6, 8; who attacks sends the negative."""
    attack = SignFlip(share=0.5)
    signs = np.where(attack.attackers(0, 4), -1, 1)
    models = quadratic_run(
        [[2], [4], [6], [8]], 1, attack=attack, aggregator=FedAvg(weighting="uniform")
    ).models
    np.testing.assert_allclose(models, [[np.mean(signs * [1, 2, 3, 4])]], rtol=1e-6)


def test_over_a_graph_neighbours_hear_the_forged_update():
    attack = SignFlip(share=0.25)
    hostile = attack.attackers(0, 4)
    graph = {"protocol": Gossip(), "topology": Ring(), "aggregator": FedAvg(weighting="uniform")}
    models = quadratic_run([[2], [4], [6], [8]], 1, attack=attack, **graph).models[:, 0]
    sent = np.where(hostile, -1, 1) * [1, 2, 3, 4]
    np.testing.assert_allclose(
        models, [np.mean(sent[[i, (i - 1) % 4, (i + 1) % 4]]) for i in range(4)], rtol=1e-6
    )


def test_flipped_labels_are_those_of_attackers_only_and_metrics_keep_the_true_ones():
    attack = LabelFlip(share=0.5)
    with Ticks(blobs_simulation(2, attack=attack)) as ticks:
        task = ticks.task
        y, shards, hostile = task.dataset.train.y, task.shards, task.attackers
        for client in range(len(shards)):
            mine = shards.shard(client)
            np.testing.assert_array_equal(
                task.poisoned[mine],
                task.dataset.classes - 1 - y[mine] if hostile[client] else y[mine],
            )
    losses = [
        blobs_simulation(20, attack=LabelFlip(share=share)).run().summary["loss"]
        for share in (0.0, 0.5, 0.99)
    ]
    assert losses[0] + 0.1 < losses[1] < losses[2] - 0.1


def test_what_is_measured_over_nodes_leaves_attackers_out():
    attack = SignFlip(share=0.25, scale=50.0)
    graph = {"protocol": Gossip(order="combine_then_adapt"), "topology": Ring()}
    run = blobs_simulation(1, attack=attack, **graph).run()
    nodes = run.metrics[(run.metrics.scope == "node") & (run.metrics.metric == "loss")]
    assert sorted(nodes.node) == np.flatnonzero(~attack.attackers(0, 8)).tolist()


def test_the_same_bytes_as_without_attackers_where_nobody_attacks():
    still = blobs_simulation(3, participation=Uniform(cohort=5)).run().models
    np.testing.assert_array_equal(
        blobs_simulation(3, participation=Uniform(cohort=5), attack=SignFlip(share=0.0))
        .run()
        .models,
        still,
    )
