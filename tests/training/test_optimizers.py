"""Local optimisers against torch's own on single clients, and AdaHessian against a plain loop and
Hessians that are known."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fedsim import rng
from fedsim.algorithms import FedSpeed
from fedsim.models import LeNet
from fedsim.parameters import Layout
from fedsim.training.batches import draw_batches
from fedsim.training.optimizers import AdaHessian, Adam, HeavyBall, Optimizer, spatial_means
from fedsim.training.settings import LocalTraining
from tests.helpers import quadratic_run
from tests.training.clients import SHARDS, Clients, local

SETTINGS = {
    "nesterov": {"momentum": 0.8, "nesterov": True},
    "nesterov with decay": {"momentum": 0.8, "nesterov": True, "weight_decay": 0.2},
    "adam": {"optimizer": "adam", "rate": 0.03},
    "adam with decay": {
        "optimizer": "adam",
        "rate": 0.03,
        "weight_decay": 0.2,
        "betas": [0.7, 0.9],
        "epsilon": 1e-3,
    },
    "adamw": {"optimizer": "adamw", "rate": 0.03},
    "adamw with decay": {
        "optimizer": "adamw",
        "rate": 0.03,
        "weight_decay": 0.2,
        "betas": [0.7, 0.9],
        "epsilon": 1e-3,
    },
}
ADAHESSIAN = {
    "optimizer": "adahessian",
    "rate": 0.1,
    "weight_decay": 0.3,
    "betas": [0.8, 0.95],
    "epsilon": 1e-2,
    "hessian_power": 0.7,
}


@pytest.mark.parametrize("execution", ["looped", "stacked"])
@pytest.mark.parametrize("name", SETTINGS)
def test_a_round_is_that_of_torch(name, execution):
    """Clients of 2, 8, 4 and 2 steps."""
    clients, settings = Clients("tanh"), local(**SETTINGS[name], execution=execution)
    _, _, kept, found = clients.train(settings)
    torch.testing.assert_close(found, clients.plain(settings), rtol=0, atol=1e-10)
    assert kept == {}


def test_adams_weight_decay_is_coupled_and_adamws_is_not():
    clients = Clients("tanh")
    found = [
        clients.train(local(**SETTINGS["adam with decay"] | {"optimizer": name}))[3]
        for name in ("adam", "adamw")
    ]
    assert (found[0] - found[1]).abs().max() > 1e-3


@pytest.mark.parametrize("name", SETTINGS)
def test_state_that_outlives_a_round(name):
    """In the second round clients differ in the steps they have counted."""
    clients, settings = Clients("tanh"), local(**SETTINGS[name], keep_optimizer=True)
    _, _, kept, first = clients.train(settings)
    optimizers = clients.optimizers(settings)
    torch.testing.assert_close(first, clients.plain(settings, optimizers), rtol=0, atol=1e-10)
    if "steps" in kept:
        assert kept["steps"].squeeze(-1).tolist() == [2, 8, 4, 2]
    clients.anchor = first
    _, _, _, second = clients.train(settings, kept=kept, round=1)
    torch.testing.assert_close(
        second, clients.plain(settings, optimizers, first, round=1), rtol=0, atol=1e-10
    )
    _, _, _, afresh = clients.train(settings, round=1)
    assert (afresh - second).abs().max() > 1e-4


@pytest.mark.parametrize(
    "settings", [SETTINGS["adamw with decay"], ADAHESSIAN, {"momentum": 0.5, "nesterov": True}]
)
@pytest.mark.parametrize("model", ["tanh", "cnn"])
def test_a_client_steps_as_if_it_were_alone(model, settings):
    clients, settings = Clients(model), local(**settings, execution="stacked", keep_optimizer=True)
    rule = FedSpeed(radius=0.1, prox=2.0)
    state = {"dual": 0.1 * clients.anchor}
    _, _, kept, _ = clients.train(settings, rule, state=state)
    _, _, after, together = clients.train(settings, rule, state=state, kept=kept, round=1)
    for client in range(4):
        _, _, alone, trained = clients.train(
            settings, rule, clients=[client], state=state, kept=kept, round=1
        )
        torch.testing.assert_close(trained[0], together[client], rtol=0, atol=1e-12)
        torch.testing.assert_close(
            {name: value[0] for name, value in alone.items()},
            {n: v[client] for n, v in after.items()},
        )


def plain_adahessian(clients: Clients, settings: LocalTraining, round: int = 0) -> torch.Tensor:
    """AdaHessian (Yao et al. 2021), client by client and tensor by tensor, by double backward, with
    the library's draws of z."""
    rows, batches = [], draw_batches(SHARDS, np.arange(4), settings, 7, round)
    (b1, b2), power = settings.betas or (0.9, 0.999), settings.hessian_power or 1.0
    for client in range(4):
        model = {
            name: view.clone().requires_grad_()
            for name, view in clients.layout.views(clients.anchor[client]).items()
        }
        m, v = (
            {name: torch.zeros_like(tensor) for name, tensor in model.items()} for _ in range(2)
        )
        for step in range(batches.steps[client]):
            index = batches.index[client, step, : batches.count[client, step]]
            loss = F.cross_entropy(
                torch.func.functional_call(clients.module, model, (clients.x[index],)),
                clients.y[index],
            )
            gradients = torch.autograd.grad(loss, list(model.values()), create_graph=True)
            words = rng.bits(
                7, "rademacher", round, np.array([client]), clients.layout.size, stream=step
            )[0]
            z = list(
                clients.layout.views(torch.from_numpy(np.where(words % 2 == 1, 1.0, -1.0))).values()
            )
            products = torch.autograd.grad(
                sum((g * s).sum() for g, s in zip(gradients, z, strict=True)), list(model.values())
            )
            for name, g, s, h in zip(model, gradients, z, products, strict=True):
                diagonal = (h * s).abs()
                if diagonal.dim() == 4:
                    diagonal = diagonal.mean(dim=(2, 3), keepdim=True).expand_as(diagonal)
                m[name] = b1 * m[name] + (1 - b1) * g.detach()
                v[name] = b2 * v[name] + (1 - b2) * diagonal**2
                mean, root = (
                    m[name] / (1 - b1 ** (step + 1)),
                    (v[name] / (1 - b2 ** (step + 1))).sqrt(),
                )
                change = (
                    mean / (root**power + (settings.epsilon or 1e-4))
                    + settings.weight_decay * model[name].detach()
                )
                model[name].data -= settings.rate * change
        flat = torch.empty_like(clients.anchor[client])
        for name, view in clients.layout.views(flat).items():
            view.copy_(model[name].detach())
        rows.append(flat)
    return torch.stack(rows)


@pytest.mark.parametrize("execution", ["looped", "stacked"])
@pytest.mark.parametrize("model", ["logistic", "tanh", "cnn"])
@pytest.mark.parametrize(
    "settings", [ADAHESSIAN, {"optimizer": "adahessian", "rate": 0.01}], ids=["all set", "defaults"]
)
def test_adahessian_is_its_plain_loop(model, execution, settings):
    clients, settings = Clients(model), local(**settings, execution=execution)
    found, expected = clients.train(settings)[3], plain_adahessian(clients, settings)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)
    assert (expected - clients.anchor).norm(dim=1).min() > 0.02


@pytest.mark.parametrize(("power", "step"), [(1.0, 0.5), (0.5, 0.5 * 9**0.5)])
def test_on_a_diagonal_hessian_one_draw_is_exact(power, step):
    """Gradient a (x - c), Hessian a: a first step of rate 1/2 is half of Newton's for any
    curvature, with k = 1/2 it is sqrt(a) as long."""
    settings = LocalTraining(
        steps=1, rate=0.5, optimizer="adahessian", epsilon=1e-9, hessian_power=power
    )
    models = quadratic_run([[4, -8]], 1, curvatures=[9.0], local=settings).models
    np.testing.assert_allclose(models[0], step * np.array([4, -8]), rtol=1e-5)


def test_second_steps_by_hand():
    """a = 4, c = 1, rate 1/2, betas 1/2 and 3/4, from 0. Step 1: g = -4, m^ = -4, v^ = 16, x = 1/2.
    Step 2: g = -2, m = (-2 / 2) - 1 = -2, m^ = -8/3, v^ = 16: x = 1/2 + 1/3. With Adam v = 16/4 *
    3/4 + 4/4 = 4, v^ = 64/7, after x = 1/2 too: 1/2 + 4/3 / sqrt(64/7)."""
    moments = {"betas": [0.5, 0.75], "epsilon": 1e-12, "steps": 2, "rate": 0.5}
    for name, expected in (("adahessian", 5 / 6), ("adam", 0.5 + (4 / 3) / np.sqrt(64 / 7))):
        models = quadratic_run(
            [[1.0]], 1, curvatures=[4.0], local=LocalTraining(optimizer=name, **moments)
        ).models
        assert models[0, 0] == pytest.approx(expected, rel=1e-5)


def test_curvature_is_averaged_over_the_space_of_kernels_only():
    layout = Layout.of(LeNet((1, 12, 12), 3))
    values = torch.rand(2, layout.size, generator=torch.Generator().manual_seed(0))
    before, averaged = layout.views(values), layout.views(spatial_means(values, layout))
    for name, shape in zip(layout.names, layout.shapes, strict=True):
        expected = (
            before[name].mean(dim=(-2, -1), keepdim=True).expand_as(before[name])
            if len(shape) == 4
            else before[name]
        )
        torch.testing.assert_close(averaged[name], expected)
    assert any(len(shape) == 4 for shape in layout.shapes)


def test_draws_of_signs_differ_by_client_round_and_step():
    clients, settings = Clients("cnn"), local(**ADAHESSIAN)
    drawn = []

    class Seen(AdaHessian):
        def step(self, x, direction, state, rate, curvature=None):
            drawn.append(curvature.clone())
            super().step(x, direction, state, rate, curvature)

    class Watching(LocalTraining):
        def make_optimizer(self):
            return Seen((0.9, 0.999), 1e-4)

    watching = Watching(
        **{"steps": 2, "epochs": None, "batch_size": 100, "rate": 1e-30, "optimizer": "adahessian"}
    )
    clients.anchor = clients.anchor[:1].expand(4, -1)
    for round in range(2):
        clients.train(watching, round=round)
    assert (
        len({tuple(row.tolist()) for stack in drawn for row in stack})
        == sum(len(stack) for stack in drawn)
        > 4
    )
    assert settings.make_optimizer().curvature


@pytest.mark.parametrize(
    ("optimizer", "momentum"),
    [
        (Optimizer(), 0.0),
        (HeavyBall(0.6), 0.6),
        (HeavyBall(0.6, nesterov=True), 0.6),
        (Adam((0.9, 0.999), 1e-8), 0),
    ],
)
def test_accumulated_weights_in_closed_form(optimizer, momentum):
    steps = np.array([1, 2, 5, 9])
    k = [np.arange(1, count + 1) for count in steps]
    shift = 1 if getattr(optimizer, "nesterov", False) else 0
    expected = [((1 - momentum ** (each + shift)) / (1 - momentum)).sum() for each in k]
    np.testing.assert_allclose(optimizer.accumulated(steps, 0.0), expected, rtol=1e-12)
    pull = 0.3
    if not momentum:
        np.testing.assert_allclose(
            optimizer.accumulated(steps, pull), (1 - (1 - pull) ** steps) / pull, rtol=1e-12
        )
