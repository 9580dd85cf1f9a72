"""Clients that fail: drop out, send NaN or an update that is too long; and messages kept as rows,
which dropping needs."""

import numpy as np
import pytest

from fedsim.algorithms import FedAU, FedAvg, FedSpeed, VarianceCorrection
from fedsim.attacks.base import NoAttack
from fedsim.component import Fraction, component
from fedsim.errors import ConfigError
from fedsim.network.topology import Ring
from fedsim.participation import Uniform
from fedsim.protocols import Gossip
from fedsim.recording.files import read_json
from fedsim.rounds.failures import Failures
from tests.helpers import Cohorts, Ticks, algorithms, blobs_simulation, quadratic_run

SERVER = [name for name, parts in algorithms().items() if "protocol" not in parts]


@component
class OnlyWatches(NoAttack):
    """Asks for rows and forges nothing, since nobody attacks."""

    forges = True
    share: Fraction = 0.0


@pytest.mark.parametrize("name", SERVER)
def test_sums_of_rows_are_the_sums_made_while_training(name):
    """The same bytes, whether a server keeps the messages or only adds them up."""
    parts = {**algorithms()[name], "participation": Uniform(cohort=5)}
    with (
        Ticks(blobs_simulation(4, **parts)) as sums,
        Ticks(blobs_simulation(4, attack=OnlyWatches(), **parts)) as rows,
    ):
        assert rows.task.rows and not sums.task.rows
        np.testing.assert_array_equal(sums.run(4), rows.run(4))


def test_a_dropout_is_an_absence_that_costs_a_download():
    """Dropping out in every round but the first equals cohorts without those clients; the model was
    sent to them in vain."""
    failures = Failures(dropout=0.5)
    cohort = list(range(8))
    present = [
        [c for c in cohort if not failures.dropouts(0, round, np.arange(8))[c]]
        for round in range(4)
    ]
    assert 0 < sum(map(len, present)) < 32
    struck = blobs_simulation(4, aggregator=FedAU(), failures=failures).run()
    absent = blobs_simulation(4, aggregator=FedAU(), participation=Cohorts(*present)).run()
    np.testing.assert_array_equal(struck.models, absent.models)
    assert struck.summary["bytes_up"] == absent.summary["bytes_up"] < struck.summary["bytes_down"]
    assert struck.summary["dropouts"] == 32 - sum(map(len, present))


@pytest.mark.parametrize(
    "parts",
    [
        {"aggregator": FedAU()},
        {"client": FedSpeed(prox=1.0)},
        {"protocol": Gossip(), "topology": Ring(), "correction": VarianceCorrection()},
        {"protocol": Gossip(order="combine_then_adapt"), "topology": Ring()},
    ],
    ids=["fedau", "fedspeed", "gossip", "dpsgd"],
)
def test_a_dropped_nan_counts_as_an_absence(parts):
    failures = Failures(broken=0.4, policy="drop")
    present = [
        np.flatnonzero(~failures.breaks(0, round, np.arange(8))).tolist() for round in range(4)
    ]
    struck = blobs_simulation(4, failures=failures, **parts).run()
    absent = blobs_simulation(4, participation=Cohorts(*present), **parts).run()
    np.testing.assert_array_equal(struck.models, absent.models)
    assert struck.summary["discarded"] == 32 - sum(map(len, present)) > 0


def test_updates_that_are_too_long_are_dropped():
    """Two clients pull from 0 to 1 and to 100 by half: the second one's update, 50, is longer than
    10."""
    failures = Failures(policy="drop", max_norm=10)
    result = quadratic_run(
        [[1.0], [100.0]], 1, failures=failures, aggregator=FedAvg(weighting="uniform")
    )
    np.testing.assert_allclose(result.models, [[0.5]])
    assert result.summary["discarded"] == 1


@pytest.mark.parametrize(
    "failures", [Failures(broken=0.5), Failures(max_norm=10), Failures(broken=0.5, policy="keep")]
)
def test_a_run_that_refuses_ends_as_diverged_and_keeps_its_finite_models(failures, tmp_path):
    result = quadratic_run([[1.0], [100.0], [3.0]], 6, failures=failures, folder=tmp_path)
    assert result.status == "diverged" and np.isfinite(result.models).all()
    reason = read_json(tmp_path / "status.json")["reason"]
    assert ("longer than failures.max_norm=10" in reason) == (failures.max_norm is not None)


def test_everybody_fails():
    result = quadratic_run(
        [[1.0], [100.0]], 3, start=7.0, failures=Failures(broken=1.0, policy="drop")
    )
    np.testing.assert_array_equal(result.models, [[7.0]])
    assert result.status == "done" and result.summary["discarded"] == 6


def test_refused_settings():
    for settings in ({"dropout": 1.5}, {"policy": "ignore"}, {"max_norm": -1.0}, {"broken": True}):
        with pytest.raises(ConfigError):
            Failures(**settings)
