"""Networks whose gradients are tested: plain sequences and others, with the shape of their
inputs."""

import functools

import torch
from torch import nn

from fedsim.models import MLP, LeNet, LogisticRegression
from fedsim.parameters import Layout

COUNTS = [5, 2, 1]  # examples that count of batches of 5, for three clients


class Residual(nn.Module):
    """A user's module: not a sequence, one weight used twice."""

    def __init__(self, features: int, outputs: int) -> None:
        super().__init__()
        self.inner, self.last = (
            nn.Linear(features, features),
            nn.Linear(features, outputs, bias=False),
        )

    def forward(self, x):
        return self.last(x + torch.sigmoid(self.inner(self.inner(x))))


def group_norm_network(outputs: int) -> nn.Sequential:
    layers = (
        nn.Conv2d(2, 4, 3, padding=1),
        nn.GroupNorm(2, 4),
        nn.Tanh(),
        nn.AvgPool2d(4),
        nn.Conv2d(4, 6, 3),
        nn.Flatten(),
    )
    return nn.Sequential(*layers, nn.Linear(6, outputs))


def convolutions(outputs: int) -> nn.Sequential:
    """Both kinds of convolution, in every order with activation and pooling, on images that pools
    and filters do not divide."""
    layers = (
        nn.Conv2d(2, 3, 4, padding=3),
        nn.MaxPool2d(3),
        nn.Tanh(),
        nn.Conv2d(3, 20, 2),
        nn.ReLU(),
        nn.MaxPool2d(2),
    )
    more = (
        nn.Conv2d(20, 18, 2, padding=1),
        nn.Conv2d(18, 4, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(4, 3, 3),
        nn.MaxPool2d(2),
    )
    return nn.Sequential(
        *layers, *more, nn.Flatten(), nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, outputs)
    )


def tied_network(outputs: int) -> nn.Sequential:
    layer = nn.Linear(6, 6)
    return nn.Sequential(nn.Flatten(), layer, nn.ReLU(), layer, nn.ReLU(), nn.Linear(6, outputs))


MODELS = {
    "logistic": (functools.partial(LogisticRegression, (6,)), (6,)),
    "relu": (functools.partial(MLP, (2, 3), hidden=[7, 5]), (2, 3)),
    "tanh": (functools.partial(MLP, (6,), hidden=[7, 5], activation="tanh"), (6,)),
    "lenet": (functools.partial(LeNet, (1, 12, 12)), (1, 12, 12)),
    "convolutions": (convolutions, (2, 23, 27)),
    "group norm": (group_norm_network, (2, 12, 12)),
    "residual": (functools.partial(Residual, 6), (6,)),
    "tied": (tied_network, (6,)),
}


def batch(model: str, outputs: int, classification: bool):
    """Module, models [3, P], inputs [3, 5, ...], targets and weights [3, 5]; the padding is far
    from the examples that count."""
    factory, shape = MODELS[model]
    with torch.random.fork_rng():
        torch.manual_seed(3)
        module = factory(outputs).double()
        x = torch.randn(3, Layout.of(module).size, dtype=torch.float64) * 0.3
        inputs = torch.randn(3, 5, *shape, dtype=torch.float64)
        targets = (
            torch.randint(outputs, (3, 5))
            if classification
            else torch.randn(3, 5, outputs, dtype=torch.float64)
        )
    weights = torch.zeros(3, 5, dtype=torch.float64)
    for c, count in enumerate(COUNTS):
        weights[c, :count] = 1 / count
        inputs[c, count:] *= 100
    return module, x, inputs, targets, weights
