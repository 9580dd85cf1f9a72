"""Gradients of a stack of clients by torch.func: traced, and where a module allows them."""

import pytest
import torch
from torch import nn

from fedsim.models import LeNet
from fedsim.parameters import Layout, flat_parameters
from fedsim.training import vectorised as vmapped
from fedsim.training.gradients import LoopedGradient
from fedsim.training.vectorised import TRACED_AFTER, VmappedGradient, VmappedOrLooped
from tests.kernels.networks import Residual, batch, group_norm_network


class Transformer(nn.Module):
    """A user's module with attention, normalisation and another activation."""

    def __init__(self, features: int, outputs: int) -> None:
        super().__init__()
        self.lift, self.norm = nn.Linear(1, 8), nn.LayerNorm(8)
        self.attention, self.last = (
            nn.MultiheadAttention(8, 2, batch_first=True),
            nn.Linear(8 * features, outputs),
        )

    def forward(self, x):
        x = self.norm(self.lift(x.unsqueeze(-1)))
        return self.last(
            nn.functional.gelu(x + self.attention(x, x, x, need_weights=False)[0]).flatten(1)
        )


@pytest.mark.parametrize(
    "module",
    [Residual(6, 3), Transformer(6, 3), LeNet((1, 12, 12), 3), group_norm_network(3)],
    ids=lambda m: type(m).__name__,
)
def test_gradients_traced_have_the_bits_of_those_that_are_not(module):
    """With whole batches and padded ones, which are calls of other shapes."""
    shape = {LeNet: (1, 12, 12), nn.Sequential: (2, 12, 12)}.get(type(module), (6,))
    layout, generator = Layout.of(module), torch.Generator().manual_seed(0)
    traced, fresh = VmappedGradient(module, layout, True), VmappedGradient(module, layout, True)
    with torch.no_grad():
        for call in range(TRACED_AFTER + 2):
            x = flat_parameters(module) + 0.1 * torch.randn(3, layout.size, generator=generator)
            inputs, targets = (
                torch.randn(3, 5, *shape, generator=generator),
                torch.randint(3, (3, 5), generator=generator),
            )
            padded = torch.rand(3, 5, generator=generator)
            for clients, weights in (
                (3, torch.full((1, 1), 0.2).expand(3, 5)),
                (3, padded),
                (2, padded[:2]),
            ):
                batch = x[:clients], inputs[:clients], targets[:clients], weights
                found = traced(*batch)
                if call in (0, TRACED_AFTER - 1, TRACED_AFTER + 1):
                    assert torch.equal(found, fresh._untraced(*batch))
    assert len(traced.traced) == 3 and not any(
        found == traced._untraced for found in traced.traced.values()
    )


def test_what_cannot_be_stacked_is_looped():
    class Branching(Residual):
        def forward(self, x):
            return super().forward(x if x.sum() > 0 else 2 * x)

    module, layout = Branching(6, 3).double(), Layout.of(Branching(6, 3))
    x, *batch_of = (
        torch.randn(3, layout.size, dtype=torch.float64),
        *batch("residual", 3, True)[2:],
    )
    expected = LoopedGradient(module, layout, True)(x, *batch_of)
    found = VmappedOrLooped(module, layout, True)
    assert torch.equal(found(x, *batch_of), expected) and list(found.chosen.values()) == [
        found.looped
    ]
    with pytest.raises(RuntimeError, match="data-dependent control flow"):
        VmappedGradient(module, layout, True)(x, *batch_of)
    with pytest.raises(RuntimeError, match="shape"):  # and what is wrong in itself says so
        VmappedOrLooped(Residual(7, 3).double(), Layout.of(Residual(7, 3)), True)(x, *batch_of)


def test_want_of_memory_does_not_choose_the_kernel(monkeypatch):
    """It depends on what else runs, and so would the bits."""

    def full(self, *batch):
        raise RuntimeError(
            "DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
        )

    monkeypatch.setattr(VmappedGradient, "__call__", full)
    module, *whole = batch("residual", 3, True)
    with pytest.raises(RuntimeError, match="can't allocate memory"):
        VmappedOrLooped(module, Layout.of(module), True)(*whole)


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
        inputs, targets = (
            torch.randn(clients, examples, 6, dtype=torch.float64),
            torch.randint(3, (clients, examples)),
        )
        whole = (
            x,
            inputs,
            targets,
            torch.full((clients, examples), 1 / examples, dtype=torch.float64),
        )
        torch.testing.assert_close(
            kernel(*whole), LoopedGradient(module, layout, True)(*whole), rtol=1e-9, atol=1e-12
        )
        module(inputs[0])
    assert kernel.chosen[torch.Size([3, 6])] is kernel.looped


def test_no_more_shapes_are_traced_than_there_is_room_for(monkeypatch):
    monkeypatch.setattr(vmapped, "MOST_TRACED", 2)
    monkeypatch.setattr(vmapped, "TRACED_AFTER", 1)
    module = Residual(6, 3)
    kernel = VmappedGradient(module, Layout.of(module), True)
    for clients in (1, 2, 3, 4):
        kernel(
            flat_parameters(module).expand(clients, -1),
            torch.ones(clients, 5, 6),
            torch.zeros(clients, 5).long(),
            torch.ones(clients, 5),
        )
    assert len(kernel.traced) == 2


@pytest.mark.parametrize(("examples", "stacked"), [(10, True), (12_000, False)])
def test_batches_that_keep_much_for_the_backward_pass_are_looped(examples, stacked):
    module = Residual(60, 3)  # keeps some 4 * 60 numbers of an example
    kernel = VmappedOrLooped(module, Layout.of(module), True)
    x, inputs = flat_parameters(module).expand(2, -1), torch.randn(2, examples, 60)
    kernel(x, inputs, torch.zeros(2, examples, dtype=torch.int64), torch.ones(2, examples))
    assert list(kernel.chosen.values()) == [kernel.vmapped if stacked else kernel.looped]
