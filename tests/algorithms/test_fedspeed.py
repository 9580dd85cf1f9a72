"""FedSpeed: rounds by hand, FedDyn written independently, and what its prox-correction is: an
average of the gradients seen."""

import numpy as np
import pytest
import torch

from fedsim.algorithms import FedAvg, FedSpeed
from fedsim.models import build_model
from fedsim.parameters import Layout, flat_parameters
from fedsim.participation import Bernoulli
from fedsim.training.batches import draw_batches
from fedsim.training.gradients import GradientKernel, LoopedGradient
from fedsim.training.loop import Chunk, Kernel, train
from fedsim.training.settings import LocalTraining
from tests.helpers import Cohorts, Ticks, blobs_simulation, mlp, quadratic_run

CENTRES, COHORTS = [[4, 0], [0, 8], [-4, 4], [100, 100]], Cohorts([0, 1], [1, 2])
UNIFORM = FedAvg(weighting="uniform")


def cohort_run(client, rounds, **parts):
    return quadratic_run(
        CENTRES, rounds, participation=COHORTS, client=client, aggregator=UNIFORM, **parts
    ).models[0]


@pytest.mark.parametrize(
    ("mean_dual", "first", "second"),
    [
        # lambda = 2, one step of rate 1/2, no ascent: d = x - c + h / 2 at the anchor. Round 1:
        # updates and duals (2, 0) and (0, 4). everyone: x1 = (1, 2) + (2, 4) / 4. Round 2: d =
        # (1.5, -5) + (0, 4) / 2 and (5.5, -1), updates (-.75, 1.5) and (-2.75, .5), duals (-.75,
        # 5.5) and (-2.75, .5): x2 = x1 + (-1.75, 1) + ((2, 0) + (-.75, 5.5) + (-2.75, .5)) / 4
        ("everyone", [1.5, 3.0], [-0.625, 5.5]),
        # active: x1 = (1, 2) + (2, 4) / 2. Round 2: d = (2, -2) and (6, 0), updates (-1, 1) and
        # (-3, 0), duals (-1, 5) and (-3, 0)
        ("active", [2.0, 4.0], [-2.0, 7.0]),
        # none: x1 = (1, 2). Round 2: d = (1, -4) and (5, -2), updates (-.5, 2) and (-2.5, 1)
        ("none", [1.0, 2.0], [-0.5, 3.5]),
    ],
)
def test_two_rounds_by_hand(mean_dual, first, second):
    client = FedSpeed(radius=0.0, prox=2.0, mean_dual=mean_dual)
    np.testing.assert_allclose(cohort_run(client, 1), first, rtol=1e-6)
    np.testing.assert_allclose(cohort_run(client, 2), second, rtol=1e-6)


@pytest.mark.parametrize(
    ("radius", "merge", "factor"),
    [(2.5, 1.0, 1.5), (2.5, 0.5, 1.25), (2.5, 0.0, 1.0), (0.0, 1.0, 1.0), (10.0, 0.25, 1.5)],
)
def test_the_uphill_gradient_by_hand(radius, merge, factor):
    """At 0 the gradient towards (3, 4) has length 5, and at the peak it is 1 + radius / 5 times as
    long."""
    client = FedSpeed(radius=radius, merge=merge, prox=2.0, mean_dual="none")
    model = quadratic_run([[3, 4]], 1, client=client).models[0]
    np.testing.assert_allclose(model, factor * np.array([1.5, 2.0]), rtol=1e-6)


def test_the_prox_term_by_hand():
    # second step from (1.5, 2): d = (-1.5, -2) + (1.5, 2) / 2
    model = quadratic_run(
        [[3, 4]], 1, steps=2, client=FedSpeed(radius=0.0, prox=2.0, mean_dual="none")
    ).models[0]
    np.testing.assert_allclose(model, [1.875, 2.5], rtol=1e-6)


def test_the_mean_dual_is_the_mean_of_the_stored_duals():
    client = FedSpeed(prox=1.0)
    with Ticks(
        blobs_simulation(
            8, client=client, participation=Bernoulli(probability=0.4), aggregator=UNIFORM, seed=3
        )
    ) as ticks:
        for _ in range(8):
            ticks.run()
            # Those never heard count as zero
            mean = ticks.kept("rule.dual").mean(axis=0, dtype=np.float64)
            np.testing.assert_allclose(ticks.array("shared/0/mean_dual")[0], mean, atol=1e-6)
        assert np.abs(mean).max() > 0.01


def plain_feddyn(simulation, rounds, mu):
    """FedDyn (Acar et al. 2021), the client's and the server's formulas in float64, one client
    after the other, full batches: x_i <- x_i - eta (grad + mu (x_i - x) + mu h_i); h_i += x_i - x;
    x <- mean_S x_i + mean_N h_i."""
    prepared = simulation.prepare()
    task, local, x = prepared.task, simulation.local, flat_parameters(prepared.task.module).double()
    duals = torch.zeros(task.clients, len(x), dtype=torch.float64)
    module = task.module.double()
    for round in range(rounds):
        cohort, trained = prepared.pattern.cohort(round), []
        for client in cohort:
            shard = task.shards.shard(client)
            inputs, labels = (
                torch.from_numpy(task.dataset.train.x[shard]).double(),
                torch.from_numpy(task.dataset.train.y[shard]),
            )
            x_i = x.clone()
            for _ in range(local.steps):
                at = x_i.clone().requires_grad_()
                loss = torch.nn.functional.cross_entropy(
                    torch.func.functional_call(module, task.layout.views(at), (inputs,)), labels
                )
                (gradient,) = torch.autograd.grad(loss, at)
                x_i = x_i - local.rate * (gradient + mu * (x_i - x) + mu * duals[client])
            duals[client] += x_i - x
            trained.append(x_i)
        x = (torch.stack(trained).mean(dim=0) if trained else x) + duals.mean(dim=0)
    return x.numpy()


def test_without_ascent_it_is_feddyn():
    local = LocalTraining(steps=3, rate=0.2, batch_size=100)
    parts = {
        "local": local,
        "participation": Bernoulli(probability=0.4),
        "aggregator": UNIFORM,
        "seed": 1,
    }
    ours = blobs_simulation(8, client=FedSpeed(radius=0.0, prox=1 / 0.3), **parts).run().models[0]
    feddyn = plain_feddyn(blobs_simulation(8, **parts), 8, mu=0.3)
    np.testing.assert_allclose(ours, feddyn, atol=2e-6)
    # And far from FedAvg
    assert np.abs(feddyn - blobs_simulation(8, **parts).run().models[0]).max() > 0.05


def test_merge_zero_is_radius_zero():
    clients = (
        FedSpeed(merge=0.0, radius=0.1, prox=1.0),
        FedSpeed(merge=1.0, radius=0.0, prox=1.0),
        FedSpeed(prox=1.0),
    )
    merged, flat, ascending = (blobs_simulation(client=client).run().models for client in clients)
    np.testing.assert_array_equal(merged, flat)
    assert np.abs(merged - ascending).max() > 1e-4


def test_all_and_active_duals_agree_at_full_participation():
    clients = FedSpeed(prox=1.0), FedSpeed(prox=1.0, mean_dual="active")
    everyone, active = (
        blobs_simulation(client=client, aggregator=UNIFORM).run().models for client in clients
    )
    np.testing.assert_allclose(everyone, active, atol=1e-5)


@pytest.mark.parametrize("merge", [1.0, 0.3])
def test_the_correction_is_an_exponential_average_of_merged_gradients(merge):
    """g^ = -h / lambda. Over K local steps g^_new = (1 - gamma) g^_old + sum_k gamma_k g_k, with q
    = eta / lambda, gamma_k = q (1 - q)^(K - 1 - k), gamma = sum_k gamma_k and the merged gradients
    g_k seen on the way: real batches, clients of unequal step counts, float64."""
    prox, rate = 0.7, 0.2
    simulation = blobs_simulation(
        model=mlp(6), local=LocalTraining(steps=None, epochs=2, batch_size=3, rate=rate)
    )
    task = simulation.prepare().task
    module = build_model(
        simulation.model, task.dataset.input_shape, task.dataset.outputs, 0
    ).double()
    kernel, seen = LoopedGradient(module, Layout.of(module), True), []

    class Recording(GradientKernel):
        def __call__(self, x, *batch):
            seen.append(kernel(x, *batch))
            return seen[-1].clone()

    def no_fisher(x, clients):
        raise AssertionError("FedSpeed asks for no Fisher information")

    def examples_of(index):
        return torch.from_numpy(task.dataset.train.x).double()[index], torch.from_numpy(
            task.dataset.train.y
        )[index]

    # Longest first, as training wants them
    rule, clients = FedSpeed(radius=0.3, merge=merge, prox=prox), np.array([7, 4, 0])
    batches, random = (
        draw_batches(task.shards, clients, simulation.local, 0, 0),
        torch.Generator().manual_seed(0),
    )
    anchor = flat_parameters(module).double().expand(3, -1)
    old = 0.1 * torch.randn(anchor.shape, generator=random, dtype=torch.float64)
    shared = {"mean_dual": torch.zeros_like(anchor[:1])}
    chunk = Chunk(
        0, 0, clients, batches, task.shards.sizes[clients], anchor, {"dual": old}, {}, shared
    )
    _, state, _, _ = train(
        chunk,
        rule,
        simulation.local,
        Kernel(Recording(module, kernel.layout, True), examples_of, no_fisher),
        rate,
    )

    assert len(set(batches.steps)) > 1 and len(seen) == 2 * batches.steps.max()
    for client, steps in enumerate(batches.steps):
        merged = [
            (1 - merge) * seen[2 * k][client] + merge * seen[2 * k + 1][client]
            for k in range(steps)
        ]
        shares = [rate / prox * (1 - rate / prox) ** (steps - 1 - k) for k in range(steps)]
        gamma = 1 - (1 - rate / prox) ** steps
        assert sum(shares) == pytest.approx(gamma)
        expected = (1 - gamma) * (-old[client] / prox) + sum(
            share * g for share, g in zip(shares, merged, strict=True)
        )
        torch.testing.assert_close(-state["dual"][client] / prox, expected, rtol=1e-10, atol=1e-12)
