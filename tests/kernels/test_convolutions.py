"""Compiled convolutions against those of torch in double precision."""

import itertools
import os
import platform
import shlex
import shutil
import sysconfig
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedsim import rng
from fedsim.algorithms import Affine
from fedsim.kernels import convolutions
from fedsim.kernels.closed_form import ClosedFormGradient
from fedsim.kernels.convolutions import FEW, MOST_SIDE, STRIP, CompiledConvolution, compiled
from fedsim.kernels.layers import layers_of
from fedsim.models import CNN, LeNet, McMahanCNN
from fedsim.parameters import Layout, flat_parameters
from fedsim.training.gradients import LoopedGradient

NAMES = "examples", "inputs", "outputs", "height", "width", "side", "padding", "pool"


@pytest.fixture(params=["avx2", "avx512"])
def processor(request, monkeypatch):
    """Each kind of processor that there is code for and that this one is."""
    if request.param not in convolutions.PROCESSORS:
        pytest.skip(f"{request.param} is not built, or this processor lacks it")
    monkeypatch.setattr(convolutions, "PROCESSORS", (request.param,))
    return request.param


def pixels(images: Tensor) -> np.ndarray:
    """[B, channels, H, W] as [B, H, W, channels]."""
    return images.movedim(1, -1).contiguous().numpy()


class Case:
    """A convolution of images at random, and derivatives by its results."""

    def __init__(self, seed: int = 0, **sizes: int) -> None:
        self.sizes = sizes
        n, inputs, outputs, height, width, side, padding, pool = self.shape = tuple(
            sizes[name] for name in NAMES
        )
        draws = torch.Generator().manual_seed(seed)
        self.images = torch.randn(n, inputs, height, width, generator=draws)
        self.filters = (
            torch.randn(outputs, inputs, side, side, generator=draws) / (inputs * side**2) ** 0.5
        )
        self.shift = torch.randn(outputs, generator=draws)
        self.rows, self.columns = (
            (length + 2 * padding - side + 1) // pool for length in (height, width)
        )
        self.slopes = torch.randn(n, outputs, self.rows, self.columns, generator=draws)

    def forward(self, processor: str) -> tuple[np.ndarray, np.ndarray]:
        """[B, rows, columns, outputs], and places."""
        n, _, outputs, *_, pool = self.shape
        results = np.full((n, self.rows, self.columns, outputs), np.nan, np.float32)
        places = np.full(
            (n, self.rows, self.columns, -(-outputs // STRIP) * STRIP if pool == 2 else 0),
            np.nan,
            np.float32,
        )
        compiled.forward(
            processor,
            self.shape,
            pixels(self.images),
            pixels(self.filters),
            self.shift.numpy(),
            results,
            places,
        )
        return results, places

    def backward(
        self, processor: str, places: np.ndarray, below: bool = True
    ) -> tuple[np.ndarray, np.ndarray]:
        """By the filters [outputs, side, side, inputs] and by the images [B, H, W, inputs]."""
        gradient = np.full_like(pixels(self.filters), np.nan)
        found = np.full_like(pixels(self.images), np.nan) if below else np.zeros(0, np.float32)
        compiled.backward(
            processor,
            self.shape,
            pixels(self.images),
            pixels(self.filters),
            places,
            pixels(self.slopes),
            gradient,
            found,
        )
        return gradient, found

    def expected(self) -> list[np.ndarray]:
        """Results and both derivatives by torch in double precision."""
        images, filters = (each.double().requires_grad_() for each in (self.images, self.filters))
        results = F.conv2d(images, filters, self.shift.double(), padding=self.sizes["padding"])
        results = F.max_pool2d(results, 2) if self.sizes["pool"] == 2 else results
        return [
            pixels(each.detach())
            for each in (
                results,
                *torch.autograd.grad(results, (filters, images), self.slopes.double()),
            )
        ]


def assert_near(found: np.ndarray, expected: np.ndarray, most: float) -> None:
    """Errors are of the size of the numbers that were summed up, which is about that of the
    results."""
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= most * np.sqrt(np.square(expected).mean())


def drawn_at_random(count: int, few: bool):
    """Sizes of images of few channels with filters of any size, or of more with 3 x 3 and 5 x 5."""
    random = rng.generator(0, "convolutions", int(few))
    while count:
        inputs = random.integers(1, FEW + 1) if few else random.integers(FEW + 1, 50)
        side = random.integers(1, 8) if few else random.choice([3, 5])
        sizes = (
            random.integers(1, 9),
            inputs,
            random.integers(1, 50),
            *random.integers(1, 21, size=2),
        )
        found = dict(
            zip(
                NAMES,
                map(int, (*sizes, side, random.integers(side), random.integers(1, 3))),
                strict=True,
            )
        )
        if (
            min(found["height"], found["width"]) + 2 * found["padding"]
            >= found["side"] - 1 + found["pool"]
        ):
            count -= 1
            yield found


@pytest.mark.parametrize("few", [True, False], ids=["data", "activations"])
def test_results_and_gradients_are_those_of_torch(processor, few):
    for seed, sizes in enumerate(drawn_at_random(60, few)):
        case = Case(seed, **sizes)
        results, gradient, below = case.expected()
        found, places = case.forward(processor)
        assert_near(found, results, 1e-5)
        slopes = case.backward(processor, places, below=not few)
        assert_near(slopes[0], gradient, 2e-5)
        if not few:
            assert_near(slopes[1], below, 2e-5)
            np.testing.assert_array_equal(
                case.backward(processor, places, below=False)[0], slopes[0]
            )


@pytest.mark.parametrize("few", [True, False], ids=["data", "activations"])
def test_bits_are_those_of_any_processor_and_of_any_batch(processor, few):
    for seed, sizes in enumerate(drawn_at_random(15, few)):
        case = Case(seed, **sizes)
        results, places = case.forward(processor)
        gradient, below = case.backward(processor, places, below=not few)
        for other in compiled.PROCESSORS:
            assert [each.tobytes() for each in case.forward(other)] == [
                results.tobytes(),
                places.tobytes(),
            ]
            assert [each.tobytes() for each in case.backward(other, places, not few)] == [
                gradient.tobytes(),
                below.tobytes(),
            ]
        last = Case(seed, **sizes | {"examples": 1})
        last.images, last.filters, last.shift = case.images[-1:], case.filters, case.shift
        assert last.forward(processor)[0].tobytes() == results[-1:].tobytes()


def test_rounding_errors_are_near_those_of_the_library(processor):
    """Minimal filtering sums other numbers than the plain sum: over ten draws of the layers of
    common networks its errors are at most six times those of the library on average, and 3e-6 of
    the results' size."""
    for inputs, outputs, size, side in [
        (32, 64, 14, 5),
        (32, 32, 16, 3),
        (64, 64, 8, 3),
        (6, 16, 14, 5),
    ]:
        errors = []
        for seed in range(10):
            sizes = dict(
                zip(NAMES, (8, inputs, outputs, size, size, side, side // 2, 1), strict=True)
            )
            case = Case(seed, **sizes)
            expected = case.expected()[0]
            library = pixels(F.conv2d(case.images, case.filters, case.shift, padding=side // 2))
            errors.append(
                [
                    np.sqrt(np.square(found - expected).mean()) / expected.std()
                    for found in (case.forward(processor)[0], library)
                ]
            )
        ours, theirs = np.mean(errors, axis=0)
        assert ours < 6 * theirs and ours < 3e-6, (inputs, outputs, ours, theirs)


@pytest.mark.parametrize(("row", "column"), [*itertools.product(range(2), range(2))])
def test_what_is_not_a_number_is_the_greatest_wherever_it_stands(processor, row, column):
    case = Case(**dict(zip(NAMES, (1, 1, 16, 2, 2, 1, 0, 2), strict=True)))
    case.images[0, 0, row, column] = torch.nan
    results, places = case.forward(processor)
    assert np.isnan(results).all() and (places == 2 * row + column).all()


def test_of_values_that_are_computed_equal_the_first_is_the_greatest(processor):
    data, activations = (
        Case(**dict(zip(NAMES, (2, inputs, 16, 8, 8, 3, 0, 2), strict=True))) for inputs in (1, 16)
    )
    data.images[:], activations.filters[:] = 0.3, 0
    for case in (data, activations):
        assert not case.forward(processor)[1].any()


@pytest.mark.parametrize(("inputs", "side"), [(1, 5), (8, 3), (8, 5)])
def test_pixels_that_no_result_sees_change_none(processor, inputs, side):
    case = Case(**dict(zip(NAMES, (2, inputs, 16, 8, 9, side, 0, 2), strict=True)))
    results, places = case.forward(processor)
    below = case.backward(processor, places)[1] if inputs > FEW else None
    assert below is None or (not below[:, :, -1].any() and below[:, :, -2].all())
    case.images[..., -1] = torch.inf
    assert case.forward(processor)[0].tobytes() == results.tobytes()


@pytest.mark.parametrize(
    "sizes",
    [
        (1, 8, 6, 8, 301, 3, 1, 2),
        (2, 1, 6, 300, 3, 3, 1, 1),
        (0, 8, 6, 8, 8, 3, 1, 2),
        (0, 1, 6, 8, 8, 3, 1, 2),
    ],
)
def test_long_images_and_no_images(processor, sizes):
    case = Case(**dict(zip(NAMES, sizes, strict=True)))
    results, places = case.forward(processor)
    gradient, below = case.backward(processor, places, below=sizes[1] > FEW)
    if not sizes[0]:
        assert not results.size and not below.size and not gradient.any()
        return
    for found, expected in zip((results, gradient, below), case.expected(), strict=True):
        if found.size:
            assert_near(found, expected, 2e-5)


SIZES = dict(zip(NAMES, (2, 16, 16, 6, 6, 3, 1, 2), strict=True))
ARGUMENTS = {
    "forward": ("images", "filters", "shift", "results", "places"),
    "backward": ("images", "filters", "places", "slopes", "gradient", "below"),
}


@pytest.mark.parametrize(
    ("key", "value", "wrong"),
    [
        ("examples", -1, "examples"),
        ("examples", 1 << 60, "examples"),
        ("examples", 1 << 29, "images"),
        ("examples", 1 << 30, "images"),
        ("examples", 3, "images"),
        ("inputs", 0, "inputs"),
        ("inputs", 17, "images"),
        ("inputs", 1 << 30, "images"),
        ("outputs", 1 << 60, "outputs"),
        ("outputs", 1 << 30, "filters"),
        ("outputs", 1 << 20, "filters"),
        ("outputs", 17, "filters"),
        ("height", 0, "height"),
        ("height", 1 << 40, "height"),
        ("width", 1 << 30, "images"),
        ("width", -5, "width"),
        ("side", 0, "side"),
        ("side", 17, "side"),
        ("side", 5, "filters"),
        ("padding", -1, "padding"),
        ("padding", 3, "padding"),
        ("pool", 3, "pool"),
        ("pool", 1, "results"),
        ("processor", "neon", "processor"),
        ("images", 1, "images"),
        ("filters", 1, "filters"),
        ("places", 1, "places"),
        ("shift", 1, "shift"),
        ("results", 1, "results"),
        ("slopes", 1, "slopes"),
        ("gradient", 1, "gradient"),
        ("below", 1, "below"),
    ],
)
def test_memory_is_not_touched_where_sizes_do_not_fit(processor, key, value, wrong):
    case = Case(**SIZES)
    shape = tuple((SIZES | {key: value})[name] for name in NAMES)
    like = {
        "images": case.images,
        "filters": case.filters,
        "shift": case.shift.view(1, -1, 1, 1),
        "results": case.slopes,
    }
    like |= {
        "places": case.slopes,
        "slopes": case.slopes,
        "gradient": case.filters,
        "below": case.images,
    }
    memory = {name: pixels(tensor).flatten() for name, tensor in like.items()}
    memory |= {key: memory[key][:-1]} if key in memory else {}
    before = {name: array.copy() for name, array in memory.items()}
    for function, names in ARGUMENTS.items():
        if key in names or key not in memory:
            expected = "places" if (key, value, function) == ("pool", 1, "backward") else wrong
            with pytest.raises(ValueError, match=f"^{function}: {expected} does not fit$"):
                getattr(compiled, function)(
                    value if key == "processor" else processor,
                    shape,
                    *(memory[name] for name in names),
                )
            assert all(np.array_equal(memory[name], before[name]) for name in names)


@pytest.mark.parametrize(
    ("changes", "wrong"),
    [
        ({"inputs": 1 << 30, "outputs": 1 << 30}, "outputs"),
        ({"height": 1 << 30, "width": 1 << 30}, "inputs"),
        ({"inputs": 1, "height": 1 << 20, "width": 1 << 20, "outputs": 1 << 15}, "outputs"),
        ({"examples": 1 << 30, "height": 1 << 15, "width": 1 << 15}, "examples"),
    ],
)
def test_sizes_whose_products_would_overflow_are_refused(processor, changes, wrong):
    shape = tuple((SIZES | changes)[name] for name in NAMES)
    with pytest.raises(ValueError, match=f"^forward: {wrong} does not fit$"):
        compiled.forward(processor, shape, *[np.zeros(1, np.float32)] * 5)


def test_constants_are_those_that_were_compiled(processor):
    assert (compiled.STRIP, compiled.FEW, compiled.MOST_SIDE) == (STRIP, FEW, MOST_SIDE)


def test_images_of_few_channels_are_data(processor):
    case = Case(**SIZES | {"inputs": FEW})
    with pytest.raises(ValueError, match="^backward: below does not fit$"):
        case.backward(processor, case.forward(processor)[1], below=True)


def convolutional(outputs: int) -> nn.Sequential:
    """Of all that is compiled: few channels and more, filters of 3 x 3 and 5 x 5, pooled and not,
    on images that nothing divides."""
    layers = (
        nn.Conv2d(2, 7, 4, padding=3),
        nn.Tanh(),
        nn.Conv2d(7, 20, 5, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
    )
    more = (
        nn.Conv2d(20, 16, 3, padding=2),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Conv2d(16, 18, 3),
        nn.Flatten(),
    )
    return nn.Sequential(*layers, *more, nn.Linear(18 * 2 * 2, 6), nn.Tanh(), nn.Linear(6, outputs))


FORMS = [
    Affine(),
    Affine(scale=0.3, pull=0.4),
    Affine(radius=0.2),
    Affine(scale=0.3, radius=0.2, pull=0.4, offset=torch.full((1, 1), 0.01)),
]


@pytest.mark.usefixtures("way_uphill")
@pytest.mark.parametrize("form", FORMS, ids=["gradient", "pulled", "uphill", "all"])
@pytest.mark.parametrize("model", ["common", "lenet", "cnn", "mcmahan"])
def test_descent_is_that_of_a_loop_in_double_precision(processor, model, form):
    """Three clients, five examples of which not all count, three steps."""
    factories = {
        "common": (convolutional, (2, 13, 11)),
        "lenet": (lambda n: LeNet((3, 32, 32), n, padding=0), (3, 32, 32)),
    }
    factories |= {
        "cnn": (lambda n: CNN((3, 12, 12), n), (3, 12, 12)),
        "mcmahan": (lambda n: McMahanCNN((1, 12, 12), n), (1, 12, 12)),
    }
    factory, shape = factories[model]
    with torch.random.fork_rng():
        torch.manual_seed(5)
        module = factory(4)
        inputs, targets = torch.randn(3, 3, 5, *shape), torch.randint(4, (3, 3, 5))
        x = flat_parameters(module) + 0.02 * torch.randn(3, Layout.of(module).size)
    weights = torch.full((3, 5), 0.2)
    weights[1, 3:], weights[1, :3] = 0, 1 / 3
    kinds = [layer.kind for layer in layers_of(module) if isinstance(layer.module, nn.Conv2d)]
    assert kinds == [CompiledConvolution] * len(kinds)
    layout, moved = Layout.of(module), []
    for kernel, dtype in ((ClosedFormGradient, torch.float32), (LoopedGradient, torch.float64)):
        point = x.to(dtype, copy=True)
        offset = None if form.offset is None else form.offset.to(dtype).expand(1, layout.size)
        step = kernel(module.to(dtype), layout, True).descent(
            point, Affine(form.scale, form.radius, form.pull, offset), 0.05
        )
        for batch, labels in zip(inputs.to(dtype), targets, strict=True):
            step(batch, labels, weights.to(dtype))
        moved.append(point.double() - x.double())
    error, length = (moved[0] - moved[1]).norm(dim=1), moved[1].norm(dim=1)
    assert (error < 1e-5 * length).all(), error / length


def test_evaluations_are_those_of_the_library(processor):
    module = McMahanCNN((1, 28, 28), 10)
    layout, inputs = (
        Layout.of(module),
        torch.randn(9, 1, 28, 28, generator=torch.Generator().manual_seed(0)),
    )
    x = torch.stack([flat_parameters(module) * scale for scale in (1.0, 0.5)])
    with torch.no_grad():
        found = ClosedFormGradient(module, layout, True).outputs(x, inputs)
        expected = LoopedGradient(module, layout, True).outputs(x, inputs)
    assert found.shape == (2, 9, 10) and (found != expected).any()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_it_is_compiled_where_there_is_a_compiler():
    compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")[0]
    headers = Path(sysconfig.get_path("include"), "Python.h").exists()
    machine = platform.machine() == "x86_64" and platform.system() == "Linux"
    if not (shutil.which(compiler) and headers and machine):
        pytest.skip("no C compiler, no headers of Python, or another kind of machine")
    assert compiled is not None
