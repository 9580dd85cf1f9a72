"""What every client rule and aggregator promises: one text for [P] and for a stack [C, P], and no
hidden changes to what it is given."""

import importlib
import inspect
import pkgutil

import numpy as np
import pytest
import torch

import fedsim.algorithms
from fedsim.algorithms import (
    Affine,
    Aggregator,
    ClientRule,
    FedCM,
    FedProx,
    FedSmoo,
    FedSpeed,
    LocalInfo,
    Scaffold,
)
from fedsim.algorithms.base import RoundInfo

for module in pkgutil.iter_modules(fedsim.algorithms.__path__):
    importlib.import_module(f"fedsim.algorithms.{module.name}")


def parts_of_fedsim(base):
    """All component classes of the package below `base`."""
    found, new = set(), {base}
    while new:
        new = {
            below
            for cls in new
            for below in cls.__subclasses__()
            if below.__module__.startswith("fedsim.algorithms.")
        } - found
        found |= new
    return sorted(
        (cls for cls in found if not inspect.isabstract(cls)), key=lambda cls: cls.__name__
    )


VARIANTS = [
    FedSpeed(mean_dual=whose, merge=merge) for whose in ("active", "none") for merge in (0.5, 1.0)
]
VARIANTS += [
    Scaffold(radius=0.2),
    FedCM(share=0.5, radius=0.2),
    FedSmoo(mean_dual="active", merge=0.5),
    FedSmoo(mean_dual="none"),
]
RULES = [ClientRule(), *(cls() for cls in parts_of_fedsim(ClientRule)), *VARIANTS]
AGGREGATORS = [Aggregator(), *(cls() for cls in parts_of_fedsim(Aggregator))]
CLIENTS, SIZE, ROUNDS, STEPS, RATE = 4, 7, 3, 3, 0.1


def named(parts):
    return pytest.mark.parametrize(
        "part",
        parts,
        ids=lambda part: type(part).__name__ if "object at" in repr(part) else repr(part),
    )


def random(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


CENTRES, SCALES = random(CLIENTS, SIZE, seed=1), 1 + random(CLIENTS, 1, seed=2).abs()


def gradient_of(rows):
    """The gradients of different functions at each row; works on [P] for one row and on [C, P] for
    many."""
    return lambda x: SCALES[rows] * (x - CENTRES[rows]) + torch.sin(3 * x)


def round_info(rows, round):
    """What receivers know, for receivers that are one row ([1], as rules for one vector see it) or
    several."""
    receivers = np.arange(CLIENTS)[rows]
    heard = torch.arange(1.0, CLIENTS + 1, dtype=torch.float64).unsqueeze(-1)[rows]
    return RoundInfo(round, 0, np.atleast_1d(receivers), heard, CLIENTS, RATE, STEPS)


class Watch:
    """Copies of tensors, to see that they were not changed in place."""

    def __init__(self, **tensors):
        self.tensors = {name: value for name, value in tensors.items()}
        self.copies = {name: clone(value) for name, value in tensors.items()}

    def check(self):
        for name, value in self.tensors.items():
            torch.testing.assert_close(
                value, self.copies[name], rtol=0, atol=0, msg=f"{name} was changed in place"
            )


def clone(value):
    return (
        {key: part.clone() for key, part in value.items()}
        if isinstance(value, dict)
        else value.clone()
    )


def play(rule, rows):
    """A few rounds of one client (rows an index) or of a stack (rows a slice): all messages,
    states, shared vectors and additions."""
    x0 = random(CLIENTS, SIZE, seed=3)[rows]
    state, shared, trace = rule.init(x0), rule.init_shared(x0), []
    for round in range(ROUNDS):
        anchor = random(CLIENTS, SIZE, seed=10 + round)[rows]
        watch = Watch(anchor=anchor, state=state, shared=shared)
        start = rule.start(anchor, state, shared)
        x = start.clone()
        for _ in range(STEPS):
            here = Watch(x=x, state=state)
            step = rule.direction(gradient_of(rows), x, anchor, state, shared)
            here.check()
            if isinstance(step, tuple):
                step, state = step
            x = x - RATE * step
        one = torch.ones_like(x[..., :1])
        info = LocalInfo(
            STEPS * one, STEPS * RATE * one, 20 * one, start, lambda point: 1 + point.square()
        )
        messages, after = rule.finish(x, anchor, state, shared, info)
        messages |= {channel: messages[source] for channel, source in rule.same_as.items()}
        assert messages.keys() == rule.channels.keys() and after.keys() == rule.init(x0).keys()
        new_shared, addition = rule.absorb(shared, messages, round_info(rows, round))
        assert new_shared.keys() == rule.init_shared(x0).keys()
        watch.check()
        state, shared = after, new_shared
        trace.append(
            [x, messages, state, shared, torch.zeros_like(x) if addition is None else addition]
        )
    return trace


def pick(value, row):
    return (
        {name: part[row] for name, part in value.items()} if isinstance(value, dict) else value[row]
    )


@named(RULES)
def test_a_stack_of_clients_is_each_client_alone(part):
    stacked = play(part, slice(None))
    for client in range(CLIENTS):
        alone = play(part, client)
        expected = [[pick(value, client) for value in round] for round in stacked]
        torch.testing.assert_close(alone, expected, rtol=1e-12, atol=1e-12)


def test_a_direction_counts_more_than_the_form_it_was_derived_from():
    class Reversed(FedProx):
        def direction(self, grad, x, anchor, state, shared):
            return -super().direction(grad, x, anchor, state, shared)

    class Halved(Reversed):
        def affine(self, anchor, state, shared):
            return Affine(scale=0.5)

    x = random(2, 3, seed=1)
    assert (
        FedProx().form(x, {}, {}).pull == 0.1
        and Reversed().form(x, {}, {}) is None
        and Halved().form(x, {}, {}).scale == 0.5
    )


def test_which_rules_have_a_form():
    x = random(CLIENTS, SIZE, seed=3)
    formed = {
        type(rule).__name__
        for rule in RULES
        if rule.form(x, rule.init(x), rule.init_shared(x)) is not None
    }
    assert (
        formed >= {"ClientRule", "FedCM", "FedProx", "FedSam", "FedSpeed", "Scaffold", "Sgd"}
        and "FedSmoo" not in formed
    )


@named(AGGREGATORS)
def test_aggregators_step_row_by_row_and_change_nothing_in_place(part):
    models = random(CLIENTS, SIZE, seed=4)
    state, singles = (
        part.init_receiver(models),
        [part.init_receiver(models[row : row + 1]) for row in range(CLIENTS)],
    )
    for round in range(ROUNDS):
        base, mixed = models, random(CLIENTS, SIZE, seed=5 + round)
        watch = Watch(base=base, mixed=mixed, state=state)
        models, after = part.step(base, mixed, state, round_info(slice(None), round))
        watch.check()
        assert after.keys() == state.keys() and (models - base).abs().max() > 0
        for row in range(CLIENTS):
            one = slice(row, row + 1)
            alone, singles[row] = part.step(
                base[one], mixed[one], singles[row], round_info(one, round)
            )
            torch.testing.assert_close(
                (alone, singles[row]), (models[one], pick(after, one)), rtol=1e-12, atol=1e-12
            )
        state = after


def test_the_rules_of_the_package_were_found():
    assert {"FedCM", "FedProx", "FedSam", "FedSmoo", "FedSpeed", "Scaffold", "Sgd"} <= {
        cls.__name__ for cls in parts_of_fedsim(ClientRule)
    }
    assert {"FedAU", "FedAvg", "FedNova"} <= {cls.__name__ for cls in parts_of_fedsim(Aggregator)}
