"""Local training against a plain loop over clients with torch's own optimizer."""

from dataclasses import fields

import pytest
import torch

from fedsim.algorithms import ClientRule, FedProx, FedSam, FedSpeed, Sgd
from fedsim.training import loop as training
from fedsim.training.execution import gradient_kernel
from fedsim.training.settings import LocalTraining
from tests.training.clients import MODELS, SIZES, Clients, local

SETTINGS = {
    "plain": {},
    "decay": {"weight_decay": 0.1},
    "momentum": {"momentum": 0.9},
    "clipping, decay and momentum": {"momentum": 0.5, "weight_decay": 0.1, "clip_norm": 0.3},
}


@pytest.mark.parametrize("execution", ["looped", "stacked"])
@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("model", MODELS)
def test_epochs_agree_with_a_plain_loop(model, settings, execution):
    clients, settings = Clients(model), local(**SETTINGS[settings], execution=execution)
    messages, state, kept, x = clients.train(settings)
    expected = clients.plain(settings)
    assert (expected - clients.anchor).norm(dim=1).min() > 0.02
    # torch's clipping adds 1e-6 to the norm
    torch.testing.assert_close(x, expected, rtol=0, atol=1e-6 if settings.clip_norm else 1e-10)
    assert (
        torch.equal(messages["update"], x - clients.anchor)
        and list(messages) == ["update"]
        and state == kept == {}
    )


@pytest.mark.parametrize("execution", ["looped", "stacked"])
@pytest.mark.parametrize("classification", [True, False])
@pytest.mark.parametrize("model", ["logistic", "relu", "tanh"])
def test_linear_stacks_agree_in_float32(model, classification, execution):
    clients, settings = Clients(model, classification, torch.float32), local(execution=execution)
    torch.testing.assert_close(
        clients.train(settings)[3], clients.plain(settings), rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("execution", ["looped", "stacked"])
def test_one_float32_step_of_a_convolution(execution):
    clients, settings = (
        Clients("lenet", dtype=torch.float32),
        LocalTraining(steps=1, batch_size=4, execution=execution),
    )
    torch.testing.assert_close(
        clients.train(settings)[3], clients.plain(settings), rtol=0, atol=1e-4
    )


@pytest.mark.parametrize("last_batch", ["keep", "drop"])
def test_a_client_trains_as_if_it_were_alone(last_batch):
    clients, settings = Clients("relu"), local(last_batch=last_batch, momentum=0.5)
    together = clients.train(settings)[3]
    assert len(set(local_steps_of(clients, settings))) > 2
    for client in range(4):
        alone = clients.train(settings, clients=[client])[3]
        torch.testing.assert_close(together[client], alone[0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("examples", [1, 12, 40])
def test_how_many_inputs_are_made_ready_at_once_changes_no_bit(examples, monkeypatch):
    clients, settings = Clients("relu"), local(momentum=0.5)
    expected = clients.train(settings)[3]
    assert len(set(local_steps_of(clients, settings))) > 2
    monkeypatch.setattr(training, "STAGED", examples)
    assert torch.equal(clients.train(settings)[3], expected)


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
            return {
                **messages,
                "work": torch.cat([info.steps, info.rates, info.examples], dim=-1),
            }, state

    clients, settings, rule = Clients("relu"), local(), Remembering(radius=0.1, prox=2.0)
    generator = torch.Generator().manual_seed(5)
    size = clients.layout.size
    dual = torch.randn(4, size, generator=generator, dtype=torch.float64)
    pull = torch.randn(shared_rows, size, generator=generator, dtype=torch.float64)
    messages, state, _, x = clients.train(
        settings, rule, state={"dual": dual}, shared={"pull": pull}
    )
    steps = local_steps_of(clients, settings)
    assert steps == [2, 8, 4, 2]
    assert torch.allclose(
        messages["work"],
        torch.tensor(
            [[k, 0.2 * k, n] for k, n in zip(steps, SIZES, strict=True)], dtype=torch.float64
        ),
    )
    assert torch.equal(state["dual"], dual + messages["update"])
    for client in range(4):
        own = {"pull": pull if shared_rows == 1 else pull[client : client + 1]}
        alone, _, _, trained = clients.train(
            settings, rule, clients=[client], state={"dual": dual}, shared=own
        )
        torch.testing.assert_close(x[client], trained[0], rtol=0, atol=1e-12)
        torch.testing.assert_close(
            messages["update"][client], alone["update"][0], rtol=0, atol=1e-12
        )


@pytest.mark.parametrize("keep", [True, False])
def test_momentum_lives_as_long_as_it_is_set_to(keep):
    clients, settings = Clients("tanh"), local(momentum=0.9, keep_optimizer=keep)
    _, _, kept, first = clients.train(settings)
    start, clients.anchor = clients.anchor, first
    _, _, _, second = clients.train(settings, kept=kept, round=1)
    clients.anchor = start
    assert list(kept) == (["momentum"] if keep else [])
    optimizers = None
    if keep:
        optimizers = clients.optimizers(settings)
    expected = clients.plain(settings, optimizers)
    torch.testing.assert_close(first, expected, rtol=0, atol=1e-10)
    torch.testing.assert_close(
        second, clients.plain(settings, optimizers, expected, round=1), rtol=0, atol=1e-10
    )


@pytest.mark.parametrize(
    "rule", [Sgd(), FedProx(strength=0.5), FedSam(radius=0.1)], ids=lambda rule: type(rule).__name__
)
@pytest.mark.parametrize("execution", ["looped", "stacked"])
def test_plain_steps_along_a_form_go_through_the_kernel_and_no_others(monkeypatch, execution, rule):
    class General(type(rule)):
        def direction(self, *where):
            return super().direction(*where)

    clients, settings = (
        Clients("relu", dtype=torch.float32),
        local(execution=execution, weight_decay=0.05),
    )
    kernel, descents = gradient_kernel(clients.module, settings, "cpu"), []
    descent = kernel.descent
    monkeypatch.setattr(
        kernel, "descent", lambda self, *form: descents.append(form) or descent(self, *form)
    )
    expected = clients.train(
        settings, General(*(getattr(rule, field.name) for field in fields(rule)))
    )[3]
    assert not descents
    torch.testing.assert_close(clients.train(settings, rule)[3], expected, rtol=0, atol=1e-6)
    assert descents
    descents.clear()
    for other in ({"momentum": 0.1}, {"clip_norm": 1.0}, {"optimizer": "adam"}):
        clients.train(local(**other, execution=execution), rule)
    assert not descents


def test_clipping_bounds_the_step():
    clients, settings = Clients("relu"), LocalTraining(steps=1, rate=0.5, clip_norm=0.01)
    messages, _, _, _ = clients.train(settings)
    assert messages["update"].norm(dim=1).numpy() == pytest.approx(0.5 * 0.01)
    loose = LocalTraining(steps=1, rate=0.5, clip_norm=1e6)
    torch.testing.assert_close(
        clients.train(loose)[3], clients.train(LocalTraining(steps=1, rate=0.5))[3]
    )


def test_a_rule_may_start_away_from_the_anchor_and_leaves_it_alone():
    class Ahead(ClientRule):
        def start(self, anchor, state, shared):
            return anchor + 1

    clients, settings = Clients("logistic"), LocalTraining(steps=2, rate=1e-12)
    before = clients.anchor.clone()
    clients.anchor = clients.anchor[:1].expand(4, -1)  # as the engine passes one model to all
    messages, _, _, _ = clients.train(settings, Ahead())
    torch.testing.assert_close(messages["update"], torch.ones_like(messages["update"]))
    assert torch.equal(clients.anchor, before[:1].expand(4, -1))
    assert not torch.equal(
        clients.train(LocalTraining(steps=1))[3][0], clients.train(LocalTraining(steps=1))[3][1]
    )


def test_a_relaxed_start_goes_on_from_where_the_client_came():
    """From the model received, away from the one last trained; and what is trained now is kept for
    the next time."""
    clients, settings = Clients("tanh"), LocalTraining(steps=1, rate=1e-30, relaxation=0.25)
    messages, _, kept, x = clients.train(settings)
    assert (
        torch.equal(x, clients.anchor)
        and torch.equal(kept["trained"], x)
        and not messages["update"].any()
    )
    last = {"trained": clients.anchor.flip(0)}
    messages, _, kept, x = clients.train(settings, kept=last)
    torch.testing.assert_close(messages["update"], 0.25 * (clients.anchor - last["trained"]))
    assert torch.equal(kept["trained"], x)
