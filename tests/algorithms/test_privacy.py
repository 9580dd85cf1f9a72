"""Client-level privacy: what is clipped, what noise is added, and what is accounted."""

import math
import subprocess
import sys

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.stats import norm as normal

from fedsim.algorithms import DpFedAvg, FedAvg, FedSpeed, VarianceCorrection
from fedsim.algorithms.privacy import Accounting, library
from fedsim.errors import ConfigError
from fedsim.network.topology import Ring
from fedsim.participation import Bernoulli, Cyclic, Full, Markov, Uniform
from fedsim.protocols import Gossip
from tests.helpers import Cohorts, blobs_simulation, quadratic_run

QUIET = {"noise": 0.0, "clip": 1e6}


@pytest.mark.parametrize(
    "participation", [Full(), Uniform(cohort=3)], ids=["everyone", "fixed_size"]
)
def test_without_noise_or_clipping_it_is_the_plain_mean(participation):
    found, plain = (
        blobs_simulation(5, participation=participation, aggregator=part).run()
        for part in (DpFedAvg(**QUIET), FedAvg(weighting="uniform"))
    )
    assert found.models.tobytes() == plain.models.tobytes()
    assert found.summary["privacy"] == "none: no noise" and "epsilon" not in set(
        found.metrics.metric
    )


def test_clipped_updates_over_the_expected_size_of_the_cohort():
    """Updates (3, 4) and (0.3, 0.4), clip 1: (0.6, 0.8) and itself; q N is 4 * 0.5 whoever takes
    part, all of equal weight."""
    centres = [[6, 8], [0.6, 0.8], [0, 0], [0, 0]]
    parts = {"copies": [5, 1, 1, 1], "aggregator": DpFedAvg(noise=0.0)}
    for cohort, by_hand in (
        ([0], [0.3, 0.4]),
        ([0, 1], [0.45, 0.6]),
        ([0, 1, 2, 3], [0.45, 0.6]),
        ([], [0, 0]),
    ):
        models = quadratic_run(
            centres, 1, participation=Cohorts(cohort, probabilities=0.5), **parts
        ).models
        np.testing.assert_allclose(models, [by_hand], rtol=1e-6)


def test_the_noise_has_its_spread_and_comes_in_empty_rounds_too():
    """Standard deviation sigma C / (q N) times the rate, a round; other in every round, coordinate
    and seed; within 5 standard errors."""
    rule, width, rounds = DpFedAvg(noise=3.0, clip=2.0, rate=0.5), 4000, 4
    deviation = 0.5 * 3 * 2 / (5 * 0.4)
    silent = Cohorts(*[[]] * rounds, probabilities=0.4)
    runs = [
        quadratic_run(
            np.zeros((5, width)), rounds, seed=seed, participation=silent, aggregator=rule
        ).models[0]
        for seed in range(3)
    ]
    error = 5 * deviation * math.sqrt(rounds) / math.sqrt(2 * width)
    for x in runs:
        assert abs(x.std() - deviation * math.sqrt(rounds)) < error and abs(
            x.mean()
        ) < error * math.sqrt(2)
    assert np.abs(np.corrcoef(runs) - np.eye(3)).max() < 5 / math.sqrt(width)
    once = [
        quadratic_run(np.zeros((5, width)), n, participation=silent, aggregator=rule).models[0]
        for n in (1, 2)
    ]
    assert abs(np.corrcoef(once[0], once[1] - once[0])[0, 1]) < 5 / math.sqrt(width)


def gaussian_epsilon(noise: float, rounds: int, delta: float) -> float:
    """Exact epsilon of the Gaussian mechanism, used `rounds` times (Balle & Wang, ICML 2018,
    theorem 8)."""
    mu = math.sqrt(rounds) / noise

    def excess(epsilon: float) -> float:
        return (
            normal.cdf(mu / 2 - epsilon / mu)
            - math.exp(epsilon) * normal.cdf(-mu / 2 - epsilon / mu)
            - delta
        )

    return brentq(excess, 0, 500)


@pytest.mark.parametrize(("noise", "rounds"), [(1.0, 1), (4.0, 50), (10.0, 1000)])
def test_epsilon_without_sampling_is_a_little_above_the_exact_one(noise, rounds):
    exact = gaussian_epsilon(noise, rounds, 1e-5)
    for sampling in ("everyone", "other"):
        found = Accounting.of(sampling, np.ones(9), noise).epsilon(rounds, 1e-5)
        assert exact < found < 1.12 * exact


def test_epsilon_of_poisson_sampling_beside_the_librarys_other_accountant():
    """Loss distributions are tighter than Renyi divergences, by a little where rounds are many."""
    dp_accounting = library()
    from dp_accounting.pld import PLDAccountant

    tighter = PLDAccountant()
    tighter.compose(
        dp_accounting.PoissonSampledDpEvent(0.1, dp_accounting.GaussianDpEvent(4.0)), 200
    )
    found = Accounting.of("independent", np.full(50, 0.1), 4.0).epsilon(200, 1e-5)
    assert tighter.get_epsilon(1e-5) < found < 1.15 * tighter.get_epsilon(1e-5)


def test_a_cohort_of_fixed_size_counts_half_the_noise_since_one_client_replaces_another():
    all_of_them = Accounting("fixed_size", clients=20, cohort=20, share=1.0, noise=8.0).epsilon(
        30, 1e-5
    )
    assert all_of_them == pytest.approx(
        Accounting.of("everyone", np.ones(20), 4.0).epsilon(30, 1e-5), rel=0.01
    )
    some = Accounting.of("fixed_size", np.full(20, 0.1), 8.0)
    assert (
        some.cohort == 2
        and Accounting.of("independent", np.full(20, 0.1), 8.0).epsilon(30, 1e-5)
        < some.epsilon(30, 1e-5)
        < all_of_them
    )


@pytest.mark.parametrize(
    ("participation", "cohort", "sampling", "words"),
    [
        (Full(), None, "everyone", "every client in every round"),
        (
            Uniform(cohort=2),
            None,
            "fixed_size",
            "2 of 8 clients without replacement; one client replaced",
        ),
        (
            Bernoulli(probability=0.25),
            None,
            "independent",
            "Poisson sampling with probability 0.25",
        ),
        (Bernoulli(given=[0.5] * 7 + [0.1]), 4.0, "other", "not amplified"),
        (Bernoulli(probability=0.25, correlation="labels"), 2.0, "other", "not amplified"),
        (Markov(probability=0.25), None, "other", "not amplified"),
        (Cyclic(probability=0.25), None, "other", "not amplified"),
    ],
)
def test_sampling_amplifies_only_where_it_is_independent_with_one_known_probability(
    participation, cohort, sampling, words
):
    bound = (
        blobs_simulation(participation=participation, aggregator=DpFedAvg(cohort=cohort))
        .prepare()
        .task.aggregator
    )
    assert bound.accounting.sampling == sampling and words in bound.notes["privacy"]
    assert bound.expected == (cohort or {"everyone": 8}.get(sampling, 2))


def test_epsilon_is_recorded_with_the_curve():
    rule = DpFedAvg(noise=2.0, delta=1e-4)
    result = blobs_simulation(4, aggregator=rule).run()
    rows = result.metrics[result.metrics.metric == "epsilon"]
    expected = [0.0, Accounting.of("everyone", np.ones(8), 2.0).epsilon(4, 1e-4)]
    assert rows["round"].tolist() == [0, 4] and rows.value.tolist() == pytest.approx(expected)
    assert (
        result.summary["epsilon"] == pytest.approx(expected[1]) and result.summary["delta"] == 1e-4
    )
    assert "every client in every round" in result.summary["privacy"]


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"protocol": Gossip(), "topology": Ring()}, "use protocol=server"),
        ({"client": FedSpeed(prox=1.0)}, r"client='FedSpeed'.*does not protect"),
        ({"correction": VarianceCorrection()}, "use correction=none"),
        (
            {"participation": Bernoulli(given=[0.5] * 7 + [0.1])},
            "aggregator.cohort=None: a public number",
        ),
    ],
)
def test_what_it_does_not_protect_is_refused(parts, message):
    with pytest.raises(ConfigError, match=message):
        blobs_simulation(aggregator=DpFedAvg(), **parts).prepare()


def test_accounting_leaves_a_redirected_stderr_open(tmp_path):
    """The library's logger would close it as soon as logging is configured again, as every run from
    the command line does."""
    code = (
        "import contextlib, io, logging.config, numpy\n"
        "from fedsim.algorithms.privacy import Accounting\n"
        "with contextlib.redirect_stderr(io.StringIO()) as caught:\n"
        "    Accounting.of('everyone', numpy.ones(2), 1.0).epsilon(3, 1e-5)\n"
        "logging.config.dictConfig({'version': 1})\n"
        "assert not caught.closed\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)
