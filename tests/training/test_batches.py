"""Batches: every epoch uses every example once, whoever is drawn together."""

import numpy as np
import pytest
from scipy import stats

from fedsim.data.shards import Shards
from fedsim.training.batches import draw_batches, local_steps
from fedsim.training.settings import LocalTraining

SIZES = np.array([1, 3, 4, 9, 16])  # below, at and above batches of 4
SHARDS = Shards.from_owners(100 + np.arange(SIZES.sum()), np.repeat(np.arange(5), SIZES), 5)
EVERYONE = np.arange(5)


def epochs(number: float, **settings) -> LocalTraining:
    return LocalTraining(**{"steps": None, "epochs": number, "batch_size": 4, **settings})


def used(batches, client: int) -> list[list[int]]:
    """The examples that count, step by step."""
    return [
        batches.index[client, step, : batches.count[client, step]].tolist()
        for step in range(batches.steps[client])
    ]


@pytest.mark.parametrize("last_batch", ["keep", "drop"])
def test_steps_of_an_epoch(last_batch):
    per_epoch = {"keep": [1, 1, 1, 3, 4], "drop": [1, 1, 1, 2, 4]}[last_batch]
    assert local_steps(SIZES, epochs(1, last_batch=last_batch)).tolist() == per_epoch
    assert local_steps(SIZES, epochs(3, last_batch=last_batch)).tolist() == [
        3 * steps for steps in per_epoch
    ]
    assert local_steps(np.array([0, 9]), epochs(1, last_batch=last_batch)).tolist() == [
        0,
        per_epoch[3],
    ]
    assert local_steps(
        np.array([0, 9]), LocalTraining(steps=7, last_batch=last_batch)
    ).tolist() == [0, 7]


def test_parts_of_epochs_are_rounded_and_nobody_idles():
    assert local_steps(SIZES, epochs(0.25)).tolist() == [1, 1, 1, 1, 1]
    assert local_steps(SIZES, epochs(1.5)).tolist() == [2, 2, 2, 4, 6]
    assert local_steps(np.array([0]), epochs(0.25)).tolist() == [0]


def test_each_epoch_uses_each_example_once():
    batches = draw_batches(SHARDS, EVERYONE, epochs(3), seed=1, round=2)
    assert batches.steps.tolist() == [3, 3, 3, 9, 12]
    for client, size in enumerate(SIZES):
        steps = used(batches, client)
        assert [len(step) for step in steps] == {1: [1], 3: [3], 4: [4], 9: [4, 4, 1], 16: [4] * 4}[
            int(size)
        ] * 3
        orders = np.concatenate(steps).reshape(3, size)
        for order in orders:
            assert sorted(order) == SHARDS.shard(client).tolist()
        if size > 4:
            assert (orders[0] != orders[1]).any() and (orders[1] != orders[2]).any()


def test_steps_go_on_from_epoch_to_epoch():
    batches = draw_batches(SHARDS, EVERYONE, LocalTraining(steps=7, batch_size=4), seed=1, round=2)
    whole = draw_batches(SHARDS, EVERYONE, epochs(7), seed=1, round=2)
    assert (batches.steps == 7).all()
    for client in EVERYONE:
        assert used(batches, client) == used(whole, client)[:7]


def test_dropping_the_short_batch_leaves_out_others_each_epoch():
    batches = draw_batches(SHARDS, EVERYONE, epochs(20, last_batch="drop"), seed=1, round=0)
    assert all(len(step) == 3 for step in used(batches, 1))  # a shard below a batch is used whole
    steps = used(batches, 3)
    assert len(steps) == 40 and all(len(step) == 4 for step in steps)
    assert all(len(set(steps[2 * epoch] + steps[2 * epoch + 1])) == 8 for epoch in range(20))
    assert set(np.concatenate(steps)) == set(SHARDS.shard(3))


def test_padding_holds_examples_of_the_client_that_do_not_count():
    batches = draw_batches(SHARDS, EVERYONE, epochs(2), seed=1, round=0)
    assert batches.index.shape == (5, 8, 4)
    for client in EVERYONE:
        assert np.isin(batches.index[client], SHARDS.shard(client)).all()
        assert not batches.count[client, batches.steps[client] :].any()


def test_a_shard_with_repeated_samples_keeps_them():
    shards = Shards(np.array([5, 5, 5, 8]), np.array([0, 4]))
    batches = draw_batches(shards, np.array([0]), epochs(1, batch_size=3), seed=0, round=0)
    assert sorted(np.concatenate(used(batches, 0))) == [5, 5, 5, 8]


@pytest.mark.parametrize(
    "settings",
    [
        epochs(2),
        epochs(2, last_batch="drop"),
        LocalTraining(steps=5, batch_size=4),
        epochs(2, batch_size=50),
    ],
)
def test_a_client_has_the_same_batches_in_any_company(settings):
    together = draw_batches(SHARDS, np.array([4, 1, 3, 0]), settings, seed=3, round=9)
    for row, client in enumerate([4, 1, 3, 0]):
        alone = draw_batches(SHARDS, np.array([client]), settings, seed=3, round=9)
        assert used(together, row) == used(alone, 0)


def test_batches_are_keyed_by_seed_round_and_client():
    # Two clients with the same examples
    shards = Shards.from_owners(np.tile(np.arange(40), 2), np.repeat([0, 1], 40), 2)
    settings = epochs(1, batch_size=40)

    def order(seed, round, client):
        return tuple(
            draw_batches(shards, np.array([client]), settings, seed, round).index.ravel().tolist()
        )

    keys = [(0, 0, 0), (0, 0, 1), (0, 1, 0), (0, 1, 1), (1, 0, 0)]
    assert len({order(*key) for key in keys}) == len(keys)
    assert order(0, 1, 0) == order(0, 1, 0)


def test_every_order_of_a_shard_is_equally_likely():
    shards = Shards(np.arange(3), np.array([0, 3]))
    draws = [
        draw_batches(shards, np.array([0]), epochs(1), 0, round).index[0, 0, :3]
        for round in range(1200)
    ]
    orders = np.bincount([4 * a + b for a, b, _ in np.array(draws)], minlength=12)
    assert stats.chisquare(orders[orders > 0]).pvalue > 1e-3 and (orders > 0).sum() == 6
