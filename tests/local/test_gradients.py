"""Gradient kernels against a plain torch module and its backward pass, in float64."""

import functools
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fedsim.algorithms import Affine
from fedsim.local import vmapped
from fedsim.local.execution import clients_per_call, gradient_kernel
from fedsim.local.gradients import LoopedGradient
from fedsim.local.layers import ColumnConvolution, DenseLayer, Layer, LibraryConvolution, layers_of
from fedsim.local.settings import LocalTraining
from fedsim.local.vmapped import TRACED_AFTER, VmappedGradient, VmappedOrLooped
from fedsim.local.written import WrittenGradient
from fedsim.models import CNN, MLP, CharLSTM, LeNet, LogisticRegression, McMahanCNN
from fedsim.models.pooling import pooled_first
from fedsim.parameters import Layout, flat_parameters

COUNTS = [5, 2, 1]  # examples that count of batches of 5, for three clients


class Residual(nn.Module):
    """A user's module: not a sequence, one weight used twice."""

    def __init__(self, features: int, outputs: int) -> None:
        super().__init__()
        self.inner, self.last = nn.Linear(features, features), nn.Linear(features, outputs, bias=False)

    def forward(self, x):
        return self.last(x + torch.sigmoid(self.inner(self.inner(x))))


def group_norm_network(outputs: int) -> nn.Sequential:
    layers = nn.Conv2d(2, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.Tanh(), nn.AvgPool2d(4), nn.Conv2d(4, 6, 3), nn.Flatten()
    return nn.Sequential(*layers, nn.Linear(6, outputs))


def convolutions(outputs: int) -> nn.Sequential:
    """Both kinds of convolution, in every order with activation and pooling, on images that pools and filters do not divide."""
    layers = nn.Conv2d(2, 3, 4, padding=3), nn.MaxPool2d(3), nn.Tanh(), nn.Conv2d(3, 20, 2), nn.ReLU(), nn.MaxPool2d(2)
    more = nn.Conv2d(20, 18, 2, padding=1), nn.Conv2d(18, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 3, 3), nn.MaxPool2d(2)
    return nn.Sequential(*layers, *more, nn.Flatten(), nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, outputs))


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
WRITTEN = ("logistic", "relu", "tanh", "lenet", "convolutions")
CASES = [(model, kernel) for model in MODELS for kernel in (LoopedGradient, VmappedGradient, WrittenGradient)]
CASES = [(model, kernel) for model, kernel in CASES if kernel is not WrittenGradient or model in WRITTEN]


def batch(model: str, outputs: int, classification: bool):
    """Module, models [3, P], inputs [3, 5, ...], targets and weights [3, 5]; the padding is far from the examples that count."""
    factory, shape = MODELS[model]
    with torch.random.fork_rng():
        torch.manual_seed(3)
        module = factory(outputs).double()
        x = torch.randn(3, Layout.of(module).size, dtype=torch.float64) * 0.3
        inputs = torch.randn(3, 5, *shape, dtype=torch.float64)
        targets = torch.randint(outputs, (3, 5)) if classification else torch.randn(3, 5, outputs, dtype=torch.float64)
    weights = torch.zeros(3, 5, dtype=torch.float64)
    for c, count in enumerate(COUNTS):
        weights[c, :count] = 1 / count
        inputs[c, count:] *= 100
    return module, x, inputs, targets, weights


def plain_gradients(module, x, inputs, targets, classification):
    layout, rows = Layout.of(module), []
    for c, count in enumerate(COUNTS):
        for name, view in layout.views(x[c]).items():
            module.get_parameter(name).data.copy_(view)
        module.zero_grad()
        outputs = module(inputs[c, :count])
        loss = F.cross_entropy(outputs, targets[c, :count]) if classification else F.mse_loss(outputs, targets[c, :count])
        loss.backward()
        flat = torch.empty_like(x[c])
        for name, view in layout.views(flat).items():
            view.copy_(module.get_parameter(name).grad)
        rows.append(flat)
    return torch.stack(rows)


@pytest.mark.parametrize("task", ["classification", "regression"])
@pytest.mark.parametrize(("model", "kernel"), CASES, ids=lambda value: getattr(value, "__name__", value))
def test_kernels_agree_with_backward(model, kernel, task):
    classification = task == "classification"
    module, x, inputs, targets, weights = batch(model, 3, classification)
    expected = plain_gradients(module, x, inputs, targets, classification)
    before = x.clone(), inputs.clone()
    found = kernel(module, Layout.of(module), classification)(x, inputs, targets, weights)
    assert torch.equal(x, before[0]) and torch.equal(inputs, before[1])
    assert expected.abs().amax(dim=1).min() > 1e-3
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("classification", [True, False], ids=["classification", "regression"])
@pytest.mark.parametrize(("model", "kernel"), CASES, ids=lambda value: getattr(value, "__name__", value))
def test_hessian_vector_products_agree_with_double_backward(model, kernel, classification):
    module, x, inputs, targets, weights = batch(model, 3, classification)
    layout, rows = Layout.of(module), []
    product = kernel(module, layout, classification).hvp
    vector = torch.randn(x.shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    for c, count in enumerate(COUNTS):
        at = x[c].clone().requires_grad_()
        outputs = torch.func.functional_call(module, layout.views(at), (inputs[c, :count],))
        loss = F.cross_entropy(outputs, targets[c, :count]) if classification else F.mse_loss(outputs, targets[c, :count])
        (gradient,) = torch.autograd.grad(loss, at, create_graph=True)
        rows.append(torch.autograd.grad(gradient @ vector[c], at)[0])
    found = product(x, vector, inputs, targets, weights)
    assert torch.stack(rows).abs().amax(dim=1).min() > 1e-4
    torch.testing.assert_close(found, torch.stack(rows), rtol=1e-8, atol=1e-11)


FORMS = {
    "gradient": Affine(),
    "scaled": Affine(scale=0.3),
    "pulled": Affine(pull=0.4),
    "uphill": Affine(radius=0.2),
    "all": Affine(scale=0.3, radius=0.2, pull=0.4),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("offset_rows", [0, 1, 3])
@pytest.mark.parametrize("classification", [True, False], ids=["classification", "regression"])
@pytest.mark.parametrize(("model", "kernel"), CASES, ids=lambda value: getattr(value, "__name__", value))
def test_two_steps_of_descent_by_hand(model, kernel, classification, offset_rows, form):
    """Against d = scale g(x + radius g / |g|) + pull x + offset with the gradients of a plain loop."""
    module, x, inputs, targets, weights = batch(model, 3, classification)
    offset = torch.randn(offset_rows, x.shape[1], generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    form = replace(FORMS[form], offset=offset if offset_rows else None)
    gradient = functools.partial(plain_gradients, inputs=inputs, targets=targets, classification=classification)
    expected = x.clone()
    for _ in range(2):
        found = gradient(module, expected)
        length = found.norm(dim=1, keepdim=True) + 1e-7
        found = gradient(module, expected + form.radius * found / length) if form.radius else found
        expected = expected - 0.3 * (form.scale * found + form.pull * expected + (offset if offset_rows else 0))
    before = inputs.clone()
    step = kernel(module, Layout.of(module), classification).descent(x, form, 0.3)
    for _ in range(2):
        assert step(inputs, targets, weights) is None
    torch.testing.assert_close(x, expected, rtol=1e-9, atol=1e-11)
    assert torch.equal(inputs, before)


class Scaled(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


@pytest.mark.parametrize(
    "module",
    [
        LogisticRegression((4,), 3),
        MLP((4,), 3, hidden=[5, 6], activation="tanh"),
        MLP((4,), 3, hidden=[]),
        nn.Sequential(nn.Flatten(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4), nn.ReLU(inplace=True), nn.Linear(4, 3)),
        LeNet((1, 12, 12), 3),
        pooled_first(LeNet((1, 12, 12), 3)),
        CNN((3, 8, 8), 3),
        convolutions(3),
        nn.Sequential(nn.Conv2d(1, 2, (3, 3), padding=(1, 1)), nn.MaxPool2d((2, 2), (2, 2)), nn.Flatten(), nn.Linear(8, 3)),
    ],
    ids=lambda module: str(module).replace("\n", "")[:60],
)
def test_gradients_of_plain_sequences_are_written_out(module):
    assert [f"{layer.name}.weight" for layer in layers_of(module)] == [name for name, _ in module.named_parameters() if "weight" in name]


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
        changed(lambda m: m[1].register_full_backward_pre_hook(lambda layer, gradients: (2 * gradients[0],))),
        changed(lambda m: m.__setitem__(0, Doubled())),
        changed(lambda m: nn.utils.parametrizations.weight_norm(m[1])),
    ],
    ids=["forward", "shared tensor", "another parameter", "hook", "hook before", "hook behind", "flatten of its own", "weight norm"],
)
def test_sequences_with_something_of_their_own_are_not_plain(module):
    assert layers_of(module) is None


@pytest.mark.parametrize("kernel", [LoopedGradient, VmappedGradient])
def test_a_parameter_without_effect_has_a_zero_gradient(kernel):
    class Spare(nn.Linear):
        def __init__(self) -> None:
            super().__init__(6, 3)
            self.spare = nn.Parameter(torch.ones(2))

    module = Spare().double()
    _, _, inputs, targets, weights = batch("logistic", 3, True)
    layout = Layout.of(module)
    found = kernel(module, layout, True)(torch.ones(3, layout.size, dtype=torch.float64), inputs, targets, weights)
    views = layout.views(found)
    assert not views["spare"].any() and views["weight"].any()


@pytest.mark.parametrize(
    ("model", "execution", "device", "kernel", "clients"),
    [
        ("relu", "auto", "cpu", WrittenGradient, 32),
        ("relu", "auto", "cuda:1", WrittenGradient, 1024),
        ("relu", "looped", "cpu", LoopedGradient, 1),
        ("relu", "stacked", "cpu", WrittenGradient, 32),
        ("lenet", "auto", "cpu", WrittenGradient, 4),
        ("lenet", "auto", "cuda", VmappedOrLooped, 32),
        ("lenet", "looped", "cpu", LoopedGradient, 1),
        ("lenet", "looped", "cuda", LoopedGradient, 1),
        ("lenet", "stacked", "cpu", WrittenGradient, 4),
        ("convolutions", "auto", "cpu", WrittenGradient, 1),
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
    others = {"recurrent": lambda _: CharLSTM((5,), 3, vocabulary=7, hidden=4), "large residual": functools.partial(Residual, 800)}
    module, settings = others.get(model, MODELS.get(model, [None])[0])(3), LocalTraining(execution=execution)
    assert gradient_kernel(module, settings, device) is kernel
    assert clients_per_call(module, settings, device) == clients
    assert clients_per_call(module, LocalTraining(execution=execution, clients_per_batch=5), device) == 5


def test_convolutions_of_few_channels_are_products_with_columns():
    few, many = ([layer.kind for layer in layers_of(model((1, 28, 28), 10))][:2] for model in (LeNet, McMahanCNN))
    assert few == [ColumnConvolution] * 2 and many == [LibraryConvolution] * 2


@pytest.mark.parametrize("pool", [1, 2, 3])
@pytest.mark.parametrize("kind", [ColumnConvolution, LibraryConvolution])
def test_of_equal_values_the_first_is_the_maximum(kind, pool):
    """As with torch's own: on images without contrast all values of a pool are equal, and the gradient of a filter says which was taken."""
    module = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.MaxPool2d(pool), nn.Flatten(), nn.Linear(2 * (6 // pool) ** 2, 3)).double()
    module[0].weight.data.fill_(0.0)
    layout, inputs = Layout.of(module), torch.arange(36.0).double().view(1, 1, 1, 6, 6)
    x, targets, weights = flat_parameters(module).double().unsqueeze(0), torch.tensor([[1]]), torch.ones(1, 1).double()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Layer, "kind", property(lambda self: DenseLayer if isinstance(self.module, nn.Linear) else kind))
        found = WrittenGradient(module, layout, True)(x, inputs, targets, weights)
    expected = LoopedGradient(module, layout, True)(x, inputs, targets, weights)
    assert layout.views(expected[0])["0.weight"].std() > 0
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_a_step_uphill_stays_in_reach_where_the_examples_gradients_cancel():
    """Four examples at the corners of a parallelogram, targets alternating, at a point where both are as likely: the gradient is 0 but for
    rounding errors, of which the step uphill must neither take a root nor be a quotient."""
    module = LogisticRegression((30,), 2)
    x = torch.zeros(50, Layout.of(module).size)
    first, second, third = torch.randn(3, 50, 30, generator=torch.Generator().manual_seed(0))
    inputs = torch.stack([first, second, third, first + third - second], dim=1)
    batch = inputs, torch.tensor([[0, 1, 0, 1]]).expand(50, 4), torch.full((50, 4), 0.25)
    WrittenGradient(module, Layout.of(module), True).descent(x, Affine(radius=0.1), 1.0)(*batch)
    assert x.norm(dim=1).max() < 0.1


@pytest.mark.parametrize(("hidden", "clients"), [(10, 32), (100, 26), (1000, 8)])
def test_the_larger_dense_models_are_the_fewer_are_stacked(hidden, clients):
    assert clients_per_call(MLP((784,), 10, hidden=[hidden]), LocalTraining(), "cpu") == clients


@pytest.mark.parametrize("kernel", [LoopedGradient, VmappedGradient])
def test_mixed_precision_is_close_and_something_else(kernel):
    """bfloat16 has 8 bits, and maxima turn over: over 24 draws gradients were off by 0.02 to 0.15 of their norm, median 0.056."""
    off = []
    for seed in range(8):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            module = LeNet((1, 12, 12), 3)
        generator = torch.Generator().manual_seed(seed)
        x = (flat_parameters(module) + 0.03 * torch.randn(3, Layout.of(module).size, generator=generator)).float()
        batch = torch.randn(3, 5, 1, 12, 12, generator=generator), torch.randint(3, (3, 5), generator=generator), torch.full((3, 5), 0.2)
        exact, mixed = (kernel(module, Layout.of(module), True, mixed)(x, *batch) for mixed in (False, True))
        assert mixed.dtype == torch.float32
        off.append(float((mixed - exact).norm() / exact.norm()))
    assert min(off) > 1e-4 and sorted(off)[4] < 0.1 and max(off) < 0.3


class Transformer(nn.Module):
    """A user's module with attention, normalisation and another activation."""

    def __init__(self, features: int, outputs: int) -> None:
        super().__init__()
        self.lift, self.norm = nn.Linear(1, 8), nn.LayerNorm(8)
        self.attention, self.last = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8 * features, outputs)

    def forward(self, x):
        x = self.norm(self.lift(x.unsqueeze(-1)))
        return self.last(nn.functional.gelu(x + self.attention(x, x, x, need_weights=False)[0]).flatten(1))


@pytest.mark.parametrize(
    "module", [Residual(6, 3), Transformer(6, 3), LeNet((1, 12, 12), 3), group_norm_network(3)], ids=lambda m: type(m).__name__
)
def test_gradients_traced_have_the_bits_of_those_that_are_not(module):
    """With whole batches and padded ones, which are calls of other shapes."""
    shape = {LeNet: (1, 12, 12), nn.Sequential: (2, 12, 12)}.get(type(module), (6,))
    layout, generator = Layout.of(module), torch.Generator().manual_seed(0)
    traced, fresh = VmappedGradient(module, layout, True), VmappedGradient(module, layout, True)
    with torch.no_grad():
        for call in range(TRACED_AFTER + 2):
            x = flat_parameters(module) + 0.1 * torch.randn(3, layout.size, generator=generator)
            inputs, targets = torch.randn(3, 5, *shape, generator=generator), torch.randint(3, (3, 5), generator=generator)
            padded = torch.rand(3, 5, generator=generator)
            for clients, weights in ((3, torch.full((1, 1), 0.2).expand(3, 5)), (3, padded), (2, padded[:2])):
                batch = x[:clients], inputs[:clients], targets[:clients], weights
                found = traced(*batch)
                if call in (0, TRACED_AFTER - 1, TRACED_AFTER + 1):
                    assert torch.equal(found, fresh._untraced(*batch))
    assert len(traced.traced) == 3 and not any(found == traced._untraced for found in traced.traced.values())


def test_what_cannot_be_stacked_is_looped():
    class Branching(Residual):
        def forward(self, x):
            return super().forward(x if x.sum() > 0 else 2 * x)

    module, layout = Branching(6, 3).double(), Layout.of(Branching(6, 3))
    x, *batch_of = (torch.randn(3, layout.size, dtype=torch.float64), *batch("residual", 3, True)[2:])
    expected = LoopedGradient(module, layout, True)(x, *batch_of)
    found = VmappedOrLooped(module, layout, True)
    assert torch.equal(found(x, *batch_of), expected) and list(found.chosen.values()) == [found.looped]
    with pytest.raises(RuntimeError, match="data-dependent control flow"):
        VmappedGradient(module, layout, True)(x, *batch_of)
    with pytest.raises(RuntimeError, match="shape"):  # and what is wrong in itself says so
        VmappedOrLooped(Residual(7, 3).double(), Layout.of(Residual(7, 3)), True)(x, *batch_of)


class Masked(Residual):
    """Keeps a tensor from one call to the next."""

    mask = None

    def forward(self, x):
        if self.mask is None or self.mask.shape != x.shape:
            self.mask = torch.ones_like(x)
        return super().forward(x * self.mask)


class Counted(Residual):
    calls = 0

    def forward(self, x):
        self.calls += 1
        return super().forward(x)


@pytest.mark.parametrize("kind", [Masked, Counted])
def test_modules_that_remember_their_calls_are_looped(kind):
    """Whatever shapes come in whatever order, and though the module itself is run between them."""
    module = kind(6, 3).double()
    module(torch.zeros(5, 6, dtype=torch.float64))
    kernel, layout = VmappedOrLooped(module, Layout.of(module), True), Layout.of(module)
    for clients, examples in ((4, 5), (4, 3), (4, 5), (3, 5)):
        x = torch.randn(clients, layout.size, dtype=torch.float64)
        inputs, targets = torch.randn(clients, examples, 6, dtype=torch.float64), torch.randint(3, (clients, examples))
        whole = x, inputs, targets, torch.full((clients, examples), 1 / examples, dtype=torch.float64)
        torch.testing.assert_close(kernel(*whole), LoopedGradient(module, layout, True)(*whole), rtol=1e-9, atol=1e-12)
        module(inputs[0])
    assert kernel.chosen[torch.Size([3, 6])] is kernel.looped


def test_no_more_shapes_are_traced_than_there_is_room_for(monkeypatch):
    monkeypatch.setattr(vmapped, "MOST_TRACED", 2)
    monkeypatch.setattr(vmapped, "TRACED_AFTER", 1)
    module = Residual(6, 3)
    kernel = VmappedGradient(module, Layout.of(module), True)
    for clients in (1, 2, 3, 4):
        kernel(
            flat_parameters(module).expand(clients, -1), torch.ones(clients, 5, 6), torch.zeros(clients, 5).long(), torch.ones(clients, 5)
        )
    assert len(kernel.traced) == 2


@pytest.mark.parametrize(("examples", "stacked"), [(10, True), (12_000, False)])
def test_batches_that_keep_much_for_the_backward_pass_are_looped(examples, stacked):
    module = Residual(60, 3)  # keeps some 4 * 60 numbers of an example
    kernel = VmappedOrLooped(module, Layout.of(module), True)
    x, inputs = flat_parameters(module).expand(2, -1), torch.randn(2, examples, 60)
    kernel(x, inputs, torch.zeros(2, examples, dtype=torch.int64), torch.ones(2, examples))
    assert list(kernel.chosen.values()) == [kernel.vmapped if stacked else kernel.looped]


def test_mixed_precision_goes_through_autograd():
    settings = LocalTraining(precision="bfloat16")
    assert gradient_kernel(MLP((4,), 3), settings, "cpu") is LoopedGradient and clients_per_call(MLP((4,), 3), settings, "cpu") == 1
