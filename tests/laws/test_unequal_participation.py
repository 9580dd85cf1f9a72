"""Quadratics whose clients take part with the probabilities 0.1, 0.5 and 0.9: where FedAvg ends up,
and that FedAU is not drawn there.

The centres are the unit vectors, so that the final model is the weights of the clients in the
objective that was really minimised. One local step and equal curvature: client drift adds no bias
of its own. The rate decays, so that the last iterate averages.
"""

import itertools

import numpy as np
import pytest

from fedsim.algorithms import FedAU, FedAvg
from fedsim.schedules import Linear
from tests.helpers import Cohorts, quadratic_run

PROBABILITIES, PERIOD, PERIODS, SEEDS = np.array([0.1, 0.5, 0.9]), 200, 2, 3
SUBSETS = [
    np.array(clients, dtype=int)
    for size in range(4)
    for clients in itertools.combinations(range(3), size)
]
CHANCES = np.array(
    [
        np.prod([p if client in subset else 1 - p for client, p in enumerate(PROBABILITIES)])
        for subset in SUBSETS
    ]
)


def enumerated_fedavg_weights():
    """E[I_i / |S|] given that S is not empty."""
    weights = sum(
        chance * np.isin(range(3), subset) / max(len(subset), 1)
        for chance, subset in zip(CHANCES, SUBSETS, strict=True)
    )
    return weights / weights.sum()


def cohorts(seed):
    """Independent participation with the sampling error of the frequencies taken out: in every 200
    rounds each cohort comes up exactly as often as it should, in random order."""
    random = np.random.Generator(np.random.Philox(seed))
    block = np.repeat(np.arange(len(SUBSETS)), np.rint(PERIOD * CHANCES).astype(int))
    return Cohorts(
        *[SUBSETS[which] for _ in range(PERIODS) for which in random.permutation(block)],
        probabilities=PROBABILITIES,
    )


def test_the_frequencies_are_exact():
    counts = PERIOD * CHANCES
    np.testing.assert_allclose(counts, np.rint(counts), atol=1e-9)
    np.testing.assert_allclose(enumerated_fedavg_weights(), [0.0471, 0.2775, 0.6754], atol=1e-4)


@pytest.mark.parametrize(
    ("aggregator", "limit"),
    [
        (FedAvg(weighting="uniform"), enumerated_fedavg_weights()),
        (FedAU(), [1 / 3, 1 / 3, 1 / 3]),
        (FedAvg(weighting="known_prob"), [1 / 3, 1 / 3, 1 / 3]),
    ],
    ids=["fedavg", "fedau", "known_prob"],
)
def test_the_objective_that_is_minimised(aggregator, limit):
    runs = np.array(
        [
            quadratic_run(
                np.eye(3),
                PERIOD * PERIODS,
                rate=0.07,
                schedule=Linear(),
                participation=cohorts(seed),
                aggregator=aggregator,
            ).models[0]
            for seed in range(SEEDS)
        ]
    )
    error = runs.std(axis=0, ddof=1) / np.sqrt(SEEDS)
    assert np.abs(runs.mean(axis=0) - limit).max() < 0.03, (runs.mean(axis=0), error)
    assert error.max() < 0.02  # small beside FedAvg's bias of 0.29 and 0.34
