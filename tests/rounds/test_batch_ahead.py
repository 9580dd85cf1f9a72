"""Batches drawn for many jobs together, and groups of unequal clients."""

import numpy as np
import pytest

from fedsim.data.shards import Shards
from fedsim.engine.scheduling import deal
from fedsim.network.topology import Ring
from fedsim.participation import Uniform
from fedsim.protocols.walk import Walk
from fedsim.rounds import batch_ahead as drawing
from fedsim.training import LocalTraining
from fedsim.training.batches import draw_batches
from fedsim.training.execution import WORTH_A_CALL
from tests.helpers import Ticks, blobs_simulation

SIZES = np.array([3, 50, 1, 8, 21, 2, 13, 5, 4, 400])
SHARDS = Shards.from_owners(
    np.arange(SIZES.sum()), np.repeat(np.arange(len(SIZES)), SIZES), len(SIZES)
)


@pytest.mark.parametrize("last_batch", ["keep", "drop"])
def test_a_part_of_what_was_drawn_together_is_what_is_drawn_alone(last_batch):
    settings = LocalTraining(steps=None, epochs=2, batch_size=4, last_batch=last_batch)
    # Unequal enough to be drawn in parts
    together = draw_batches(SHARDS, np.arange(len(SIZES)), settings, 7, 3)
    for part in (slice(0, 3), slice(2, 3), slice(5, 10)):
        alone, found = (
            draw_batches(SHARDS, np.arange(len(SIZES))[part], settings, 7, 3),
            together.of(part),
        )
        assert found.index.shape == alone.index.shape
        np.testing.assert_array_equal(found.steps, alone.steps)
        np.testing.assert_array_equal(found.count, alone.count)
        counts = np.arange(found.index.shape[2]) < found.count[..., None]
        np.testing.assert_array_equal(found.index[counts], alone.index[counts])


@pytest.mark.parametrize("together", [0, 20, 1 << 16])
@pytest.mark.parametrize(
    "parts",
    [{"participation": Uniform(cohort=6)}, {"protocol": Walk(tokens=3), "topology": Ring()}],
    ids=["server", "walk"],
)
def test_how_much_is_drawn_together_changes_no_bit(monkeypatch, parts, together):
    local = LocalTraining(steps=3, batch_size=2, rate=0.2, clients_per_batch=2, groups=3)
    expected = blobs_simulation(4, local=local, **parts).run().models
    monkeypatch.setattr(drawing, "TOGETHER", together)
    assert blobs_simulation(4, local=local, **parts).run().models.tobytes() == expected.tobytes()


def test_unequal_clients_train_beside_their_like_and_groups_have_as_much_to_do():
    local = LocalTraining(steps=None, epochs=1, batch_size=1, clients_per_batch=2, groups=2)
    with Ticks(blobs_simulation(local=local)) as ticks:
        rounds, cohort = ticks.rounds, np.arange(8)
        sizes = rounds.grouping.sizes
        assert len(set(sizes.tolist())) == 8
        groups = rounds.grouping.groups(cohort)
        assert sorted(np.concatenate(groups).tolist()) == cohort.tolist()
        ranks = [np.argsort(np.argsort(-sizes))[group].tolist() for group in groups]
        assert ranks == [[0, 1, 4, 5], [2, 3, 6, 7]]


@pytest.mark.parametrize("clients_per_batch", [1, 4, 16])
@pytest.mark.parametrize("seed", range(4))
def test_no_group_of_unequal_clients_has_more_than_twice_its_share(
    monkeypatch, seed, clients_per_batch
):
    """But for one of a single client. Two workers that take the groups longest first then have
    about the same."""
    local = LocalTraining(steps=None, epochs=1, batch_size=1, clients_per_batch=clients_per_batch)
    with Ticks(blobs_simulation(local=local)) as ticks:
        rounds, cohort = ticks.rounds, np.arange(64)
        rounds.grouping.sizes = np.rint(
            np.random.default_rng(seed).lognormal(2.0, 1.0, 64) + 1
        ).astype(np.int64)
        work = rounds.grouping.examples(cohort)
        monkeypatch.setitem(WORTH_A_CALL, "cpu", int(work.sum()) * rounds.task.layout.size // 4)
        groups = rounds.grouping.groups(cohort)
        assert (
            sorted(np.concatenate(groups).tolist()) == cohort.tolist()
            and 4 <= len(groups) <= local.groups
        )
        count = {1: 16, 4: 16, 16: 4}[clients_per_batch]
        assert (
            all(work[group].sum() <= 2 * work.sum() / count or len(group) == 1 for group in groups)
            or len(groups) == local.groups
        )
        loads = [
            sum(work[groups[job]].sum() for job in mine)
            for mine in deal([work[group].sum() for group in groups], 2, 1.0)[0]
        ]
        assert max(loads) <= 0.55 * work.sum()


def test_there_are_as_many_groups_as_there_is_work_for(monkeypatch):
    local = LocalTraining(steps=3, batch_size=2, rate=0.2)
    with Ticks(blobs_simulation(local=local)) as ticks:
        work = 8 * 3 * 2 * ticks.rounds.task.layout.size
        for calls, sizes in (
            (0.5, [8]),
            (1, [8]),
            (2.1, [4, 4]),
            (3, [2, 2, 2, 2]),
            (5, [1] * 8),
            (1000, [1] * 8),
        ):
            monkeypatch.setitem(WORTH_A_CALL, "cpu", int(work / calls))
            assert [len(group) for group in ticks.rounds.grouping.groups(np.arange(8))] == sizes
