"""Variance correction: rounds by hand, and its invariants."""

import numpy as np
import pytest
import torch
from torch import nn

from fedsim.algorithms import FedAU, FedAvg, VarianceCorrection
from fedsim.network.mixing import OwnShare
from fedsim.network.topology import Complete
from fedsim.parameters import Layout
from fedsim.protocols import Gossip
from tests.helpers import Cohorts, quadratic_run

# one step of rate 1/2 from 0: the models to mix are (2, -2), (6, 0), (0, 8), with variances 4, 9,
# 16
CENTRES = [[4, -4], [12, 0], [0, 16]]
UNIFORM = FedAvg(weighting="uniform")
LAYOUT = Layout.of(nn.Sequential(nn.Linear(6, 5), nn.LayerNorm(5), nn.Linear(5, 3)))


def spread(mean, half_difference):
    """The layer of two weights with this mean, and its variance the square of half their
    difference."""
    return [mean + half_difference, mean - half_difference]


def graph_run(rounds=1, order="adapt_then_combine", **settings):
    graph = {"protocol": Gossip(order=order), "topology": Complete(), "mixing": OwnShare(share=0.5)}
    return quadratic_run(
        CENTRES, rounds, aggregator=UNIFORM, correction=VarianceCorrection(**settings), **graph
    ).models


@pytest.mark.parametrize(
    ("settings", "targets"),
    [
        ({"target": "others"}, [25 / 2, 20 / 2, 13 / 2]),
        ({"target": "self"}, [4, 9, 16]),
        (
            {"target": "blend", "share": 0.25},
            [(4 + 3 * 12.5) / 4, (9 + 3 * 10) / 4, (16 + 3 * 6.5) / 4],
        ),
        ({"target": "blend", "share": 0.0}, [25 / 2, 20 / 2, 13 / 2]),
    ],
)
def test_one_round_by_hand(settings, targets):
    """Half its own model and a quarter of each other: (2.5, 1), (3.5, 1.5), (2, 3.5), whose means
    stay."""
    root = np.sqrt(targets)
    expected = [spread(1.75, root[0]), spread(2.5, root[1]), spread(2.75, -root[2])]
    np.testing.assert_allclose(graph_run(**settings), expected, rtol=1e-6)


def test_combine_then_adapt_corrects_the_mixed_model_before_the_update():
    # round 1 leaves the models (2, -2), ...; round 2 mixes those, and then adds (c - x) / 2 = x / 2
    mixed = np.array(
        [spread(1.75, np.sqrt(12.5)), spread(2.5, np.sqrt(10)), spread(2.75, -np.sqrt(6.5))]
    )
    np.testing.assert_allclose(
        graph_run(2, "combine_then_adapt"), mixed + np.array(CENTRES) / 4, rtol=1e-6
    )


def test_at_a_server_the_others_are_the_cohort():
    cohort = Cohorts([0, 1])  # their mean (4, -1), their variances 4 and 9
    parts = {"participation": cohort, "aggregator": UNIFORM}
    np.testing.assert_allclose(
        quadratic_run(CENTRES, 1, correction=VarianceCorrection(), **parts).models,
        [spread(1.5, np.sqrt(6.5))],
        rtol=1e-6,
    )
    start = [3.0, 1.0]  # the server's own variance is 1; from there the mean is (5.5, -0.5)
    own = quadratic_run(
        CENTRES, 1, start=start, correction=VarianceCorrection(target="self"), **parts
    ).models
    np.testing.assert_allclose(own, [spread(2.5, 1.0)], rtol=1e-6)


def test_only_weights_are_corrected_unless_all_are_asked_for():
    """Statistics of two linear layers' weights, or of all six tensors."""
    model = torch.arange(float(LAYOUT.size)).unsqueeze(0)
    weights, everything = VarianceCorrection(), VarianceCorrection(tensors="all")
    assert weights.statistics(model, LAYOUT).shape == (1, 2) and everything.statistics(
        model, LAYOUT
    ).shape == (1, 6)
    views = LAYOUT.views(model)
    by_numpy = [[view.numpy().var() for view in views.values()]]
    np.testing.assert_allclose(everything.statistics(model, LAYOUT), by_numpy, rtol=1e-5)
    corrected = weights.apply(model, torch.ones(1, 2), torch.full((1, 2), 9.0), LAYOUT)
    for name, view in LAYOUT.views(corrected).items():
        # A stack of biases is [1, n]
        assert torch.equal(view, views[name]) == (view.dim() <= 2), name
    corrected = everything.apply(model, torch.ones(1, 6), torch.full((1, 6), 9.0), LAYOUT)
    assert all(
        (layer.var(correction=0) - 9).abs() < 1e-3 for layer in LAYOUT.layers(corrected, False)
    )


def received(models, seed=0, scale=1.0):
    return (
        scale
        * torch.randn(
            models, LAYOUT.size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
        )
        + 0.3
    )


def correct(own, others, share=0.5, **settings):
    """The paper's averaging of one model with n others [n, P], corrected."""
    rule = VarianceCorrection(tensors="all", **settings)
    mixed = share * own + (1 - share) * others.mean(dim=0)
    return rule.apply(
        mixed, rule.statistics(own, LAYOUT), rule.statistics(others, LAYOUT).mean(dim=0), LAYOUT
    ), mixed


def test_identical_models_are_unchanged():
    own = received(1)[0]
    corrected, _ = correct(own, own.expand(4, -1))
    torch.testing.assert_close(corrected, own, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("target", ["others", "self", "blend"])
def test_each_layer_keeps_its_mean_and_gets_the_target_variance(target):
    own, others = received(1, seed=1, scale=3.0)[0], received(4, seed=2)
    corrected, mixed = correct(own, others, target=target, share=0.5)
    share = {"others": 0.0, "self": 1.0, "blend": 0.5}[target]
    layers = [LAYOUT.layers(models, False) for models in (corrected, mixed, own, others)]
    for layer, before, mine, theirs in zip(*layers, strict=True):
        assert layer.mean() == pytest.approx(before.mean().item(), abs=1e-12)
        wanted = (
            share * mine.var(correction=0) + (1 - share) * theirs.var(dim=-1, correction=0).mean()
        )
        assert layer.var(correction=0) == pytest.approx(wanted.item())
        assert abs(wanted / before.var(correction=0) - 1) > 0.02  # there was something to correct


def test_it_commutes_with_permutations_within_a_layer_and_with_sign():
    own, others = received(1, seed=3)[0], received(3, seed=4)
    order, corrected = torch.arange(LAYOUT.size), correct(own, others)[0]
    for start, stop in zip(LAYOUT.offsets, LAYOUT.offsets[1:], strict=False):
        order[start:stop] = start + torch.randperm(
            stop - start, generator=torch.Generator().manual_seed(start)
        )
    torch.testing.assert_close(
        correct(own[order], others[:, order])[0], corrected[order], rtol=1e-10, atol=1e-12
    )
    torch.testing.assert_close(correct(-own, -others)[0], -corrected, rtol=1e-10, atol=1e-12)


def test_one_model_received_and_no_own_share_gives_the_received_model():
    own, others = received(1, seed=5)[0], received(1, seed=6)
    torch.testing.assert_close(
        correct(own, others, share=0.0)[0], others[0], rtol=1e-12, atol=1e-12
    )


def test_layers_without_spread_are_left_alone():
    own, others = received(1, seed=7)[0], received(3, seed=8)
    constant = torch.ones(LAYOUT.size, dtype=torch.float64)
    assert torch.equal(*correct(constant, constant.expand(3, -1)))  # nothing to scale
    # Nothing to scale to: not collapsed to its mean
    corrected, mixed = correct(own, constant.expand(3, -1))
    assert torch.equal(corrected, mixed)
    assert torch.isfinite(correct(constant, others)[0]).all()


def test_a_stack_is_corrected_row_by_row():
    rule, models = VarianceCorrection(), received(3, seed=9)
    own, others = (
        rule.statistics(received(3, seed=10), LAYOUT),
        rule.statistics(received(3, seed=11), LAYOUT),
    )
    rows = [rule.apply(models[i], own[i], others[i], LAYOUT) for i in range(3)]
    torch.testing.assert_close(
        rule.apply(models, own, others, LAYOUT), torch.stack(rows), rtol=1e-12, atol=1e-12
    )


# FedAU: half its update, its nominal weight
@pytest.mark.parametrize(("aggregator", "alone"), [(UNIFORM, [6, 0]), (FedAU(), [3, 0])])
def test_a_node_that_hears_nobody_is_not_corrected(aggregator, alone):
    graph = {
        "protocol": Gossip(),
        "topology": Complete(),
        "mixing": OwnShare(share=0.5),
        "participation": Cohorts([1]),
    }
    models = quadratic_run(
        CENTRES, 1, aggregator=aggregator, correction=VarianceCorrection(), **graph
    ).models
    np.testing.assert_allclose(models, [[0, 0], alone, [0, 0]], rtol=1e-6)
