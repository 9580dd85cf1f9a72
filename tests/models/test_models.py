"""Models: published sizes, shapes, keyed initial values, building any callable, and refusals."""

import functools
import re

import pytest
import torch
from torch import nn

from fedsim.errors import ConfigError
from fedsim.models import (
    CNN,
    MLP,
    CharLSTM,
    LeNet,
    LogisticRegression,
    McMahanCNN,
    ResNet18,
    build_model,
    check_model,
)
from fedsim.models.pooling import pooled_first

MNIST, CIFAR = (1, 28, 28), (3, 32, 32)


def size(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("factory", "shape", "parameters"),
    [
        (LogisticRegression, MNIST, 7_850),
        (MLP, MNIST, 50_890),
        (functools.partial(MLP, hidden=[100] * 4), MNIST, 109_810),
        (functools.partial(MLP, hidden=[]), (5,), 60),
        (LeNet, MNIST, 61_706),
        (functools.partial(LeNet, padding=0), CIFAR, 62_006),
        (McMahanCNN, MNIST, 1_663_370),
        (functools.partial(CNN, dense=[128]), CIFAR, 273_706),
        (functools.partial(CNN, dense=[256, 64]), CIFAR, 551_786),
        (ResNet18, CIFAR, 11_181_642),
        # 64*3*(49-9) fewer in the stem
        (functools.partial(ResNet18, stem="cifar"), CIFAR, 11_173_962),
    ],
)
def test_published_parameter_counts(factory, shape, parameters):
    assert size(build_model(factory, shape, 10, seed=0)) == parameters


@pytest.mark.parametrize(
    "factory",
    [LogisticRegression, MLP, CNN, McMahanCNN, ResNet18, functools.partial(ResNet18, stem="cifar")],
)
@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32), (2, 17, 9)])
def test_outputs_for_images_of_several_sizes(factory, shape):
    module = build_model(factory, shape, 7, seed=1)
    check_model(module, shape, 7)
    assert module(torch.randn(3, *shape)).shape == (3, 7)


@pytest.mark.parametrize(
    ("shape", "padding"),
    [((1, 12, 12), 2), ((1, 28, 28), 2), ((3, 32, 32), 2), ((1, 16, 21), 0), ((3, 14, 30), 1)],
)
def test_lenet_from_its_smallest_images_on(shape, padding):
    check_model(
        build_model(functools.partial(LeNet, padding=padding), shape, 10, seed=0), shape, 10
    )


def test_dense_models_take_inputs_of_any_shape():
    for shape in [(13,), (9, 128), (1, 8, 8)]:
        for factory in (LogisticRegression, MLP):
            check_model(build_model(factory, shape, 1, seed=0), shape, 1)


def test_char_lstm_is_given_the_vocabulary_and_reads_order():
    module = build_model(functools.partial(CharLSTM, hidden=16), (20,), 90, seed=0, tokens_vocab=50)
    check_model(module, (20,), 90, tokens=True)
    assert module.embedding.weight.shape == (50, 8)
    text = torch.arange(40).view(2, 20)
    assert module(text).shape == (2, 90)
    assert not torch.allclose(module(text), module(text.flip(1)))


def test_layers_are_readable_in_sequence():
    for factory, shape in [
        (LogisticRegression, MNIST),
        (MLP, MNIST),
        (LeNet, MNIST),
        (CNN, CIFAR),
        (McMahanCNN, MNIST),
    ]:
        module = build_model(factory, shape, 10, seed=0)
        assert isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward
        assert {type(layer) for layer in module} <= {
            nn.Flatten,
            nn.Linear,
            nn.ReLU,
            nn.Tanh,
            nn.Conv2d,
            nn.MaxPool2d,
        }
    assert [type(layer) for layer in MLP((4,), 2, [3, 3], "tanh")] == [
        nn.Flatten,
        nn.Linear,
        nn.Tanh,
        nn.Linear,
        nn.Tanh,
        nn.Linear,
    ]


def test_initialisations():
    zero = LogisticRegression(MNIST, 10, zero_init=True)
    assert not any(p.any() for p in zero.parameters())
    xavier = build_model(
        functools.partial(MLP, hidden=[300, 200], init="xavier"), MNIST, 10, seed=3
    )
    for layer in list(xavier)[1::2]:
        bound = (6 / (layer.in_features + layer.out_features)) ** 0.5
        assert not layer.bias.any()
        assert 0.98 * bound < layer.weight.abs().max() <= bound
        assert layer.weight.var().item() == pytest.approx(bound**2 / 3, rel=0.1)
    cnn = build_model(functools.partial(CNN, dense=[256]), CIFAR, 10, seed=3)
    *early, last = [layer for layer in cnn if isinstance(layer, nn.Conv2d | nn.Linear)]
    for layer in early:
        assert not layer.bias.any()
        assert layer.weight.var().item() == pytest.approx(2 / layer.weight[0].numel(), rel=0.15)
    assert last.bias.any()


def test_residual_blocks_pass_their_input_on():
    block = ResNet18(CIFAR, 10, stem="cifar")[3]
    nn.init.zeros_(block.residual[-1].weight)
    x = torch.randn(2, 64, 5, 5)
    assert torch.equal(block(x), x.relu())


def test_initial_values_are_keyed_and_leave_the_global_generator_alone():
    def parameters(seed, key):
        return torch.cat(
            [p.detach().flatten() for p in build_model(MLP, (6,), 3, seed, key).parameters()]
        )

    torch.manual_seed(5)
    state = torch.get_rng_state()
    first, second = parameters(0, 0), parameters(0, 1)
    check_model(build_model(MLP, (6,), 3, 0), (6,), 3)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(6)
    assert torch.equal(first, parameters(0, 0))
    assert not torch.equal(first, second)
    assert not torch.equal(first, parameters(1, 0))


class Plain(nn.Module):
    """A user's module: needs a width, does not ask for the input's shape."""

    def __init__(self, outputs, width, depth=1):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(4, width),
            *[nn.Linear(width, width) for _ in range(depth)],
            nn.Linear(width, outputs),
        )

    def forward(self, x):
        return self.layers(x)


def test_any_callable_builds_a_model():
    def anything(**settings):
        assert settings == {"input_shape": (4,), "outputs": 3}
        return nn.Linear(4, 3)

    for factory in [
        functools.partial(Plain, width=5),
        functools.partial(Plain, 3, 5),
        functools.partial(functools.partial(Plain, width=5), depth=0),
        lambda: nn.Linear(4, 3),
        lambda input_shape, outputs, scale=2: nn.Linear(input_shape[0], outputs),
        anything,
    ]:
        check_model(build_model(factory, (4,), 3, seed=0), (4,), 3)


def test_what_the_user_fixes_is_not_overridden():
    module = build_model(functools.partial(Plain, width=5, outputs=2), (4,), 3, seed=0)
    with pytest.raises(
        ConfigError, match=re.escape("shape [2, 3] for inputs of shape [2, 4], not [2, 2]")
    ):
        check_model(module, (4,), 3)


@pytest.mark.parametrize(
    ("factory", "shape", "message"),
    [
        (
            functools.partial(MLP, hiden=[3]),
            (4,),
            "model.hiden=[3]: unknown setting of MLP; accepted are hidden, activation, init",
        ),
        (
            functools.partial(McMahanCNN, dense=[3]),
            MNIST,
            "model.dense=[3]: unknown setting of McMahanCNN; it has none",
        ),
        (Plain, (4,), "model.width=None: Plain needs this setting and has no default"),
        (
            functools.partial(Plain, width="five"),
            (4,),
            "model='Plain': could not be built (TypeError",
        ),
        (
            functools.partial(MLP, hidden=[64, 0]),
            (4,),
            "MLP.hidden=[64, 0]: accepted is a list of integers of at least 1",
        ),
        (functools.partial(MLP, hidden="64"), (4,), "MLP.hidden='64': accepted is a list"),
        (functools.partial(MLP, hidden=[True]), (4,), "MLP.hidden=[True]: accepted is a list"),
        (
            functools.partial(MLP, activation="gelu"),
            (4,),
            "MLP.activation='gelu': accepted is relu or tanh",
        ),
        (
            functools.partial(MLP, init="zero"),
            (4,),
            "MLP.init='zero': accepted is default or xavier",
        ),
        (
            functools.partial(LogisticRegression, zero_init=1),
            (4,),
            "LogisticRegression.zero_init=1: accepted is true or false",
        ),
        (functools.partial(LeNet, padding=3), MNIST, "LeNet.padding=3: accepted is 0, 1 or 2"),
        (LeNet, (1, 8, 8), "takes images of at least 12 x 12 pixels, and the data's are 8 x 8"),
        (
            LeNet,
            (64,),
            "takes images [channels, height, width], and the data's inputs have shape [64]",
        ),
        (CNN, (1, 3, 9), "takes images of at least 4 x 4 pixels"),
        (functools.partial(CNN, dense=64), CIFAR, "CNN.dense=64: accepted is a list"),
        (
            functools.partial(CNN, channels=0),
            CIFAR,
            "CNN.channels=0: accepted is an integer of at least 1",
        ),
        (
            functools.partial(ResNet18, groups=3),
            CIFAR,
            "ResNet18.groups=3: accepted is a divisor of 64",
        ),
        (
            functools.partial(ResNet18, stem="small"),
            CIFAR,
            "ResNet18.stem='small': accepted is imagenet or cifar",
        ),
        (CharLSTM, CIFAR, "takes tokens [length], and the data's inputs are [3, 32, 32]"),
        (CharLSTM, (13,), "takes tokens [length]"),
        (
            functools.partial(CharLSTM, layers=0, vocabulary=5),
            (13,),
            "CharLSTM.layers=0: accepted is an integer",
        ),
        (lambda: "net", (4,), "must give a torch.nn.Module, not str"),
        (nn.Linear(4, 3), (4,), "accepted is a callable that builds a torch module"),
        ("mlp", (4,), "model='mlp': accepted is a callable"),
    ],
)
def test_models_that_cannot_be_built_are_refused(factory, shape, message):
    with pytest.raises(ConfigError) as refusal:
        build_model(factory, shape, 3, seed=0)
    assert message in str(refusal.value)


class Noise(nn.Linear):
    def forward(self, x):
        return nn.functional.dropout(super().forward(x), 0.5, self.training)


class Counting(nn.Linear):
    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, x):
        self.calls += 1
        return super().forward(x)


def frozen():
    module = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3))
    module[0].weight.requires_grad_(False)
    return module


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (
            nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)),
            "contains BatchNorm1d (1): its running statistics cannot be averaged",
        ),
        (
            nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3, track_running_stats=False)),
            "use GroupNorm",
        ),
        (
            nn.Sequential(
                nn.Unflatten(1, (1, 2, 2)),
                nn.Conv2d(1, 3, 1),
                nn.InstanceNorm2d(3, track_running_stats=True),
                nn.Flatten(),
                nn.Linear(12, 3),
            ),
            "tracks running statistics (2.running_mean)",
        ),
        (Counting(4, 3), "changes its buffer calls while it runs"),
        (nn.Sequential(nn.Dropout(0.2), nn.Linear(4, 3)), "contains Dropout (0) with dropout"),
        (Noise(4, 3), "draws random numbers while it runs"),
        (
            nn.Sequential(nn.ReLU(inplace=True), nn.Linear(4, 3)),
            "writes into its inputs, which others read as well",
        ),
        (
            nn.Linear(4, 5),
            "must give outputs of shape [2, 3] for inputs of shape [2, 4], not [2, 5]",
        ),
        (nn.Sequential(nn.Linear(4, 3), nn.Unflatten(1, (3, 1))), "not [2, 3, 1]"),
        (
            nn.Linear(5, 3),
            (
                "must take float32 inputs of shape [2, 4], but fails (RuntimeError: mat1 and mat2"
                " shapes"
            ),
        ),
        (nn.Embedding(9, 3), "must take float32 inputs of shape [2, 4], but fails"),
        (nn.LSTM(4, 3), "not tuple"),
        (nn.Flatten(), "has no parameters"),
        (nn.Linear(4, 3).double(), "holds weight as torch.float64; accepted is torch.float32"),
        (nn.LazyLinear(3), "gives weight its shape at the first batch"),
        (frozen(), "freezes 0.weight"),
    ],
)
def test_modules_that_cannot_be_averaged_or_repeated_are_refused(module, message):
    state = torch.get_rng_state()
    with pytest.raises(ConfigError, match=r"^model=") as refusal:
        check_model(module, (4,), 3)
    assert message in str(refusal.value)
    assert torch.equal(torch.get_rng_state(), state)


def test_modules_that_only_look_suspicious_are_accepted():
    constant = nn.Linear(4, 3)
    constant.register_buffer("positions", torch.arange(4))
    tied = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3))
    tied[1].weight = tied[0].weight
    images = nn.Sequential(
        nn.Unflatten(1, (1, 2, 2)),
        nn.Conv2d(1, 3, 1),
        nn.InstanceNorm2d(3),
        nn.Flatten(),
        nn.Linear(12, 3),
    )
    for module in [constant, tied, images, nn.Sequential(nn.Dropout(0.0), nn.Linear(4, 3))]:
        check_model(module, (4,), 3)


@pytest.mark.parametrize("network", [LeNet, CNN, McMahanCNN])
def test_pooling_before_relu_is_the_same_function_with_the_same_gradients(network):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = network((1, 16, 16), 3).double()
        inputs = torch.randn(8, 1, 16, 16, dtype=torch.float64).round(decimals=1)  # with ties
    other = pooled_first(module)
    kinds = [type(layer).__name__ for layer in other]
    assert "ReLU MaxPool2d" not in " ".join(kinds) and sorted(kinds) == sorted(
        type(layer).__name__ for layer in module
    )
    assert [name for name, _ in other.named_parameters()] == [
        name for name, _ in module.named_parameters()
    ]
    assert all(one is two for one, two in zip(module.parameters(), other.parameters(), strict=True))
    expected, found = (
        torch.autograd.grad(net(inputs).square().sum(), list(module.parameters()))
        for net in (module, other)
    )
    assert torch.equal(module(inputs), other(inputs))
    assert all(torch.equal(one, two) for one, two in zip(expected, found, strict=True))


def test_what_is_no_plain_sequence_of_the_two_stays_as_it_is():
    hooked = nn.Sequential(nn.ReLU(), nn.MaxPool2d(2))
    hooked[0].register_forward_hook(lambda *_: None)
    for module in (hooked, MLP((4,), 2), nn.Linear(2, 2)):
        kinds = [type(layer) for layer in module.modules()]
        assert [type(layer) for layer in pooled_first(module).modules()] == kinds
    assert (
        type(pooled_first(nn.Sequential(nn.ReLU(), nn.MaxPool2d(2, return_indices=True)))[0])
        is nn.ReLU
    )
