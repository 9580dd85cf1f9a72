"""Where written-out gradients say so, the bits of a client's model do not depend on its place in a
call, nor on who is beside it."""

import pytest
import torch
from torch import nn

from fedsim import rng
from fedsim.algorithms import Affine
from fedsim.kernels.closed_form import ClosedFormGradient
from fedsim.kernels.convolutions import PROCESSORS
from fedsim.models import CNN, MLP, LeNet, LogisticRegression, McMahanCNN
from fedsim.parameters import Layout

CLIENTS = 7
PARTS = [(0, 2), (2, 3), (3, CLIENTS)]

compiled = pytest.mark.skipif(
    not PROCESSORS, reason="convolutions are not compiled here, or this processor lacks a kernel"
)


def dense(*sizes: int) -> nn.Sequential:
    return MLP([sizes[0]], sizes[-1], hidden=sizes[1:-1], activation="tanh")


def trained(
    kernel: ClosedFormGradient,
    x: torch.Tensor,
    inputs: torch.Tensor,
    targets: torch.Tensor,
    radius: float,
) -> torch.Tensor:
    """Models after a few steps of descent, and their gradients there, also at a point with rows
    that lie close together."""
    weights = torch.full(targets.shape[1:], 1 / targets.shape[2])
    x = kernel.copied(x)
    step = kernel.descent(x, Affine(1.0, radius), 0.1)
    for batch in zip(inputs, targets, strict=True):
        step(*batch, weights)
    batch = inputs[0], targets[0], weights
    return torch.cat([x, kernel(x, *batch), kernel(x * 0.9, *batch)], dim=1)


def drawn(module: nn.Module, shape: tuple[int, ...], batch: int, outputs: int):
    draws = torch.Generator().manual_seed(3)
    x = torch.randn(CLIENTS, Layout.of(module).size, generator=draws) * 0.1
    inputs = torch.randn(3, CLIENTS, batch, *shape, generator=draws)
    return x, inputs, torch.randint(outputs, (3, CLIENTS, batch), generator=draws)


def agree(
    module: nn.Module, shape: tuple[int, ...], batch: int, outputs: int, radius: float
) -> bool:
    """Whether each client has the same bits among all and among some."""
    kernel = ClosedFormGradient(module, Layout.of(module), True)
    x, inputs, targets = drawn(module, shape, batch, outputs)
    together = trained(kernel, x, inputs, targets, radius)
    assert together.isfinite().all()
    apart = [
        trained(kernel, x[a:b], inputs[:, a:b].contiguous(), targets[:, a:b].contiguous(), radius)
        for a, b in PARTS
    ]
    return torch.equal(together, torch.cat(apart))


@pytest.mark.usefixtures("way_uphill")
@pytest.mark.parametrize("radius", [0.0, 0.05])
@pytest.mark.parametrize("batch", [4, 10, 32])
@pytest.mark.parametrize(
    ("module", "shape", "outputs"),
    [
        (LogisticRegression((784,), 10), (784,), 10),
        (dense(784, 64, 10), (784,), 10),
        pytest.param(*(dense(30, 6, 14, 2), (30,), 2), marks=pytest.mark.long),
        pytest.param(*(dense(10, 22, 10), (10,), 10), marks=pytest.mark.long),
        (LeNet((1, 28, 28), 10), (1, 28, 28), 10),
        pytest.param(
            McMahanCNN((1, 28, 28), 10), (1, 28, 28), 10, marks=[compiled, pytest.mark.long]
        ),
        pytest.param(CNN((3, 32, 32), 10), (3, 32, 32), 10, marks=[compiled, pytest.mark.long]),
    ],
    ids=["logistic", "mlp", "deeper", "odd rows", "lenet", "mcmahan", "cnn"],
)
def test_common_networks_and_batches_have_the_same_bits_in_any_place(
    module, shape, outputs, batch, radius
):
    assert ClosedFormGradient(module, Layout.of(module), True).independent_of_place(batch)
    assert agree(module, shape, batch, outputs, radius)


@pytest.mark.usefixtures("way_uphill")
def test_networks_drawn_at_random_have_the_same_bits_where_they_are_said_to():
    random, said = rng.generator(0, "networks"), []
    for _ in range(150):
        outputs, batch = (
            int(random.integers(2, 12)),
            int(random.choice([1, 2, 3, 4, 6, 8, 10, 12, 20])),
        )
        sizes = [int(size) for size in random.integers(1, 30, size=random.integers(1, 6))]
        layers, shape = [], (sizes[0],)
        if random.random() < 0.5:
            channels, filters, size, pool = (int(random.integers(1, most)) for most in (4, 8, 4, 4))
            side, padding = (10 + 2 - size + 1) // pool, 1
            layers = [
                nn.Conv2d(channels, filters, size, padding=padding),
                nn.ReLU(),
                *([nn.MaxPool2d(pool)] if pool > 1 else []),
            ]
            if random.random() < 0.5:
                more = int(random.integers(1, 20))
                layers += [nn.Conv2d(filters, more, 3, padding=1), nn.ReLU()]
                filters = more
            sizes[0], shape = filters * side**2, (channels, 10, 10)
        module = nn.Sequential(*layers, *dense(*sizes, outputs))
        kernel = ClosedFormGradient(module, Layout.of(module), True)
        said.append(kernel.independent_of_place(batch))
        if said[-1]:
            assert agree(module, shape, batch, outputs, float(random.choice([0.0, 0.05]))), (
                module,
                batch,
            )
    assert 30 < sum(said) < 120


@pytest.mark.parametrize(
    ("module", "batch"),
    [
        (dense(784, 64, 10), 5),  # 50 numbers a client
        (dense(784, 64, 3), 10),
        (dense(784, 1, 10), 32),  # a vector
        (dense(784, 64, 10), 1),
        # A convolution of the library
        (nn.Sequential(nn.Conv2d(1, 32, 17), nn.ReLU(), nn.Flatten(), nn.Linear(512, 10)), 32),
        (nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(1568, 10)), 32),
        (nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(192, 10)), 32),
    ],
)
def test_others_are_not_said_to(module, batch):
    assert not ClosedFormGradient(module, Layout.of(module), True).independent_of_place(batch)
