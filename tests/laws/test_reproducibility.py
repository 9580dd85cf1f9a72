"""Under partial participation different algorithms give different models on one seed, and the same
one the same bytes."""

import itertools
import random

import numpy as np
import pytest
import torch

from fedsim.participation import Bernoulli
from tests.helpers import algorithms, blobs_simulation


def run(name, seed=0):
    return (
        blobs_simulation(
            12, participation=Bernoulli(probability=0.4), seed=seed, **algorithms()[name]
        )
        .run()
        .models
    )


@pytest.fixture(scope="module")
def models():
    """Final models of every algorithm, same seed."""
    return {name: run(name) for name in algorithms()}


def test_any_two_algorithms_give_different_models(models):
    """A server's model differs from another's, a graph's models from another graph's, and from a
    server's at every node."""
    same = [
        pair
        for pair in itertools.combinations(models, 2)
        if np.abs(models[pair[0]] - models[pair[1]]).max(axis=1).min() < 1e-5
    ]
    # The same where all clients make as many local steps
    assert same == [("fedavg_size", "fednova")]


@pytest.mark.parametrize("name", algorithms())
def test_the_same_algorithm_twice_gives_the_same_bytes(models, name):
    np.random.seed(123)  # what a global generator holds makes no difference, nor is it touched
    torch.manual_seed(123)
    before = global_generators()
    assert run(name).tobytes() == models[name].tobytes()
    assert global_generators() == before


def global_generators():
    return (
        np.random.get_state()[1].tobytes(),
        torch.get_rng_state().numpy().tobytes(),
        random.getstate(),
    )


@pytest.mark.parametrize("name", ["fedavg_size", "gossip"])
def test_another_seed_gives_other_models(models, name):
    assert np.abs(run(name, seed=1) - models[name]).max() > 1e-2


def test_fedspeed_clients_with_fedau_weights_is_neither(models):
    """Crossing client=fedspeed with aggregator=fedau takes both into account."""
    crossed = models["fedspeed_fedau"]
    for name in ("fedspeed", "fedau"):
        assert np.abs(crossed - models[name]).max() > 1e-2
