"""A model as one flat vector: views, channels-last kernels, stacks and layers."""

import pytest
import torch
from torch import nn

from fedsim.parameters import Layout, flat_parameters

SHAPES = {
    "0.weight": (4, 3, 5, 5),
    "0.bias": (4,),
    "1.weight": (4,),
    "1.bias": (4,),
    "3.weight": (2, 4, 3),
    "4.weight": (7, 6),
}


@pytest.fixture
def module() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 5),
        nn.GroupNorm(2, 4),
        nn.Flatten(2),
        nn.Conv1d(4, 2, 3, bias=False),
        nn.Linear(6, 7, bias=False),
    )


def test_layout_follows_registration(module):
    layout = Layout.of(module)
    assert dict(zip(layout.names, layout.shapes, strict=True)) == SHAPES
    assert layout.offsets == (0, 300, 304, 308, 312, 336, 378)
    assert layout.size == sum(p.numel() for p in module.parameters()) == 378


def test_flat_vector_and_views_round_trip(module):
    layout, before = (
        Layout.of(module),
        {name: p.detach().clone() for name, p in module.named_parameters()},
    )
    flat = flat_parameters(module)
    assert flat.shape == (378,) and flat.dtype == torch.float32 and not flat.requires_grad
    views = layout.views(flat)
    assert list(views) == list(SHAPES)
    for name, tensor in before.items():
        assert torch.equal(views[name], tensor), name
        views[name].add_(1)
    # The views write through
    assert torch.equal(layout.flatten({name: tensor + 1 for name, tensor in before.items()}), flat)
    # And the module is another copy
    assert all(torch.equal(p, before[name]) for name, p in module.named_parameters())


def test_convolution_kernels_are_channels_last(module):
    kernel = module[0].weight.detach()
    flat = flat_parameters(module)
    assert torch.equal(flat[:300], kernel.permute(0, 2, 3, 1).reshape(-1))
    view = Layout.of(module).views(flat)["0.weight"]
    assert view.stride() == kernel.to(memory_format=torch.channels_last).stride() != kernel.stride()
    assert view.is_contiguous(memory_format=torch.channels_last)


def test_views_of_a_stack(module):
    layout = Layout.of(module)
    stack = torch.stack([flat_parameters(module) * c for c in range(3)])
    views = layout.views(stack)
    for c in range(3):
        for name, tensor in layout.views(stack[c]).items():
            assert torch.equal(views[name][c], tensor)
            assert views[name][c].stride() == tensor.stride()
    views["4.weight"][1].zero_()
    assert not stack[1, 336:].any() and stack[2, 336:].any()


def test_layers(module):
    layout = Layout.of(module)
    stack = torch.arange(2 * 378.0).view(2, 378)
    assert [layer.shape[-1] for layer in layout.layers(stack[0], weights_only=True)] == [
        300,
        24,
        42,
    ]
    layers = layout.layers(stack, weights_only=False)
    assert torch.equal(torch.cat(layers, dim=-1), stack)
    layers[1].zero_()
    assert not stack[:, 300:304].any()


def test_a_shared_tensor_counts_once():
    tied = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    tied[1].weight = tied[0].weight
    assert Layout.of(tied).names == ("0.weight", "0.bias", "1.bias")
    flat = flat_parameters(tied)
    inputs = torch.randn(5, 4, generator=torch.Generator().manual_seed(1))
    doubled = torch.func.functional_call(tied, Layout.of(tied).views(2 * flat), (inputs,))
    tied[0].weight.data *= 2
    tied[0].bias.data *= 2
    tied[1].bias.data *= 2
    assert torch.allclose(doubled, tied(inputs))
