"""Local training against a plain loop over clients with torch's own optimizer."""

import functools

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fedsim.algorithms import ClientRule, FedSpeed, Sgd
from fedsim.data.shards import Shards
from fedsim.local.batches import draw_batches
from fedsim.local.gradients import DenseGradient, gradient_kernel
from fedsim.local.settings import LocalTraining
from fedsim.local.training import MOMENTUM, Chunk, train
from fedsim.models import CNN, MLP, LeNet, LogisticRegression
from fedsim.parameters import Layout, flat_parameters

SIZES = np.array([3, 14, 8, 1])  # with batches of 4: short batches, unequal steps, the client with most steps not first
SHARDS = Shards.from_owners(np.arange(SIZES.sum()), np.repeat(np.arange(4), SIZES), 4)
MODELS = {
    "logistic": (LogisticRegression, (5,)),
    "relu": (functools.partial(MLP, hidden=[6]), (5,)),
    "tanh": (functools.partial(MLP, hidden=[6, 4], activation="tanh"), (5,)),
    "lenet": (LeNet, (1, 12, 12)),
    "cnn": (functools.partial(CNN, channels=3, dense=[6]), (2, 8, 8)),
}
SETTINGS = {
    "plain": {},
    "momentum": {"momentum": 0.9},
    "clipping, decay and momentum": {"momentum": 0.5, "weight_decay": 0.1, "clip_norm": 0.3},
}


def local(**settings) -> LocalTraining:
    return LocalTraining(**{"steps": None, "epochs": 2, "batch_size": 4, "rate": 0.2, **settings})


class Clients:
    """Four clients with data and models of their own; trains them with fedsim or with a plain loop."""

    def __init__(self, model: str, classification: bool = True, dtype: torch.dtype = torch.float64) -> None:
        factory, shape = MODELS[model]
        generator = torch.Generator().manual_seed(1)
        self.classification = classification
        self.x = torch.randn(SIZES.sum(), *shape, generator=generator, dtype=torch.float64).to(dtype)
        self.y = torch.randint(3, (len(self.x),), generator=generator)
        if not classification:
            self.y = torch.randn(len(self.x), 3, generator=generator, dtype=torch.float64).to(dtype)
        with torch.random.fork_rng():
            torch.manual_seed(2)
            self.module = factory(shape, 3).to(dtype)
        self.layout = Layout.of(self.module)
        noise = torch.randn(4, self.layout.size, generator=generator, dtype=torch.float64)
        self.anchor = (flat_parameters(self.module) + 0.03 * noise).to(dtype)

    def chunk(self, settings: LocalTraining, clients=(0, 1, 2, 3), state=None, shared=None, round: int = 0) -> Chunk:
        rows = np.array(clients)
        state = {name: value[rows] for name, value in (state or {}).items()}
        return Chunk(draw_batches(SHARDS, rows, settings, 7, round), SIZES[rows], self.anchor[rows], state, shared or {})

    def examples(self, index: np.ndarray):
        return self.x[index], self.y[index]

    def kernel(self, settings: LocalTraining):
        return gradient_kernel(self.module, settings, "cpu")(self.module, self.layout, self.classification)

    def train(self, settings: LocalTraining, rule: ClientRule | None = None, **chunk):
        with torch.no_grad():
            return train(self.chunk(settings, **chunk), rule or Sgd(), settings, self.kernel(settings), self.examples, settings.rate)

    def plain(self, settings: LocalTraining, optimizers: list | None = None, anchor: torch.Tensor | None = None, round: int = 0):
        """The trained models [4, P] by a loop of torch modules and optimizers."""
        rows, batches = [], draw_batches(SHARDS, np.arange(4), settings, 7, round)
        for client in range(4):
            if optimizers is None:
                optimizer = torch.optim.SGD(
                    self.module.parameters(), settings.rate, momentum=settings.momentum, weight_decay=settings.weight_decay
                )
            else:
                optimizer = optimizers[client]
            model = dict(zip(self.layout.names, optimizer.param_groups[0]["params"], strict=True))
            for name, view in self.layout.views((self.anchor if anchor is None else anchor)[client]).items():
                model[name].data.copy_(view)
            for step in range(batches.steps[client]):
                index = batches.index[client, step, : batches.count[client, step]]
                optimizer.zero_grad()
                outputs = torch.func.functional_call(self.module, model, (self.x[index],))
                (F.cross_entropy if self.classification else F.mse_loss)(outputs, self.y[index]).backward()
                if settings.clip_norm:
                    torch.nn.utils.clip_grad_norm_(model.values(), settings.clip_norm)
                optimizer.step()
            flat = torch.empty_like(self.anchor[client])
            for name, view in self.layout.views(flat).items():
                view.copy_(model[name].detach())
            rows.append(flat)
        return torch.stack(rows)


@pytest.mark.parametrize("execution", ["looped", "stacked"])
@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("model", MODELS)
def test_epochs_agree_with_a_plain_loop(model, settings, execution):
    clients, settings = Clients(model), local(**SETTINGS[settings], execution=execution)
    messages, state, x = clients.train(settings)
    expected = clients.plain(settings)
    assert (expected - clients.anchor).norm(dim=1).min() > 0.02
    torch.testing.assert_close(x, expected, rtol=0, atol=1e-6 if settings.clip_norm else 1e-10)  # torch's clipping adds 1e-6 to the norm
    assert torch.equal(messages["update"], x - clients.anchor) and list(messages) == ["update"] and state == {}


@pytest.mark.parametrize("execution", ["looped", "stacked"])
@pytest.mark.parametrize("classification", [True, False])
@pytest.mark.parametrize("model", ["logistic", "relu", "tanh"])
def test_linear_stacks_agree_in_float32(model, classification, execution):
    clients, settings = Clients(model, classification, torch.float32), local(execution=execution)
    torch.testing.assert_close(clients.train(settings)[2], clients.plain(settings), rtol=0, atol=1e-6)


@pytest.mark.parametrize("execution", ["looped", "stacked"])
def test_one_float32_step_of_a_convolution(execution):
    clients, settings = Clients("lenet", dtype=torch.float32), LocalTraining(steps=1, batch_size=4, execution=execution)
    torch.testing.assert_close(clients.train(settings)[2], clients.plain(settings), rtol=0, atol=1e-4)


@pytest.mark.parametrize("last_batch", ["keep", "drop"])
def test_a_client_trains_as_if_it_were_alone(last_batch):
    clients, settings = Clients("relu"), local(last_batch=last_batch, momentum=0.5)
    together = clients.train(settings)[2]
    assert len(set(local_steps_of(clients, settings))) > 2
    for client in range(4):
        alone = clients.train(settings, clients=[client])[2]
        torch.testing.assert_close(together[client], alone[0], rtol=0, atol=1e-12)


def local_steps_of(clients: Clients, settings: LocalTraining) -> list[int]:
    return clients.chunk(settings).batches.steps.tolist()


@pytest.mark.parametrize("shared_rows", [1, 4])
def test_state_and_messages_stay_with_their_client(shared_rows):
    class Remembering(FedSpeed):
        """Also reads a shared vector and reports what it knows of its work."""

        def direction(self, grad, x, anchor, state, shared):
            return super().direction(grad, x, anchor, state, shared) + shared["pull"]

        def finish(self, x, anchor, state, shared, info):
            messages, state = super().finish(x, anchor, state, shared, info)
            return {**messages, "work": torch.cat([info.steps, info.rates, info.examples], dim=-1)}, state

    clients, settings, rule = Clients("relu"), local(), Remembering(radius=0.1, prox=2.0)
    generator = torch.Generator().manual_seed(5)
    size = clients.layout.size
    dual = torch.randn(4, size, generator=generator, dtype=torch.float64)
    pull = torch.randn(shared_rows, size, generator=generator, dtype=torch.float64)
    messages, state, x = clients.train(settings, rule, state={"dual": dual}, shared={"pull": pull})
    steps = local_steps_of(clients, settings)
    assert steps == [2, 8, 4, 2]
    assert torch.allclose(messages["work"], torch.tensor([[k, 0.2 * k, n] for k, n in zip(steps, SIZES, strict=True)], dtype=torch.float64))
    assert torch.equal(state["dual"], dual + messages["update"])
    for client in range(4):
        own = {"pull": pull if shared_rows == 1 else pull[client : client + 1]}
        alone, _, trained = clients.train(settings, rule, clients=[client], state={"dual": dual}, shared=own)
        torch.testing.assert_close(x[client], trained[0], rtol=0, atol=1e-12)
        torch.testing.assert_close(messages["update"][client], alone["update"][0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("keep", [True, False])
def test_momentum_lives_as_long_as_it_is_set_to(keep):
    clients, settings = Clients("tanh"), local(momentum=0.9, keep_momentum=keep)
    _, state, first = clients.train(settings)
    start, clients.anchor = clients.anchor, first
    _, _, second = clients.train(settings, state=state, round=1)
    clients.anchor = start
    assert list(state) == ([MOMENTUM] if keep else [])
    optimizers = None
    if keep:
        copies = [[p.detach().clone().requires_grad_() for p in clients.module.parameters()] for _ in range(4)]
        optimizers = [torch.optim.SGD(copy, settings.rate, momentum=0.9) for copy in copies]
    expected = clients.plain(settings, optimizers)
    torch.testing.assert_close(first, expected, rtol=0, atol=1e-10)
    torch.testing.assert_close(second, clients.plain(settings, optimizers, expected, round=1), rtol=0, atol=1e-10)


def test_plain_sgd_is_fused_and_nothing_else(monkeypatch):
    calls = []
    descend = DenseGradient.descend
    monkeypatch.setattr(DenseGradient, "descend", lambda self, *args: calls.append(1) or descend(self, *args))

    class Unfused(Sgd):
        plain_sgd = False

    clients, settings = Clients("relu", dtype=torch.float32), local()
    unfused = clients.train(settings, Unfused())[2]
    assert not calls
    fused = clients.train(settings)[2]
    assert len(calls) == max(local_steps_of(clients, settings))
    torch.testing.assert_close(fused, unfused, rtol=0, atol=1e-6)
    calls.clear()
    for other in ({"momentum": 0.1}, {"weight_decay": 0.1}, {"clip_norm": 1.0}, {"execution": "looped"}):
        clients.train(local(**other))
    assert not calls


def test_clipping_bounds_the_step():
    clients, settings = Clients("relu"), LocalTraining(steps=1, rate=0.5, clip_norm=0.01)
    messages, _, _ = clients.train(settings)
    assert messages["update"].norm(dim=1).numpy() == pytest.approx(0.5 * 0.01)
    loose = LocalTraining(steps=1, rate=0.5, clip_norm=1e6)
    torch.testing.assert_close(clients.train(loose)[2], clients.train(LocalTraining(steps=1, rate=0.5))[2])


def test_a_rule_may_start_away_from_the_anchor_and_leaves_it_alone():
    class Ahead(ClientRule):
        def start(self, anchor, state, shared):
            return anchor + 1

    clients, settings = Clients("logistic"), LocalTraining(steps=2, rate=1e-12)
    before = clients.anchor.clone()
    clients.anchor = clients.anchor[:1].expand(4, -1)  # as the engine passes one model to all
    messages, _, _ = clients.train(settings, Ahead())
    torch.testing.assert_close(messages["update"], torch.ones_like(messages["update"]))
    assert torch.equal(clients.anchor, before[:1].expand(4, -1))
    assert not torch.equal(clients.train(LocalTraining(steps=1))[2][0], clients.train(LocalTraining(steps=1))[2][1])
