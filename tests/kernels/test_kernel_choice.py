"""Which kernel a model gets: a fixed rule of model, settings and device."""

import functools

import pytest
import torch
from torch import nn

from fedsim.kernels import convolutions as computed
from fedsim.kernels.closed_form import ClosedFormGradient
from fedsim.kernels.convolutions import ColumnConvolution, CompiledConvolution, LibraryConvolution
from fedsim.kernels.layers import layers_of
from fedsim.models import CNN, MLP, CharLSTM, LeNet, LogisticRegression, McMahanCNN
from fedsim.models.pooling import pooled_first
from fedsim.training.execution import clients_per_call, gradient_kernel
from fedsim.training.gradients import LoopedGradient
from fedsim.training.settings import LocalTraining
from fedsim.training.vectorised import VmappedGradient, VmappedOrLooped
from tests.kernels.networks import MODELS, Residual, convolutions, tied_network


class Scaled(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


@pytest.mark.parametrize(
    "module",
    [
        LogisticRegression((4,), 3),
        MLP((4,), 3, hidden=[5, 6], activation="tanh"),
        MLP((4,), 3, hidden=[]),
        nn.Sequential(
            nn.Flatten(),
            nn.Linear(4, 4),
            nn.Tanh(),
            nn.Linear(4, 4),
            nn.ReLU(inplace=True),
            nn.Linear(4, 3),
        ),
        LeNet((1, 12, 12), 3),
        pooled_first(LeNet((1, 12, 12), 3)),
        CNN((3, 8, 8), 3),
        convolutions(3),
        nn.Sequential(
            nn.Conv2d(1, 2, (3, 3), padding=(1, 1)),
            nn.MaxPool2d((2, 2), (2, 2)),
            nn.Flatten(),
            nn.Linear(8, 3),
        ),
    ],
    ids=lambda module: str(module).replace("\n", "")[:60],
)
def test_gradients_of_plain_sequences_are_written_out(module):
    assert [f"{layer.name}.weight" for layer in layers_of(module)] == [
        name for name, _ in module.named_parameters() if "weight" in name
    ]


@pytest.mark.parametrize(
    "module",
    [
        nn.Sequential(nn.Linear(4, 3)),
        nn.Sequential(nn.Flatten()),
        nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU()),
        nn.Sequential(nn.Flatten(), nn.Linear(4, 4), nn.Linear(4, 3)),
        nn.Sequential(nn.Flatten(), nn.Linear(4, 4), nn.GELU(), nn.Linear(4, 3)),
        nn.Sequential(nn.Flatten(), nn.Linear(4, 3, bias=False)),
        nn.Sequential(nn.Flatten(), Scaled(4, 3)),
        nn.Sequential(nn.Flatten(), nn.Sequential(nn.Linear(4, 3))),
        nn.Sequential(nn.Flatten(2), nn.Linear(4, 3)),
        nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU()),
        Residual(4, 3),
        tied_network(3),
        *(
            nn.Sequential(*layers, nn.Flatten(), nn.Linear(4, 3))
            for layers in (
                (nn.Conv2d(1, 2, 3, stride=2),),
                (nn.Conv2d(1, 2, 3, dilation=2),),
                (nn.Conv2d(2, 2, 3, groups=2),),
                (nn.Conv2d(1, 2, 3, bias=False),),
                (nn.Conv2d(1, 2, (3, 2)),),
                (nn.Conv2d(1, 2, 3, padding=(1, 0)),),
                (nn.Conv2d(1, 2, 3, padding="same"),),
                (nn.Conv2d(1, 2, 3, padding=1, padding_mode="circular"),),
                (nn.Conv2d(1, 2, 3), nn.GELU()),
                (nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Tanh()),
                (nn.Conv2d(1, 2, 3), nn.AvgPool2d(2)),
                (nn.Conv2d(1, 2, 3), nn.MaxPool2d(2), nn.MaxPool2d(2)),
                (nn.Conv2d(1, 2, 3), nn.MaxPool2d(3, 2)),
                (nn.Conv2d(1, 2, 3), nn.MaxPool2d((2, 3))),
                (nn.Conv2d(1, 2, 3), nn.MaxPool2d(2, padding=1)),
                (nn.Conv2d(1, 2, 3), nn.MaxPool2d(2, dilation=2)),
                (nn.Conv2d(1, 2, 3), nn.MaxPool2d(2, ceil_mode=True)),
                (nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)),
                (nn.ReLU(), nn.Conv2d(1, 2, 3)),
            )
        ),
    ],
    ids=lambda module: str(module).replace("\n", "")[:110],
)
def test_gradients_of_other_modules_are_not(module):
    assert layers_of(module) is None


class Doubled(nn.Flatten):
    def forward(self, x):
        return 2 * super().forward(x)


class Shifted(MLP):
    def forward(self, x):
        return super().forward(x) + 1


def changed(change) -> nn.Module:
    module = MLP((4,), 3, hidden=[4, 4])
    change(module)
    return module


@pytest.mark.parametrize(
    "module",
    [
        Shifted((4,), 3),
        changed(lambda m: setattr(m[3], "weight", m[1].weight)),
        changed(lambda m: m.register_parameter("temperature", nn.Parameter(torch.ones(1)))),
        changed(lambda m: m[1].register_forward_hook(lambda layer, inputs, outputs: 5 * outputs)),
        changed(lambda m: m[2].register_forward_pre_hook(lambda layer, inputs: (inputs[0] + 1,))),
        changed(
            lambda m: m[1].register_full_backward_pre_hook(
                lambda layer, gradients: (2 * gradients[0],)
            )
        ),
        changed(lambda m: m.__setitem__(0, Doubled())),
        changed(lambda m: nn.utils.parametrizations.weight_norm(m[1])),
    ],
    ids=[
        "forward",
        "shared tensor",
        "another parameter",
        "hook",
        "hook before",
        "hook behind",
        "flatten of its own",
        "weight norm",
    ],
)
def test_sequences_with_something_of_their_own_are_not_plain(module):
    assert layers_of(module) is None


@pytest.mark.parametrize(
    ("model", "execution", "device", "kernel", "clients"),
    [
        ("relu", "auto", "cpu", ClosedFormGradient, 32),
        ("relu", "auto", "cuda:1", ClosedFormGradient, 1024),
        ("relu", "looped", "cpu", LoopedGradient, 1),
        ("relu", "stacked", "cpu", ClosedFormGradient, 32),
        ("lenet", "auto", "cpu", ClosedFormGradient, 4),
        ("lenet", "auto", "cuda", VmappedOrLooped, 32),
        ("lenet", "looped", "cpu", LoopedGradient, 1),
        ("lenet", "looped", "cuda", LoopedGradient, 1),
        ("lenet", "stacked", "cpu", ClosedFormGradient, 4),
        ("convolutions", "auto", "cpu", ClosedFormGradient, 1),
        ("group norm", "auto", "cpu", LoopedGradient, 1),
        ("group norm", "stacked", "cpu", VmappedGradient, 32),
        ("residual", "auto", "cuda", VmappedOrLooped, 32),
        ("residual", "auto", "cpu", VmappedOrLooped, 32),
        ("residual", "stacked", "cpu", VmappedGradient, 32),
        ("residual", "looped", "cpu", LoopedGradient, 1),
        ("recurrent", "auto", "cpu", LoopedGradient, 1),
        ("large residual", "auto", "cpu", LoopedGradient, 1),
    ],
)
def test_kernel_is_a_fixed_choice(model, execution, device, kernel, clients):
    others = {
        "recurrent": lambda _: CharLSTM((5,), 3, vocabulary=7, hidden=4),
        "large residual": functools.partial(Residual, 800),
    }
    module, settings = (
        others.get(model, MODELS.get(model, [None])[0])(3),
        LocalTraining(execution=execution),
    )
    assert gradient_kernel(module, settings, device) is kernel
    assert clients_per_call(module, settings, device) == clients
    assert (
        clients_per_call(module, LocalTraining(execution=execution, clients_per_batch=5), device)
        == 5
    )


def kinds(module: nn.Module) -> list[type]:
    return [layer.kind for layer in layers_of(module) if isinstance(layer.module, nn.Conv2d)]


def test_convolutions_of_few_channels_are_products_with_columns(monkeypatch):
    monkeypatch.setattr(computed, "PROCESSORS", ())
    few, many = LeNet((1, 28, 28), 10), McMahanCNN((1, 28, 28), 10)
    assert kinds(few) == [ColumnConvolution] * 2 and kinds(many) == [LibraryConvolution] * 2
    assert [clients_per_call(module, LocalTraining(), "cpu") for module in (few, many)] == [4, 1]


def network(*layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(4, 3))


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (LeNet((1, 28, 28), 10), "CC"),
        (McMahanCNN((1, 28, 28), 10), "CC"),
        (CNN((3, 32, 32), 10), "CC"),
        (network(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 8, 3)), "||"),  # few channels, which are not data
        (network(nn.Conv2d(1, 8, 7), nn.Conv2d(8, 8, 3, padding=2)), "CC"),
        (network(nn.Conv2d(5, 8, 7), nn.Conv2d(8, 20, 4)), "|L"),  # other sizes of filters
        (network(nn.Conv2d(1, 8, 17), nn.Conv2d(8, 20, 3, padding=3)), "|L"),
        (network(nn.Conv2d(1, 8, 3), nn.MaxPool2d(3), nn.Conv2d(8, 20, 3), nn.MaxPool2d(2)), "|C"),
    ],
)
def test_common_convolutions_are_compiled(monkeypatch, module, expected):
    monkeypatch.setattr(computed, "PROCESSORS", ("avx2",))
    assert kinds(module) == [
        {"C": CompiledConvolution, "|": ColumnConvolution, "L": LibraryConvolution}[kind]
        for kind in expected
    ]
    assert clients_per_call(module, LocalTraining(), "cpu") == (1 if "L" in expected else 4)
    monkeypatch.setattr(computed, "PROCESSORS", ())
    assert CompiledConvolution not in kinds(module)


@pytest.mark.parametrize(("hidden", "clients"), [(10, 32), (100, 26), (1000, 8)])
def test_the_larger_dense_models_are_the_fewer_are_stacked(hidden, clients):
    assert clients_per_call(MLP((784,), 10, hidden=[hidden]), LocalTraining(), "cpu") == clients


def test_mixed_precision_goes_through_autograd():
    settings = LocalTraining(precision="bfloat16")
    assert (
        gradient_kernel(MLP((4,), 3), settings, "cpu") is LoopedGradient
        and clients_per_call(MLP((4,), 3), settings, "cpu") == 1
    )
