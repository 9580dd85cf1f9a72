"""Every algorithm, on clients of unequal size under partial participation, against loops written independently in float64."""

import numpy as np
import pytest

from fedsim.local.settings import LocalTraining
from fedsim.participation import Bernoulli
from tests.algorithms.plain_loops import at_a_server, over_a_graph
from tests.helpers import algorithms, blobs_simulation, mlp

ROUNDS, FULL_BATCHES = 8, LocalTraining(steps=2, batch_size=100, rate=0.3)


@pytest.mark.parametrize("name", algorithms())
def test_an_algorithm_is_its_plain_loop(name):
    parts = {"local": FULL_BATCHES, "model": mlp(5, activation="tanh"), "participation": Bernoulli(probability=0.4), "seed": 5}
    simulation = blobs_simulation(ROUNDS, **parts, **algorithms()[name])
    plain = over_a_graph(simulation) if simulation.protocol.graph else at_a_server(simulation)[None]
    models = simulation.run().models
    np.testing.assert_allclose(models, plain, atol=2e-5)
    start = simulation._first_models(simulation.prepare().task)[0].numpy()
    assert np.abs(models - start).max() > 0.05
