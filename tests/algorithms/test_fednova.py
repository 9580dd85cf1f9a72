"""FedNova: rounds by hand, its normaliser against what training does, and the bias that it
removes."""

import numpy as np
import pytest

from fedsim.algorithms import FedAvg, FedNova, FedProx
from fedsim.network.mixing import Uniform
from fedsim.network.topology import Complete
from fedsim.participation import Bernoulli
from fedsim.protocols import Gossip
from fedsim.training.settings import LocalTraining
from tests.helpers import Cohorts, blobs_simulation, quadratic_run

CENTRES, COPIES = np.array([[4.0, 0], [0, 8], [-4, 4]]), [1, 3, 2]  # as many steps as examples
EPOCH = {"steps": None, "epochs": 1, "batch_size": 1}


def quadratics(aggregator, rounds=1, rate=0.5, **parts):
    local = LocalTraining(**EPOCH, rate=rate, **parts.pop("settings", {}))
    return quadratic_run(
        CENTRES, rounds, copies=COPIES, local=local, aggregator=aggregator, **parts
    ).models


def test_a_round_by_hand():
    """K = 1, 3, 2; updates (1 - 2^-K) c = (2, 0), (0, 7), (-3, 3). By size p = K / 6: tau = 14/6,
    and p D / K = D / 6."""
    np.testing.assert_allclose(quadratics(FedNova())[0], np.array([-1, 10]) * 14 / 36, rtol=1e-6)
    # equal weights: tau = 2, D / K = (2, 0), (0, 7/3), (-3/2, 3/2)
    np.testing.assert_allclose(
        quadratics(FedNova(weighting="uniform"))[0], np.array([1 / 2, 23 / 6]) * 2 / 3, rtol=1e-6
    )
    # clients 0 and 1, rate 1/2 of the server: tau = 2
    parts = {"participation": Cohorts([0, 1])}
    np.testing.assert_allclose(
        quadratics(FedNova(weighting="uniform", rate=0.5), **parts)[0],
        np.array([1, 7 / 6]),
        rtol=1e-6,
    )


def test_momentum_of_the_server_by_hand():
    # equal K: D = (c - x) / 2, mean c = (0, 4). x1 = (0, 2), v = (0, 2); D = (0, 1), v = (0, 1 +
    # 0.5 * 2), x2 = (0, 4)
    found = quadratic_run(CENTRES, 2, aggregator=FedNova(weighting="uniform", momentum=0.5)).models
    np.testing.assert_allclose(found[0], [0, 4], atol=1e-6)
    # One model, mixed fully, is a server
    over = {"protocol": Gossip(), "topology": Complete(), "mixing": Uniform()}
    found = quadratic_run(
        CENTRES, 2, aggregator=FedNova(weighting="uniform", momentum=0.5), **over
    ).models
    np.testing.assert_allclose(found, [[0, 4]] * 3, atol=1e-6)


def test_over_a_graph_the_work_of_those_heard_counts():
    """Node 2 is away: nodes 0 and 1 (K = 1, 3) give themselves 2/3 and each other 1/3; tau = 5/3
    and 7/3, D / K = (2, 0), (0, 7/3)."""
    graph = {
        "protocol": Gossip(),
        "topology": Complete(),
        "mixing": Uniform(),
        "participation": Cohorts([0, 1]),
    }
    expected = [[5 / 3 * 4 / 3, 5 / 3 * 7 / 9], [7 / 3 * 2 / 3, 7 / 3 * 14 / 9], [0, 0]]
    np.testing.assert_allclose(
        quadratics(FedNova(weighting="uniform"), **graph), expected, rtol=1e-6
    )


@pytest.mark.parametrize("settings", [{}, {"momentum": 0.7}, {"momentum": 0.7, "nesterov": True}])
@pytest.mark.parametrize("weighting", ["size", "uniform"])
def test_equal_steps_give_fedavg(settings, weighting):
    local = LocalTraining(steps=3, batch_size=4, rate=0.1, **settings)
    parts = {
        "local": local,
        "client": FedProx(strength=0.5),
        "participation": Bernoulli(probability=0.4),
        "seed": 2,
    }
    nova, plain = (
        blobs_simulation(aggregator=rule(weighting=weighting), **parts).run().models
        for rule in (FedNova, FedAvg)
    )
    np.testing.assert_allclose(nova, plain, atol=1e-6)


@pytest.mark.parametrize("pull", [0.0, 2.0])
@pytest.mark.parametrize("settings", [{}, {"momentum": 0.9}, {"momentum": 0.9, "nesterov": True}])
def test_the_normaliser_is_what_a_constant_gradient_gives(settings, pull):
    """A centre far away has the gradient -1 wherever a client goes: its update is the rate times
    what its gradients weigh together."""
    for steps in (1, 2, 7):
        local = LocalTraining(steps=steps, rate=0.1, **settings)
        update = quadratic_run(
            [[1e6]], 1, curvatures=[1e-6], local=local, client=FedProx(strength=pull)
        ).models[0, 0]
        (expected,) = local.make_optimizer().accumulated(np.array([steps]), 0.1 * pull)
        assert update / 0.1 == pytest.approx(expected, rel=1e-4)
        assert (
            expected != steps
            or (steps == 1 and not settings.get("nesterov"))
            or not (pull or settings)
        )


@pytest.mark.parametrize("settings", [{}, {"momentum": 0.5}])
def test_the_bias_by_unequal_work_is_removed(settings):
    """Equal curvatures, small rate: FedAvg's fixed point weighs the centres by the work of their
    clients, FedNova's equally."""
    run = {"rounds": 200, "rate": 0.02, "settings": settings}
    nova, plain = (quadratics(rule(weighting="uniform"), **run)[0] for rule in (FedNova, FedAvg))
    np.testing.assert_allclose(nova, CENTRES.mean(axis=0), atol=0.2)
    work = LocalTraining(rate=0.02, **settings).make_optimizer().accumulated(np.array(COPIES), 0.0)
    np.testing.assert_allclose(plain, work @ CENTRES / work.sum(), atol=0.2)
    assert np.abs(plain - nova).max() > 1


def test_with_a_prox_term_the_common_work_can_be_the_steps_alone():
    """mu eta = 1/2: A = 1, 1 + 1/2 + 1/4, 1 + 1/2 = 1, 7/4, 3/2 for K = 1, 3, 2; tau = 17/12, or
    the mean of the steps, 2."""
    client = FedProx(strength=1.0)
    forms = [
        quadratics(FedNova(weighting="uniform", effective=name), client=client)[0]
        for name in ("accumulated", "steps")
    ]
    # d = (x - c) + x = 2x - c from 0: x1 = c / 2, and there d = 0
    mean = (CENTRES / 2 / np.array([1, 7 / 4, 3 / 2])[:, None]).mean(axis=0)
    np.testing.assert_allclose(forms[0], mean * 17 / 12, rtol=1e-6)
    np.testing.assert_allclose(forms[1], mean * 2, rtol=1e-6)
