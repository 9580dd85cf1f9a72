"""FedSAM and FedSMOO: rounds by hand, the identities, and FedSMOO's common step uphill."""

import numpy as np
import pytest

import fedsim
from fedsim.algorithms import FedAvg, FedSam, FedSmoo, FedSpeed
from fedsim.errors import ConfigError
from fedsim.network.topology import Ring
from fedsim.participation import Bernoulli
from fedsim.protocols import Gossip
from tests.helpers import Ticks, blobs_simulation, quadratic_run

UNIFORM = FedAvg(weighting="uniform")
PARTIAL = {"participation": Bernoulli(probability=0.4), "aggregator": UNIFORM, "seed": 3}


@pytest.mark.parametrize(
    ("radius", "steps", "by_hand"),
    [(2.5, 1, [2.25, 3.0]), (0.0, 1, [1.5, 2.0]), (2.5, 2, [3.375, 4.5])],
)
def test_fedsam_by_hand(radius, steps, by_hand):
    """At 0 the gradient towards (3, 4) has length 5, and at the peak it is 1 + radius / 5 times as
    long; at (2.25, 3) it is (-0.75, -1), and three times as long at the peak."""
    np.testing.assert_allclose(
        quadratic_run([[3, 4]], 1, steps=steps, client=FedSam(radius=radius)).models[0],
        by_hand,
        rtol=1e-6,
    )


def test_fedsam_without_radius_is_fedavg():
    flat, uphill = (
        blobs_simulation(client=FedSam(radius=radius), **PARTIAL).run().models
        for radius in (0.0, 0.5)
    )
    plain = blobs_simulation(**PARTIAL).run().models
    np.testing.assert_allclose(flat, plain, atol=1e-6)
    assert np.abs(uphill - plain).max() > 1e-3


@pytest.mark.parametrize(
    ("rounds", "by_hand"),
    [
        # lambda = 2, rho = 2.5, one step of rate 1/2. 1: g = (-3, -4), e = m = s = (-1.5, -2), d =
        # (-4.5, -6), h = (2.25, 3)
        (1, [4.5, 6.0]),
        # 2: g = (1.5, 2), g - m - s = (4.5, 6), e = m = s = (1.5, 2), g+ = (3, 4), d = g+ + h / 2 =
        # (4.125, 5.5), h = (0.1875, 0.25)
        (2, [2.625, 3.5]),
        # 3: g = (-0.375, -0.5), g - m - s = (-3.375, -4.5), e = (-1.5, -2), d = (-1.875, -2.5) + h
        # / 2, h = (1.078125, 1.4375)
        (3, [4.59375, 6.125]),
    ],
)
def test_fedsmoo_by_hand(rounds, by_hand):
    np.testing.assert_allclose(
        quadratic_run([[3, 4]], rounds, client=FedSmoo(radius=2.5, prox=2.0)).models[0],
        by_hand,
        rtol=1e-5,
    )


def test_fedsmoo_without_radius_is_feddyn_and_its_first_step_is_fedspeeds():
    flat, feddyn = (
        blobs_simulation(client=rule(radius=0.0, prox=1.0), **PARTIAL).run().models
        for rule in (FedSmoo, FedSpeed)
    )
    np.testing.assert_allclose(flat, feddyn, atol=1e-6)
    first, speed = (
        quadratic_run([[3, 4], [1, 2]], 1, client=rule(radius=0.3, prox=1.0)).models
        for rule in (FedSmoo, FedSpeed)
    )
    np.testing.assert_allclose(first, speed, rtol=1e-6)
    common, own = (
        blobs_simulation(client=rule(radius=0.5, prox=1.0), **PARTIAL).run().models
        for rule in (FedSmoo, FedSpeed)
    )
    assert np.abs(common - own).max() > 1e-3


def test_the_common_step_is_as_long_as_the_radius_and_along_the_mean_of_the_cohorts_duals():
    with Ticks(blobs_simulation(8, client=FedSmoo(radius=0.5, prox=1.0), **PARTIAL)) as ticks:
        pattern, before = (
            blobs_simulation(8, **PARTIAL).prepare().pattern,
            ticks.array("shared/0/ascent")[0],
        )
        for round in range(8):
            ticks.run()
            cohort, ascent = pattern.cohort(round), ticks.array("shared/0/ascent")[0]
            if len(cohort):
                mean = ticks.kept("rule.ascent")[cohort].mean(axis=0)
                np.testing.assert_allclose(ascent, 0.5 * mean / np.linalg.norm(mean), atol=1e-5)
            else:
                np.testing.assert_array_equal(ascent, before)
            before = ascent
            np.testing.assert_allclose(
                ticks.array("shared/0/mean_dual")[0],
                ticks.kept("rule.dual").mean(axis=0),
                atol=1e-6,
            )


def test_fedsmoo_sends_one_vector_more_each_way():
    """The dual is as the update, and the mean dual stays at the server."""
    small = ["rounds=2", "evaluation.every=2", "partition.clients=10", "participation.cohort=4"]
    smoo, speed = (
        fedsim.simulate([*small, f"algorithm={name}"]).summary for name in ("fedsmoo", "fedspeed")
    )
    for way in ("bytes_up", "bytes_down"):
        assert smoo[way] == 2 * speed[way] > 0


def test_fedsmoos_mean_over_all_clients_is_refused_over_a_graph():
    graph = {"protocol": Gossip(), "topology": Ring(), "aggregator": UNIFORM}
    with pytest.raises(
        ConfigError,
        match=r"^client\.mean_dual='everyone': a mean over all clients exists only at a server",
    ):
        blobs_simulation(client=FedSmoo(), **graph).run()
    assert blobs_simulation(2, client=FedSmoo(mean_dual="none"), **graph).run().status == "done"
