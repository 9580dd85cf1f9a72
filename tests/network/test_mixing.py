"""Mixing weights: stochastic matrices, absence, own share by hand, and the speed of consensus."""

import numpy as np
import pytest
import scipy.sparse as sparse
import yaml
from hypothesis import given, settings, strategies as st

import fedsim.network.mixing as mixing
from fedsim.errors import ConfigError
from fedsim.network.directed_graphs import Exponential, RandomOut
from fedsim.network.mixing import Metropolis, OwnShare, Push, Uniform
from fedsim.network.topology import (
    BarabasiAlbert,
    Complete,
    RandomRegular,
    Ring,
    Star,
    second_largest_modulus,
)
from tests.paths import CONF

# Node 1 joined to 0, 2, 3
PATH = sparse.csr_array(
    np.array([[0, 1, 0, 0], [1, 0, 1, 1], [0, 1, 0, 0], [0, 1, 0, 0]], dtype=bool)
)
ALL = [Metropolis(), Uniform(), OwnShare(share=0.3)]
ids = {"ids": lambda value: type(value).__name__}


def matrix(links, weight=None, carried=slice(None)):
    dense = np.zeros((links.receivers, links.senders))
    dense[links.receiver[carried], links.sender[carried]] = (
        links.weight if weight is None else weight
    )
    return dense


def carried_by(links, active, lost=()):
    """Links between active nodes, except those at the positions `lost`; an active node's own link
    always carries."""
    carried = active[links.receiver] & active[links.sender]
    carried[list(lost)] &= links.own[list(lost)]
    return carried


def test_weights_by_hand():
    np.testing.assert_allclose(
        matrix(Metropolis().links(PATH)),
        [[0.75, 0.25, 0, 0], [0.25, 0.25, 0.25, 0.25], [0, 0.25, 0.75, 0], [0, 0.25, 0, 0.75]],
    )
    np.testing.assert_allclose(
        matrix(Uniform().links(PATH)),
        [[0.5, 0.5, 0, 0], [0.25, 0.25, 0.25, 0.25], [0, 0.5, 0.5, 0], [0, 0.5, 0, 0.5]],
    )
    np.testing.assert_allclose(
        matrix(OwnShare(share=0.4).links(PATH)),
        [[0.4, 0.6, 0, 0], [0.2, 0.4, 0.2, 0.2], [0, 0.6, 0.4, 0], [0, 0.6, 0, 0.4]],
    )


@pytest.mark.parametrize("rule", ALL, **ids)
def test_links_are_sorted_with_one_own_link_per_node(rule):
    adjacency = BarabasiAlbert(edges=3).adjacency(80, 0)
    links = rule.links(adjacency)
    assert len(links) == adjacency.nnz + 80 and links.receivers == links.senders == 80
    assert np.all(np.diff(links.receiver * 80 + links.sender) > 0)
    np.testing.assert_array_equal(links.own, links.receiver == links.sender)
    assert (
        links.receiver.dtype == links.sender.dtype == np.int64
        and links.weight.dtype == np.float64
        and links.own.dtype == bool
    )
    others = ~links.own
    np.testing.assert_array_equal(
        adjacency.toarray()[links.receiver[others], links.sender[others]], True
    )
    np.testing.assert_allclose(matrix(links).sum(1), 1, atol=1e-14)
    assert links.weight.min() > 0


def test_metropolis_is_symmetric_and_doubly_stochastic_the_others_on_regular_graphs():
    uneven, regular = (
        BarabasiAlbert(edges=2).adjacency(60, 0),
        RandomRegular(degree=5).adjacency(60, 0),
    )
    dense = matrix(Metropolis().links(uneven))
    np.testing.assert_array_equal(dense, dense.T)
    np.testing.assert_allclose(dense.sum(0), 1, atol=1e-14)
    for rule in (Uniform(), OwnShare()):
        np.testing.assert_allclose(matrix(rule.links(regular)).sum(0), 1, atol=1e-14)
        assert np.abs(matrix(rule.links(uneven)).sum(0) - 1).max() > 0.1
    np.testing.assert_allclose(
        matrix(Metropolis().links(regular)), matrix(Uniform().links(regular)), atol=1e-15
    )
    np.testing.assert_allclose(
        matrix(Uniform().links(Complete().adjacency(12, 0))), 1 / 12, atol=1e-15
    )


@pytest.mark.parametrize("rule", ALL, **ids)
def test_hearing_everybody_gives_the_nominal_weights(rule):
    links = rule.links(BarabasiAlbert(edges=2).adjacency(50, 1))
    np.testing.assert_array_equal(rule.hear(links, np.ones(len(links), dtype=bool)), links.weight)


@pytest.mark.parametrize("rule", ALL, **ids)
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), rate=st.floats(0, 1))
def test_weights_heard_sum_to_one_and_inactive_nodes_receive_nothing(rule, seed, rate):
    random = np.random.default_rng(seed)
    links = rule.links(RandomRegular(degree=4).adjacency(20, 0))
    active = random.random(20) < rate
    carried = carried_by(links, active, lost=np.flatnonzero(random.random(len(links)) < 0.3))
    weight = rule.hear(links, carried)
    assert weight.shape == (carried.sum(),) and np.all(weight >= 0)
    heard = matrix(links, weight, carried)
    np.testing.assert_allclose(heard.sum(1), active.astype(float), atol=1e-14)
    assert not heard[:, ~active].any()
    # What does not arrive goes to the receiver itself and to nobody else
    if not isinstance(rule, OwnShare):
        others = ~links.own[carried]
        np.testing.assert_array_equal(weight[others], links.weight[carried][others])


def test_metropolis_keeps_the_mean_of_the_active_nodes():
    links = Metropolis().links(BarabasiAlbert(edges=2).adjacency(40, 0))
    active = np.random.default_rng(0).random(40) < 0.6
    carried = carried_by(links, active)
    heard = matrix(links, Metropolis().hear(links, carried), carried)
    np.testing.assert_allclose(heard.sum(0), active.astype(float), atol=1e-14)


def test_own_share_divides_the_rest_over_what_arrived():
    rule, links = OwnShare(share=0.4), OwnShare(share=0.4).links(PATH)
    active = np.array([True, True, True, False])
    lost = np.flatnonzero((links.receiver == 2) & (links.sender == 1))
    carried = carried_by(links, active, lost)
    # 1 heard two, 2 nobody, 3 sleeps
    expected = [[0.4, 0.6, 0, 0], [0.3, 0.4, 0.3, 0], [0, 0, 1, 0], [0, 0, 0, 0]]
    np.testing.assert_allclose(
        matrix(links, rule.hear(links, carried), carried), expected, atol=1e-15
    )
    plain = OwnShare(share=0.0).links(PATH)
    np.testing.assert_allclose(matrix(plain)[1], [1 / 3, 0, 1 / 3, 1 / 3], atol=1e-15)


def test_equal_weights_over_what_was_heard():
    """Epidemic Learning's 1 / (r + 1), r the messages that arrived."""
    rule, links = Uniform(over="heard"), Uniform().links(PATH)
    active = np.array([True, True, True, False])
    carried = carried_by(links, active)
    expected = [[1 / 2, 1 / 2, 0, 0], [1 / 3, 1 / 3, 1 / 3, 0], [0, 1 / 2, 1 / 2, 0], [0, 0, 0, 0]]
    np.testing.assert_allclose(
        matrix(links, rule.hear(links, carried), carried), expected, atol=1e-15
    )
    np.testing.assert_array_equal(rule.hear(links, np.ones(len(links), bool)), links.weight)


def test_a_sender_pushes_equal_shares_and_keeps_those_that_do_not_arrive():
    links = Push().links(PATH)
    np.testing.assert_allclose(
        matrix(links),
        [
            [1 / 2, 1 / 4, 0, 0],
            [1 / 2, 1 / 4, 1 / 2, 1 / 2],
            [0, 1 / 4, 1 / 2, 0],
            [0, 1 / 4, 0, 1 / 2],
        ],
    )
    active = np.array([True, True, True, False])
    carried = carried_by(links, active)
    heard = matrix(links, Push().hear(links, carried), carried)
    np.testing.assert_allclose(
        heard, [[1 / 2, 1 / 4, 0, 0], [1 / 2, 1 / 2, 1 / 2, 0], [0, 1 / 4, 1 / 2, 0], [0, 0, 0, 0]]
    )


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), rate=st.floats(0, 1))
def test_pushed_mass_is_conserved_on_directed_graphs(seed, rate):
    random = np.random.default_rng(seed)
    links = Push().links(RandomOut(degree=3).adjacency(20, seed))
    np.testing.assert_allclose(matrix(links).sum(axis=0), 1, atol=1e-14)
    active = random.random(20) < rate
    carried = carried_by(links, active, lost=np.flatnonzero(random.random(len(links)) < 0.3))
    weight = Push().hear(links, carried)
    assert np.all(weight >= 0)
    np.testing.assert_allclose(
        matrix(links, weight, carried).sum(axis=0), active.astype(float), atol=1e-14
    )


def test_on_directed_graphs_rows_sum_to_one_where_receivers_weigh():
    adjacency = RandomOut(degree=3).adjacency(15, 0)
    for rule in (Uniform(), OwnShare(share=0.3)):
        dense = matrix(rule.links(adjacency))
        np.testing.assert_allclose(dense.sum(axis=1), 1, atol=1e-14)
        np.testing.assert_array_equal(dense > 0, adjacency.toarray() | np.eye(15, dtype=bool))
        assert np.abs(dense.sum(axis=0) - 1).max() > 0.1
    dense = matrix(Uniform().links(Exponential(rotate=False).adjacency(16, 0)))
    np.testing.assert_allclose([dense.sum(axis=0), dense.sum(axis=1)], 1)
    assert not Metropolis().directed and second_largest_modulus(Push().links(adjacency)) < 1


@pytest.mark.parametrize("rule", ALL, **ids)
def test_isolated_and_single_nodes_keep_their_model(rule):
    links = rule.links(sparse.csr_array((3, 3), dtype=bool))
    np.testing.assert_array_equal(matrix(links), np.eye(3))
    np.testing.assert_array_equal(rule.hear(links, np.array([True, False, True])), [1, 1])
    assert rule.hear(links, np.zeros(3, dtype=bool)).shape == (0,)


@pytest.mark.parametrize(
    "kind", [Ring(), RandomRegular(degree=4), Star(), BarabasiAlbert(edges=2)], **ids
)
def test_consensus_error_shrinks_by_the_second_largest_modulus(kind):
    links = Metropolis().links(kind.adjacency(40, 0))
    w, bound = matrix(links), second_largest_modulus(links)
    models = np.random.default_rng(0).standard_normal((40, 30))
    shrink, mean = [], models.mean(0)
    for _ in range(300):
        before = np.linalg.norm(models - mean)
        if before < 1e-10:
            break
        models = w @ models
        np.testing.assert_allclose(models.mean(0), mean, atol=1e-13)
        shrink.append(np.linalg.norm(models - mean) / before)
    # The slowest mode is all that is left
    assert max(shrink) <= bound + 1e-6 and shrink[-1] == pytest.approx(bound, rel=0.02)


def test_misuse_is_an_error():
    links = Uniform().links(PATH)
    carried = np.ones(len(links), dtype=bool)
    carried[links.own & (links.receiver == 2)] = False  # node 2 sleeps, yet hears
    with pytest.raises(ValueError, match="node 2 is inactive"):
        Uniform().hear(links, carried)
    with pytest.raises(ValueError, match="carried must be bool"):
        Uniform().hear(links, np.ones(3, dtype=bool))
    for share in (1.0, -0.1, float("nan")):
        with pytest.raises(ConfigError, match="OwnShare.share"):
            OwnShare(share=share)


@pytest.mark.parametrize("path", sorted(CONF.glob("mixing/[!n]*.yaml")), ids=lambda p: p.stem)
def test_configuration_repeats_the_defaults(path):
    given = yaml.safe_load(path.read_text())
    cls = getattr(mixing, given.pop("_target_").rpartition(".")[2])
    assert path.read_text().startswith("# ") and cls(**given) == cls()
