"""Schedules: closed forms, bounds, identities between them, the refined schedule against a plain
computation, and refusals."""

import math
import statistics

import numpy as np
import pandas as pd
import pytest

from fedsim import load_runs
from fedsim.algorithms import FedAvg
from fedsim.config.building import Settings, build
from fedsim.config.composition import compose
from fedsim.errors import ConfigError
from fedsim.network.topology import Ring
from fedsim.protocols import Gossip
from fedsim.recording.files import read_yaml
from fedsim.schedules import (
    REX,
    UBA,
    Constant,
    Cosine,
    Exponential,
    Linear,
    Power,
    Refined,
    Schedule,
    Step,
)
from fedsim.schedules.refined import norms_of, refine
from tests.helpers import Cohorts, blobs_simulation, quadratic_run

NORMS = [4.0, 2.0, 0.0, 1.0, 3.0, 2.0, 5.0]
SCHEDULES = [
    Constant(),
    Exponential(),
    Exponential(decay=1.0),
    Step(),
    Step(every=None, milestones=[2, 5], decay=0.5),
    Linear(),
    Linear(floor=0.3),
    Cosine(),
    Cosine(floor=1.0),
    REX(),
    UBA(),
    UBA(phi=0.0),
    UBA(phi=1e6),
    UBA(phi=0.5, floor=0.1),
    Power(),
]


def factors(schedule: Schedule, rounds: int) -> list[float]:
    return [schedule.factor(round, rounds) for round in range(rounds)]


# ------------------------------------------------------------------------------------------------
# closed forms


def test_closed_forms():
    assert factors(Constant(), 3) == [1.0, 1.0, 1.0]
    assert Exponential(decay=0.5).factor(3, 10) == 0.125
    assert Exponential().factor(1000, 1001) == pytest.approx(0.998**1000)
    assert factors(Linear(), 4) == [1.0, 0.75, 0.5, 0.25]
    assert factors(Linear(floor=0.2), 4) == pytest.approx([1.0, 0.8, 0.6, 0.4])
    assert factors(Step(every=2, decay=0.5), 5) == [1.0, 1.0, 0.5, 0.5, 0.25]
    assert factors(Step(every=None, milestones=[1, 4], decay=0.1), 6) == pytest.approx(
        [1, 0.1, 0.1, 0.1, 0.01, 0.01]
    )
    assert factors(Cosine(), 4) == pytest.approx(
        [1.0, (1 + math.sqrt(0.5)) / 2, 0.5, (1 - math.sqrt(0.5)) / 2]
    )
    assert factors(REX(), 4) == pytest.approx([1.0, 6 / 7, 2 / 3, 2 / 5])
    assert UBA(phi=1.0).factor(1, 2) == pytest.approx(2 / 3)  # u = 1


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("rounds", [1, 7, 3000])
def test_factors_start_at_one_never_rise_and_never_reach_zero(schedule, rounds):
    found = factors(schedule, rounds)
    assert found[0] == 1.0
    assert all(0 < after <= before <= 1 for before, after in zip(found, found[1:], strict=False))


@pytest.mark.parametrize("rounds", [1, 10, 333])
def test_uba_is_cosine_at_two_and_constant_towards_zero(rounds):
    assert factors(UBA(phi=2.0), rounds) == pytest.approx(factors(Cosine(), rounds), abs=1e-15)
    assert factors(UBA(phi=1e-12), rounds) == pytest.approx([1.0] * rounds, abs=1e-6)
    assert factors(UBA(phi=2.0, floor=0.1), rounds) == pytest.approx(
        factors(Cosine(floor=0.1), rounds), abs=1e-15
    )


def test_floors_are_reached_just_after_the_last_round():
    for kind in (Linear, Cosine, REX, UBA):
        end = kind(floor=0.25).factor(99_999, 100_000)
        assert 0.25 < end < 0.2501
        assert kind(floor=0.25).shape(100_000, 100_000) == pytest.approx(0.25)


def test_rex_is_above_linear_decay():
    assert all(
        rex > linear
        for rex, linear in zip(factors(REX(), 50)[1:], factors(Linear(), 50)[1:], strict=True)
    )


@pytest.mark.parametrize("kind", [Constant, Exponential, Step, Linear, Cosine, REX, UBA])
def test_after_the_warm_up_comes_the_schedule_of_the_remaining_rounds(kind):
    warm = factors(kind(warmup=4), 100)
    assert warm[:4] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert warm[4:] == factors(kind(), 96)


def test_a_warm_up_longer_than_the_run_is_all_there_is():
    assert factors(Linear(warmup=10), 3) == pytest.approx([1 / 11, 2 / 11, 3 / 11])


def test_milestones_are_rounds_of_the_run_also_after_a_warm_up():
    assert factors(Step(every=None, milestones=[4], warmup=2, decay=0.5), 6)[2:] == [
        1.0,
        1.0,
        0.5,
        0.5,
    ]


# ------------------------------------------------------------------------------------------------
# the refined schedule


@pytest.mark.parametrize("rounds", [1, 2, 9, 100])
@pytest.mark.parametrize("power", [1.0, 2.0])
def test_refined_from_constant_norms_is_linear_decay(rounds, power):
    assert factors(Refined(norms=[3.7] * rounds, power=power), rounds) == pytest.approx(
        factors(Linear(), rounds)
    )


def plainly_refined(norms: list[float], power: float, width: int) -> list[float]:
    """The definition, entry by entry."""
    last, half = len(norms) - 1, width // 2

    def reflected(t: int) -> int:
        return -t - 1 if t < 0 else 2 * last + 1 - t if t > last else t

    smooth = [
        statistics.median(norms[reflected(t + shift)] for shift in range(-half, half + 1))
        for t in range(last + 1)
    ]
    weights = [norm**-power for norm in [*smooth, smooth[-1]]]
    rates = [weights[t] * sum(weights[t + 1 :]) for t in range(last + 1)]
    return [rate / max(rates) for rate in rates]


@pytest.mark.parametrize(
    ("power", "smoothing", "width"), [(2.0, 0.1, 5), (1.0, 0.1, 5), (2.0, 0.0, 1), (2.0, 0.3, 13)]
)
def test_refined_is_its_definition(power, smoothing, width):
    norms = np.exp(np.random.default_rng(3).normal(size=40)).tolist()
    refined = factors(Refined(norms=norms, power=power, smoothing=smoothing), 40)
    assert refined == pytest.approx(plainly_refined(norms, power, width), rel=1e-12)
    assert max(refined) == 1.0 and min(refined) > 0


def test_refined_gives_larger_rates_to_smaller_norms():
    """Against linear decay: norms that fall move the rate to later rounds, norms that rise to
    earlier ones."""
    falling, rising = (
        np.array(factors(Refined(norms=np.linspace(*ends, 50).tolist()), 50))
        for ends in ((3, 1), (1, 3))
    )
    linear = np.array(factors(Linear(), 50))
    middle = [(np.arange(50) * rates).sum() / rates.sum() for rates in (rising, linear, falling)]
    assert middle[0] < middle[1] - 3 and middle[1] + 3 < middle[2]
    assert np.argmax(falling) > 10 and np.argmax(rising) < 5


def test_the_scale_of_the_norms_is_nothing_to_it_nor_can_it_overflow():
    norms = np.geomspace(1, 1e3, 20)
    for scale in (1e-280, 1e280):
        assert refine(norms * scale) == pytest.approx(refine(norms), rel=1e-9)
    assert np.isfinite(refine(np.geomspace(1e-300, 1e300, 20), power=8.0)).all()


def test_rounds_without_anybody_have_the_norm_between_their_neighbours():
    assert factors(
        Refined(norms=[0.0, 2.0, 0.0, 0.0, 8.0, 0.0], smoothing=0.0), 6
    ) == pytest.approx(factors(Refined(norms=[2.0, 2.0, 4.0, 6.0, 8.0, 8.0], smoothing=0.0), 6))


def test_norms_of_a_run_of_another_length_are_stretched():
    short = Refined(norms=[1.0, 3.0], smoothing=0.0)
    assert factors(short, 4) == pytest.approx(
        factors(Refined(norms=[1.0, 1.5, 2.5, 3.0], smoothing=0.0), 4)
    )
    assert factors(short, 1) == [1.0]


def test_a_refined_schedule_with_a_warm_up_is_made_of_the_norms_after_it():
    refined = factors(Refined(norms=[9.0, 9.0, 1.0, 2.0, 3.0], warmup=2, smoothing=0.0), 5)
    assert refined[:2] == pytest.approx([1 / 3, 2 / 3])
    assert refined[2:] == pytest.approx(factors(Refined(norms=[1.0, 2.0, 3.0], smoothing=0.0), 3))


def test_refined_without_norms_runs_the_base_first():
    """One client at 1, a start of 0 and one local step: the norm over the rate is the distance,
    which the base run's rates shrink."""
    rates = [0.5 * factor for factor in factors(Linear(), 6)]
    distances = np.cumprod([1.0, *(1 - rate for rate in rates[:-1])])
    expected = [0.5 * factor for factor in plainly_refined(distances.tolist(), 2.0, 1)]
    result = quadratic_run([[1.0]], 6, schedule=Refined())
    run = result.metrics[result.metrics.scope == "run"]
    assert run[run.metric == "rate"].value.tolist() == pytest.approx(expected, rel=1e-5)
    assert 1 - result.models[0, 0] == pytest.approx(
        np.prod([1 - rate for rate in expected]), rel=1e-4
    )


@pytest.mark.parametrize("base", ["constant", "linear", "cosine", "rex"])
def test_the_base_and_empty_rounds(base):
    cohorts = Cohorts([0, 1], [], [2], [], [0, 2], [])
    result = blobs_simulation(
        6, participation=cohorts, schedule=Refined(base=base, smoothing=0.0)
    ).run()
    rates = result.metrics[result.metrics.metric == "rate"].value
    assert (
        result.status == "done"
        and len(rates) == 6
        and 0 < rates.min()
        and rates.max() == pytest.approx(0.2)
    )


def test_over_a_graph_too():
    graph = {"protocol": Gossip(), "topology": Ring(), "aggregator": FedAvg(weighting="uniform")}
    refined, linear = (
        blobs_simulation(5, schedule=schedule, **graph).run() for schedule in (Refined(), Linear())
    )
    assert refined.status == "done" and not np.array_equal(refined.models, linear.models)


def test_the_base_run_is_part_of_the_run_and_can_be_used_again(tmp_path):
    first = blobs_simulation(5, schedule=Refined(), folder=tmp_path / "first").run()
    base = blobs_simulation(5, schedule=Linear()).run()
    again = blobs_simulation(
        5, schedule=Refined(norms=str(tmp_path / "first" / "base")), folder=tmp_path / "again"
    ).run()
    assert first.models.tobytes() == again.models.tobytes() != base.models.tobytes()
    assert read_yaml(tmp_path / "first" / "base" / "config.yaml")["schedule"]["_target_"].endswith(
        "Linear"
    )
    assert (
        norms_of(load_runs(tmp_path / "first" / "base")).tolist() == norms_of(base.metrics).tolist()
    )
    assert not (tmp_path / "again" / "base").exists()
    assert sorted(load_runs(tmp_path)["run"].unique()) == ["again", "first"]


def test_a_resumed_run_keeps_its_base_run(tmp_path):
    simulation = blobs_simulation(5, schedule=Refined(), folder=tmp_path / "run")
    first = simulation.run()
    base = tmp_path / "run" / "base" / "status.json"
    ended = base.stat().st_mtime_ns
    # As if it had been killed before its own first checkpoint
    for path in base.parent.parent.iterdir():
        if path.is_file() and path.name != "config.yaml":
            path.unlink()
    again = simulation.run(resume=True)
    assert (
        again.models.tobytes() == first.models.tobytes()
        and again.summary["metrics_sha256"] == first.summary["metrics_sha256"]
    )
    assert base.stat().st_mtime_ns == ended


def test_settings_of_a_command_line_are_recorded_with_the_base(tmp_path):
    typed = [
        "data=synthetic",
        "data.samples=60",
        "data.test=20",
        "partition.clients=4",
        "participation=full",
        "rounds=3",
    ]
    settings = compose([*typed, "schedule=refined", "schedule.warmup=1"])
    build(settings, tmp_path / "run", progress=False).run()
    recorded = read_yaml(tmp_path / "run" / "base" / "config.yaml")
    assert recorded["choices"]["schedule"] == "linear" and recorded["schedule"]["warmup"] == 1
    assert recorded["rounds"] == 3 and recorded["data"] == settings.config["data"]
    base = build(
        Settings({key: value for key, value in recorded.items() if key != "choices"}),
        progress=False,
    )
    assert base.schedule == Linear(warmup=1)


def test_if_the_base_diverges_so_does_the_run():
    results = [
        quadratic_run([[1.0]], 20, rate=1e30, schedule=schedule)
        for schedule in (Refined(base="constant"), Constant())
    ]
    assert [result.status for result in results] == ["diverged", "diverged"]
    assert results[0].models.tobytes() == results[1].models.tobytes()


# ------------------------------------------------------------------------------------------------
# refusals


@pytest.mark.parametrize("decay", [0, -0.1, 1.01, float("nan"), "fast"])
def test_decay_outside_the_unit_interval_is_refused(decay):
    with pytest.raises(ConfigError, match=r"^Exponential\.decay="):
        Exponential(decay=decay)


@pytest.mark.parametrize(
    ("typed", "key", "accepted"),
    [
        (["schedule=cosine", "schedule.floor=1.5"], "schedule.floor", "less than or equal to 1"),
        (["schedule=uba", "schedule.phi=-1"], "schedule.phi", "greater than or equal to 0"),
        (
            ["schedule=linear", "schedule.warmup=-1"],
            "schedule.warmup",
            "greater than or equal to 0",
        ),
        (["schedule=linear", "schedule.warmup=0.5"], "schedule.warmup", "integer"),
        (
            ["schedule=step", "schedule.milestones=[5]"],
            "schedule.milestones",
            "give either every or milestones",
        ),
        (
            ["schedule=step", "schedule.every=null"],
            "schedule.milestones",
            "give either every or milestones",
        ),
        (
            ["schedule=step", "schedule.every=null", "schedule.milestones=[5,5]"],
            "schedule.milestones",
            "rising",
        ),
        (
            [
                "schedule=step",
                "schedule.every=null",
                "schedule.milestones=[2]",
                "schedule.warmup=3",
            ],
            "schedule.milestones",
            "above the warm-up",
        ),
        (["schedule=rex", "schedule.phi=1"], "schedule.phi", "unknown setting of REX"),
        (
            ["schedule=refined", "schedule.base=quadratic"],
            "schedule.base",
            "'constant', 'linear', 'cosine' or 'rex'",
        ),
        (["schedule=refined", "schedule.norms=nowhere"], "schedule.norms", "the folder of a run"),
        (["schedule=refined", "schedule.norms=[0,0]"], "schedule.norms", "one at least is above 0"),
        (["schedule=refined", "schedule.norms=[]"], "schedule.norms", "one at least is above 0"),
        (
            ["schedule=refined", "schedule.norms=[1,-1]"],
            "schedule.norms",
            "greater than or equal to 0",
        ),
        (["schedule=refined", "schedule.power=0"], "schedule.power", "greater than 0"),
    ],
)
def test_settings_that_cannot_be_used_are_refused_in_one_line(typed, key, accepted):
    with pytest.raises(ConfigError) as error:
        build(compose(typed))
    assert error.value.key == key and accepted in str(error.value) and "\n" not in str(error.value)


def test_a_run_that_has_not_recorded_every_round_is_refused():
    rows = [(round, metric, 1.0) for round in (1, 3) for metric in ("update_norm", "rate")]
    table = pd.DataFrame(rows, columns=["round", "metric", "value"]).assign(scope="run")
    for part in (table, table[table["metric"] == "rate"], table[:0]):
        with pytest.raises(ConfigError, match=r"^schedule.norms=.* in every round"):
            norms_of(part)


def test_norms_are_updates_over_rates_and_zero_where_there_was_neither():
    rows = [
        (1, "update_norm", 3.0),
        (1, "rate", 0.5),
        (2, "update_norm", 0.0),
        (2, "rate", 0.5),
        (3, "update_norm", 1.0),
        (3, "rate", 0.0),
    ]
    table = pd.DataFrame(rows, columns=["round", "metric", "value"]).assign(scope="run")
    assert norms_of(table).tolist() == [6.0, 0.0, 0.0]


def test_a_schedule_of_one_s_own_needs_factor_alone():
    class Alternating(Schedule):
        def factor(self, round, rounds):
            return float(round % 2)

    result = quadratic_run([[1.0]], 4, rate=0.5, schedule=Alternating())
    assert 1 - result.models[0, 0] == pytest.approx(0.25)


def test_unknown_setting_names_what_is_accepted():
    with pytest.raises(ConfigError, match="unknown setting; accepted are warmup, decay"):
        Exponential(rate=0.9)
