"""Partitions: what each promises (use of samples, sizes, minimum, classes), its statistical law in
closed form, and what it refuses."""

from __future__ import annotations

import importlib
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from hypothesis import given, settings, strategies as st

from fedsim import rng
from fedsim.data.allocation import log_dirichlet
from fedsim.data.partition import (
    Dirichlet,
    DirichletPrior,
    Iid,
    Natural,
    Partition,
    Pathological,
    Quantity,
)
from fedsim.errors import ConfigError
from tests.paths import CONF

OPTIONS = CONF / "partition"
seeds = st.integers(0, 2**32)
alphas = st.sampled_from([1e-300, 1e-3, 0.1, 1.0, 100.0, 1e300])
few = settings(max_examples=40, deadline=None)


def labelled(per_class, client=None):
    """Training samples sorted by label, as the worst order a file can have."""
    return SimpleNamespace(y=np.repeat(np.arange(len(per_class)), per_class), client=client)


def used_once(shards, samples):
    return np.array_equal(np.sort(shards.indices), np.arange(samples))


def same(a, b):
    return np.array_equal(a.indices, b.indices) and np.array_equal(a.offsets, b.offsets)


BALANCED = labelled([600] * 10)
EVERY = [Iid(), Dirichlet(), DirichletPrior(), Pathological(), Quantity(), Natural(clients=20)]
NATURAL = SimpleNamespace(y=BALANCED.y, client=np.random.default_rng(0).integers(0, 50, 6000))


# ---- promises ----


@few
@given(
    per_class=st.lists(st.integers(0, 60), min_size=1, max_size=6),
    clients=st.integers(1, 40),
    min_size=st.integers(0, 12),
    alpha=alphas,
    seed=seeds,
)
def test_exact_once_partitions_use_each_sample_once_and_keep_the_minimum(
    per_class, clients, min_size, alpha, seed
):
    train, total = labelled(per_class), sum(per_class)
    for kind in (
        Iid(clients=clients, min_size=min_size),
        Dirichlet(clients=clients, min_size=min_size, alpha=alpha),
        Quantity(clients=clients, min_size=min_size, alpha=alpha),
    ):
        if clients * min_size > total:
            with pytest.raises(
                ConfigError, match=f"partition.min_size={min_size}: .*there are {total}; "
            ):
                kind.split(train, len(per_class), seed)
            continue
        shards = kind.split(train, len(per_class), seed)
        assert len(shards) == clients and used_once(shards, total)
        assert shards.sizes.min() >= min_size
        if isinstance(kind, Iid):
            assert np.ptp(shards.sizes) <= 1


@few
@given(
    per_class=st.lists(st.integers(0, 30), min_size=1, max_size=6).filter(any),
    clients=st.integers(1, 40),
    size=st.integers(1, 80),
    alpha=alphas,
    seed=seeds,
)
def test_equal_sized_partitions_draw_without_replacement_from_refilled_pools(
    per_class, clients, size, alpha, seed
):
    train, present = labelled(per_class), np.flatnonzero(per_class)
    held = min(size, len(present), 1 + seed % 3)
    for kind in (
        DirichletPrior(clients=clients, size=size, alpha=alpha),
        Pathological(clients=clients, size=size, classes_per_client=held),
    ):
        shards = kind.split(train, len(per_class), seed)
        counts = shards.label_counts(train.y, len(per_class))
        assert np.all(shards.sizes == size)
        uses = np.bincount(shards.indices, minlength=len(train.y))
        assert all(np.ptp(uses[train.y == label]) <= 1 for label in present)
        # A sample twice at one client only where the client draws more of a class than there is
        for client in range(clients):
            samples = np.unique(shards.shard(client))
            assert np.all(
                np.bincount(train.y[samples], minlength=len(per_class))
                == np.minimum(counts[client], per_class)
            )
        if isinstance(kind, Pathological):
            assert np.all((counts > 0).sum(axis=1) == held)
            assert all(np.ptp(row[row > 0]) <= 1 for row in counts)
            # No class missed that need not be
            assert (counts.sum(axis=0) > 0).sum() >= min(len(present), clients * held)


def test_natural_follows_the_client_ids():
    train = SimpleNamespace(
        y=np.zeros((9, 1), np.float32), client=np.array([7, 3, 7, -1, 3, 9, 7, 1, 1])
    )
    assert [Natural().split(train, 0, 0).shard(i).tolist() for i in range(4)] == [
        [7, 8],
        [1, 4],
        [0, 2, 6],
        [5],
    ]
    assert Natural(min_size=2).ids(train, 0).tolist() == [1, 3, 7]
    subsets = {tuple(Natural(clients=2, min_size=2).ids(train, seed)) for seed in range(30)}
    assert subsets == {(1, 3), (1, 7), (3, 7)}
    shards = Natural(clients=1, min_size=3).split(train, 0, 0)
    assert shards.indices.tolist() == [0, 2, 6] and len(shards) == 1


@pytest.mark.parametrize("kind", EVERY, ids=lambda kind: type(kind).__name__)
def test_a_seed_fixes_the_split_and_another_seed_changes_it(kind):
    first = kind.split(NATURAL, 10, 5)
    np.random.random(3)  # the global generator plays no part
    assert same(first, kind.split(NATURAL, 10, 5))
    assert not np.array_equal(first.indices, kind.split(NATURAL, 10, 6).indices)
    assert all(np.all(np.diff(first.shard(client)) >= 0) for client in range(len(first)))


def test_ten_thousand_clients_share_sixty_thousand_samples():
    train = labelled([6000] * 10)
    for kind in (Iid, Dirichlet, DirichletPrior, Pathological, Quantity):
        shards = kind(clients=10_000).split(train, 10, 0)
        assert len(shards) == 10_000 and shards.sizes.min() >= 1 and shards.sizes.sum() == 60_000


# ---- laws ----


def test_iid_label_counts_have_the_hypergeometric_variance():
    shards = Iid(clients=100).split(BALANCED, 10, 0)
    # 60 of 6,000 samples at each client, 6 expected of each class
    squared = ((shards.label_counts(BALANCED.y, 10) - 6) ** 2).sum(axis=1)
    expected = 60 * 0.9 * (6000 - 60) / 5999
    assert abs(squared.mean() - expected) < 4 * squared.std() / 10


def test_prior_shares_are_the_multinomial_of_the_prior():
    kind = DirichletPrior(clients=400, size=50, alpha=0.3)
    priors, shards = kind.priors(BALANCED, 10, 3), kind.split(BALANCED, 10, 3)
    np.testing.assert_allclose(priors.sum(axis=1), 1)
    share = shards.label_counts(BALANCED.y, 10) / 50
    closed = (1 - (priors**2).sum(axis=1)) / 50  # E |share - prior|^2 of a multinomial of 50
    excess = ((share - priors) ** 2).sum(axis=1) - closed
    assert abs(excess.mean()) < 4 * excess.std() / 20
    assert not share[:, 0][priors[:, 0] < 1e-12].any()


def label_entropy(kind, seed):
    """Mean over clients of the entropy of the labels, weighted by size."""
    counts = kind.split(BALANCED, 10, seed).label_counts(BALANCED.y, 10)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    entropy = -(share * np.log(np.where(share > 0, share, 1))).sum(axis=1)
    return np.average(entropy, weights=counts.sum(axis=1))


@pytest.mark.parametrize("kind", [Dirichlet, DirichletPrior])
def test_label_entropy_rises_with_alpha_from_one_class_to_all(kind):
    means = [
        np.mean([label_entropy(kind(clients=30, alpha=alpha), seed) for seed in range(5)])
        for alpha in (1e-6, 0.1, 1.0, 1e6)
    ]
    assert np.all(np.diff(means) > 0.2)
    assert means[0] < 0.05 and means[-1] > 0.98 * np.log(10)


def test_exact_once_dirichlet_shares_a_class_as_the_reference():
    shards = Dirichlet(clients=30, min_size=0, alpha=0.2).split(BALANCED, 10, 8)
    prior = np.exp(log_dirichlet(rng.generator(8, "partition"), 0.2, 30, 10))
    # ALL samples of a class, in proportion to the clients' shares of it
    expected = 600 * prior / prior.sum(axis=0)
    assert np.abs(shards.label_counts(BALANCED.y, 10) - expected).max() <= 1


def test_exact_once_dirichlet_shuffles_within_a_class():
    first = Dirichlet(clients=2, alpha=1e6).split(BALANCED, 10, 0).shard(0)
    position = first % 600  # within its class; the mean of half of 0..599 drawn without replacement
    assert abs(position.mean() - 299.5) < 4 * np.sqrt(600**2 / 12 / 300 / 2 / 10)


def test_quantity_sizes_have_the_dirichlet_spread_and_random_labels():
    train, clients, alpha = labelled([5000] * 10), 50, 0.5
    sizes = np.stack(
        [
            Quantity(clients=clients, min_size=0, alpha=alpha).split(train, 10, seed).sizes
            for seed in range(60)
        ]
    )
    spread = (sizes / 1000 - 1) ** 2
    assert abs(spread.mean() - (clients - 1) / (clients * alpha + 1)) < 4 * spread.mean(
        axis=1
    ).std() / np.sqrt(60)
    counts = Quantity(clients=5, alpha=1.0).split(train, 10, 0).label_counts(train.y, 10)
    assert (
        np.abs(counts / counts.sum(axis=1, keepdims=True) - 0.1)[counts.sum(axis=1) > 2000].max()
        < 0.03
    )


def test_pathological_chooses_every_class_equally_often():
    chosen = np.stack(
        [
            (Pathological(clients=40).split(BALANCED, 10, s).label_counts(BALANCED.y, 10) > 0).sum(
                axis=0
            )
            for s in range(40)
        ]
    )
    # 40 clients, 2 of 10 classes each
    assert np.all(np.abs(chosen.mean(axis=0) - 8) < 4 * np.sqrt(40 * 0.2 * 0.8 / 40))
    covered = Pathological(clients=5).split(BALANCED, 10, 1).label_counts(BALANCED.y, 10)
    assert np.all((covered > 0).sum(axis=0) == 1)  # 5 * 2 choices must cover all 10


# ---- refusals and configuration ----

REGRESSION = SimpleNamespace(y=np.zeros((50, 1), np.float32), client=None)


@pytest.mark.parametrize(
    ("kind", "train", "classes", "message"),
    [
        (
            Dirichlet(clients=10, min_size=601),
            BALANCED,
            10,
            r"partition\.min_size=601: .*min_size <= 600 .*clients <= 9",
        ),
        (
            Iid(clients=6001),
            BALANCED,
            10,
            (
                r"partition\.min_size=1: .*min_size <= 0 \(0 allows empty clients\) or"
                r" partition\.clients <= 6000"
            ),
        ),
        (Quantity(clients=6001), BALANCED, 10, r"partition\.min_size=1: "),
        (
            DirichletPrior(clients=6001),
            BALANCED,
            10,
            r"partition\.clients=6001: at most 6000 .*partition\.size",
        ),
        (DirichletPrior(size=3, min_size=4), BALANCED, 10, r"partition\.min_size=4: at most 3"),
        (
            Pathological(classes_per_client=11),
            BALANCED,
            10,
            r"partition\.classes_per_client=11: at most 10",
        ),
        (
            Pathological(clients=2, classes_per_client=3),
            labelled([9, 0, 9]),
            3,
            r"partition\.classes_per_client=3: at most 2",
        ),
        (
            Pathological(size=1),
            BALANCED,
            10,
            r"partition\.classes_per_client=2: at most 1, the size",
        ),
        (
            Dirichlet(clients=2),
            REGRESSION,
            0,
            r"partition='Dirichlet': .*regression.*partition=iid",
        ),
        (DirichletPrior(clients=2), REGRESSION, 0, r"partition='DirichletPrior': .*regression"),
        (Pathological(clients=2), REGRESSION, 0, r"partition='Pathological': .*regression"),
        (Natural(), BALANCED, 10, r"partition='Natural': .*no client ids"),
        (Natural(), SimpleNamespace(y=BALANCED.y, client=np.full(6000, -1)), 10, r"no client ids"),
        (Natural(clients=51), NATURAL, 10, r"partition\.clients=51: at most 50"),
        (Natural(min_size=5000), NATURAL, 10, r"partition\.min_size=5000: at most \d+"),
    ],
)
def test_what_cannot_be_kept_is_refused_with_the_reason(kind, train, classes, message):
    with pytest.raises(ConfigError, match=message) as refused:
        kind.split(train, classes, 0)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("kind", "setting"),
    [
        (Iid, {"clients": 0}),
        (Iid, {"min_size": -1}),
        (Dirichlet, {"alpha": 0}),
        (Dirichlet, {"alpha": float("nan")}),
        (Quantity, {"alpha": -1}),
    ]
    + [
        (DirichletPrior, {"size": 0}),
        (Pathological, {"classes_per_client": 0}),
        (Iid, {"alpha": 1}),
        (Natural, {"clients": "many"}),
    ],
)
def test_settings_out_of_range_are_refused(kind, setting):
    with pytest.raises(ConfigError, match=f"{kind.__name__}.{next(iter(setting))}="):
        kind(**setting)


def test_iid_and_quantity_divide_regression_data():
    for kind in (Iid(clients=7), Quantity(clients=7)):
        assert used_once(kind.split(REGRESSION, 0, 0), 50)


def test_every_option_says_what_it_is_and_repeats_the_defaults():
    found = set()
    for path in OPTIONS.glob("*.yaml"):
        text = path.read_text()
        values = yaml.safe_load(text)
        module, name = values.pop("_target_").rsplit(".", 1)
        kind = getattr(importlib.import_module(module), name)
        assert text.startswith("# ") and kind(**values) == kind() and issubclass(kind, Partition)
        found.add(kind)
    assert found == {type(kind) for kind in EVERY}
