"""FedVarp: numbers by hand, and a server that stores every client's update. What it shares with
MIFA is tested there."""

import numpy as np

from fedsim.algorithms import FedVarp
from tests.algorithms.test_mifa import CENTRES, COHORTS, DIMENSIONS, N
from tests.helpers import Cohorts, quadratic_run


def test_four_rounds_by_hand():
    """Updates are half of centre - x: 2; 3 - 0 + 1; nothing in the empty round; -1 - 2 + 5/2."""
    for rounds, expected in enumerate([2, 6, 6, 5.5], start=1):
        models = quadratic_run(
            [[4], [8]], rounds, participation=Cohorts([0], [1], [], [0]), aggregator=FedVarp()
        ).models
        np.testing.assert_allclose(models, [[expected]], rtol=1e-6)


def test_a_server_that_stores_all_updates():
    x, stored = np.zeros(DIMENSIONS), np.zeros((N, DIMENSIONS))
    for cohort in filter(None, COHORTS):
        updates = (CENTRES[cohort] - x) / 2
        x = x + 0.7 * ((updates - stored[cohort]).mean(axis=0) + stored.mean(axis=0))
        stored[cohort] = updates
    models = quadratic_run(
        CENTRES, len(COHORTS), participation=Cohorts(*COHORTS), aggregator=FedVarp(rate=0.7)
    ).models
    np.testing.assert_allclose(models[0], x, rtol=1e-5)
