"""Merging by Fisher weights, greedy soup, and the mean of the latest models."""

import functools
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from fedsim.algorithms import FedAvg, FisherMerging, GreedySoup, LastAverage
from fedsim.data import Digits
from fedsim.data.partition import Dirichlet
from fedsim.errors import ConfigError
from fedsim.evaluation.evaluator import Evaluation
from fedsim.models import MLP
from fedsim.network.topology import Ring
from fedsim.parameters import Layout
from fedsim.participation import Uniform
from fedsim.protocols import Gossip
from fedsim.simulation.simulation import Simulation
from fedsim.training.fisher_diagonal import diagonal_fisher
from tests.helpers import Cohorts, Ticks, blobs_simulation, quadratic_run

UNIFORM = FedAvg(weighting="uniform")


def test_the_fisher_of_a_logistic_regression_in_closed_form():
    """For logits z = W x + b the Fisher of W_kj is the mean of p_k (1 - p_k) x_j^2, of b_k that of
    p_k (1 - p_k)."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    layout, inputs = Layout.of(module), torch.randn(11, 4)
    x = layout.flatten(dict(module.named_parameters()))
    with torch.no_grad():
        p = module(inputs).softmax(-1)
        spread = p * (1 - p)
        expected = {
            "1.weight": (spread[:, :, None] * inputs[:, None, :] ** 2).mean(0),
            "1.bias": spread.mean(0),
        }
        found = layout.views(diagonal_fisher(module, layout, x, inputs))
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)


def test_blocks_of_the_fisher_add_up(monkeypatch):
    module = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    layout, inputs, x = Layout.of(module), torch.randn(11, 4), torch.randn(15)
    whole = diagonal_fisher(module, layout, x, inputs)
    monkeypatch.setattr("fedsim.training.fisher_diagonal.ENTRIES", 3 * 15 * 4)
    torch.testing.assert_close(diagonal_fisher(module, layout, x, inputs), whole)


def test_fisher_merging_is_the_weighted_mean_of_the_models():
    """Against the formula, from the clients' own models and Fishers."""
    sent = []

    class Watched(FisherMerging):
        def finish(self, x, anchor, state, shared, info):
            messages, state = super().finish(x, anchor, state, shared, info)
            sent.append((x.double().clone(), messages["fisher"].double().clone()))
            return messages, state

    with Ticks(blobs_simulation(1, client=Watched(), aggregator=UNIFORM)) as ticks:
        merged = ticks.run()[0]
    models, fisher = (torch.cat(parts) for parts in zip(*sent, strict=True))
    assert models.shape == fisher.shape == (8, len(merged))
    np.testing.assert_allclose(
        merged, ((fisher * models).sum(0) / fisher.sum(0)).numpy(), rtol=2e-5, atol=1e-6
    )
    assert np.abs(merged - models.mean(0).numpy()).max() > 1e-3


def test_equal_fishers_give_the_plain_mean():
    class Alike(FisherMerging):
        def finish(self, x, anchor, state, shared, info):
            fixed = replace(info, fisher=torch.ones_like)
            return super().finish(x, anchor, state, shared, fixed)

    plain = blobs_simulation(3, aggregator=UNIFORM, participation=Uniform(cohort=4)).run().models
    merged = (
        blobs_simulation(3, client=Alike(), aggregator=UNIFORM, participation=Uniform(cohort=4))
        .run()
        .models
    )
    np.testing.assert_allclose(merged, plain, atol=1e-6)


class Judge:
    """Judges updates [m, 1] by how near 3 they are."""

    def evaluate(self, updates):
        distance = (updates[:, 0] - 3).abs().numpy()
        return distance, np.round(1 - distance / 10, 2)


def test_a_greedy_soup_by_hand():
    updates = torch.tensor([[9.0], [2.0], [5.0], [3.5], [-20.0]])
    # sorted: 3.5, 2, 5, 9; 3.5 alone 0.95, with 2: 2.75, 0.98 (rounded), with 5: 3.5, 0.95: no;
    # with 9: no; with -20: no
    assert GreedySoup().merge(updates, torch.ones(5), Judge()).item() == pytest.approx(2.75)
    twins = torch.tensor([[3.5], [3.5]])  # no better together
    ties = torch.tensor([[3.5], [2.5]])
    assert GreedySoup().merge(twins, torch.ones(2), Judge()).item() == 3.5
    assert GreedySoup().merge(ties, torch.ones(2), Judge()).item() == 3.0
    third = torch.tensor([[3.5], [2.5], [3.0]])  # 3.0 first; the others make it no better
    assert GreedySoup().merge(third, torch.ones(3), Judge()).item() == 3.0


def digits(rounds, **parts):
    part = {
        "data": Digits(validation=0.2),
        "partition": Dirichlet(clients=10, alpha=0.2),
        "participation": Uniform(cohort=5),
    }
    return Simulation(
        **part, model=functools.partial(MLP, hidden=[16]), rounds=rounds, progress=False, **parts
    )


def test_the_greedy_soup_is_never_worse_on_validation_than_the_best_of_the_cohort():
    heard = []

    class Watched(GreedySoup):
        def merge(self, updates, weights, info):
            merged = super().merge(updates, weights, info)
            heard.append((info.evaluate(updates)[1].max(), info.evaluate(merged[None])[1][0]))
            return merged

    result = digits(
        4, aggregator=Watched(), evaluation=Evaluation(split="validation", every=1)
    ).run()
    assert len(heard) == 4 and all(soup >= best for best, soup in heard)
    curve = result.metrics[result.metrics.metric == "accuracy"].value.to_numpy()
    # What was judged is what was released
    np.testing.assert_allclose(curve[1:], [soup for _, soup in heard])


def test_the_latest_models_are_averaged_and_training_is_as_without():
    every = Evaluation(every=1)
    with Ticks(blobs_simulation(8, aggregator=UNIFORM)) as plain:
        models = [plain.run()[0] for _ in range(8)]
    parts = {"aggregator": LastAverage(weighting="uniform", count=3, every=2), "evaluation": every}
    for rounds, averaged in (
        (1, models[:1]),
        (2, models[1:2]),
        (5, [models[1], models[3]]),
        (8, [models[3], models[5], models[7]]),
    ):
        result = blobs_simulation(rounds, **parts).run()
        np.testing.assert_allclose(result.models[0], np.mean(averaged, axis=0), atol=1e-6)


def test_nodes_average_their_own_latest_models():
    cohorts = [[0, 1, 5], [1, 2], [], [5, 6, 7], [0, 1, 2, 3], [1, 5]]
    graph = {"protocol": Gossip(), "topology": Ring(), "participation": Cohorts(*cohorts)}
    average = LastAverage(weighting="uniform", count=2, every=1)
    with (
        Ticks(blobs_simulation(6, aggregator=UNIFORM, **graph)) as plain,
        Ticks(blobs_simulation(6, aggregator=average, **graph)) as ticks,
    ):
        history = [[model] for model in plain.models]
        for cohort in cohorts:
            after, same = plain.run(), ticks.run()
            np.testing.assert_allclose(after, same, rtol=0, atol=1e-6)  # mixed in other products
            for node in cohort:
                history[node].append(after[node])
        released = ticks.session.arena[ticks.rounds.receivers.released()]
        for node in range(8):
            took_part = history[node][1:]
            np.testing.assert_allclose(
                released[node], np.mean(took_part[-2:] or history[node][:1], axis=0), atol=1e-6
            )


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"client": FisherMerging()}, "client='FisherMerging': needs labels that are classes"),
        ({"aggregator": GreedySoup()}, "aggregator='GreedySoup'"),
        (
            {"client": FisherMerging(), "protocol": Gossip(), "topology": Ring()},
            "merges at a server only",
        ),
        (
            {"aggregator": GreedySoup(), "protocol": Gossip(), "topology": Ring()},
            "judges models at a server only",
        ),
    ],
)
def test_what_they_cannot_do_is_refused(parts, message):
    with pytest.raises(ConfigError, match=message):
        quadratic_run([[1.0], [2.0]], 1, **parts)
