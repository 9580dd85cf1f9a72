"""Rounds on a walk: a plain loop, tokens that wait, planning again, bytes, and what is refused."""

import functools

import numpy as np
import pytest

from fedsim.algorithms import Dsgt, FedAvg, FedSpeed, Mifa, PushSum, VarianceCorrection
from fedsim.data.partition import Natural
from fedsim.errors import ConfigError
from fedsim.evaluation import DistanceToOptimum
from fedsim.models import LogisticRegression
from fedsim.network.directed_graphs import Exponential
from fedsim.network.mixing import Metropolis
from fedsim.network.topology import BarabasiAlbert, RandomRegular, Ring
from fedsim.participation import Full
from fedsim.protocols import Walk
from fedsim.protocols.chain import Chain
from fedsim.rounds.failures import Failures
from fedsim.schedules import Power
from fedsim.simulation.simulation import Simulation
from fedsim.training import LocalTraining
from tests.helpers import Cohorts, Point, Quadratics, Ticks, blobs_simulation, mlp, tick_of

NODES, WIDTH, TOKENS, GRAPH = 9, 2, 5, BarabasiAlbert(edges=2)
CENTRES = 3 * np.random.Generator(np.random.Philox(6)).standard_normal((NODES, WIDTH))
PLAIN = FedAvg(weighting="uniform")


def walk(clients=NODES, **parts):
    settings = {
        "protocol": Walk(tokens=TOKENS, alpha=3, exponent=0.7, same_start=False),
        "topology": GRAPH,
        "participation": Full(),
        "local": LocalTraining(steps=1, rate=0.4),
        "aggregator": PLAIN,
    }
    data = Quadratics(centres=CENTRES[:clients].tolist())
    return Simulation(
        data, Natural(), functools.partial(Point, start="normal"), **{**settings, **parts}
    )


@pytest.mark.parametrize("kernel", ["repellent", "history_driven"])
@pytest.mark.parametrize(
    "cohorts",
    [[range(NODES)] * 8, [[0, 1, 2, 3], range(NODES), [], [4, 5, 6], *[range(0, 9, 2)] * 4]],
    ids=["full", "partial"],
)
def test_a_plain_loop_gives_the_same(cohorts, kernel):
    """Heavy ball, whose velocity goes with the token; a token waits where its holder is away."""
    local = LocalTraining(steps=1, rate=0.4, momentum=0.5, keep_optimizer=True)
    protocol, schedule = (
        Walk(tokens=TOKENS, alpha=3, exponent=0.7, kernel=kernel, same_start=False),
        Power(exponent=0.6),
    )
    with Ticks(
        walk(protocol=protocol, schedule=schedule, local=local, participation=Cohorts(*cohorts))
    ) as ticks:
        chain = Chain(GRAPH.adjacency(NODES, 0), TOKENS, 0, kernel, 3, 0.7)
        x, v, moved, waited = ticks.models.astype(np.float64), np.zeros((TOKENS, WIDTH)), 0, 0
        for round, cohort in enumerate(cohorts):
            for token in range(TOKENS):
                holder = chain.position[token]
                if holder not in cohort:
                    waited += 1
                    continue
                v[token] = 0.5 * v[token] + x[token] - CENTRES[holder]
                x[token] -= 0.4 * (round + 1) ** -0.6 * v[token]
                chain.move(np.array([token]), chain.draw(np.array([token]), round))
                moved += chain.position[token] != holder
        np.testing.assert_allclose(ticks.run(len(cohorts)), x, atol=1e-5)
        np.testing.assert_array_equal(ticks.prepared.plan.state()["position"], chain.position)
        np.testing.assert_allclose(ticks.prepared.plan.state()["log_v"], chain.log_v)
    assert moved > 5 and (waited > 5) == (len(set(map(len, cohorts))) > 1)


def test_a_round_can_be_planned_again_and_with_fewer_holders():
    plan, other = walk().prepare().plan, walk().prepare().plan
    first = tick_of(plan, 0, range(NODES))
    again = tick_of(plan, 0, range(NODES))
    np.testing.assert_array_equal(first.cohort, again.cohort)
    left = np.unique(first.cohort)[:-1]
    fewer = tick_of(plan, 0, left)
    assert len(fewer.cohort) < TOKENS and set(fewer.cohort) == set(left)
    tick_of(other, 0, left)
    for round in (1, 2):
        np.testing.assert_array_equal(
            tick_of(plan, round, range(NODES)).cohort, tick_of(other, round, range(NODES)).cohort
        )
    assert {name: value.tobytes() for name, value in plan.state().items()} == {
        n: v.tobytes() for n, v in other.state().items()
    }


def test_a_plan_goes_on_from_its_state():
    plan, other = walk().prepare().plan, walk().prepare().plan
    for round in range(4):
        tick_of(plan, round, range(NODES))
    other.restore({name: value.copy() for name, value in plan.state().items()})
    for round in range(4, 8):
        np.testing.assert_array_equal(
            tick_of(plan, round, range(NODES)).cohort, tick_of(other, round, range(NODES)).cohort
        )


def test_tokens_are_independent_of_each_other():
    """A token among 7 does what it does alone, also where it meets others at a client with more
    examples than a batch holds."""
    parts = {"topology": Ring(), "aggregator": PLAIN}
    few, many = (
        blobs_simulation(12, protocol=Walk(tokens=tokens), **parts).run().models
        for tokens in (2, 7)
    )
    np.testing.assert_allclose(many[:2], few, atol=1e-6)
    together = blobs_simulation(1, protocol=Walk(tokens=2, start=7), **parts).run().models
    assert np.abs(together[0] - together[1]).max() > 1e-4  # batches of their own


def test_bytes_are_those_of_moves():
    P = 4 * 5 + 5 + 5 * 3 + 3
    for local, numbers in (
        (LocalTraining(steps=2), P),
        (LocalTraining(steps=2, momentum=0.5, keep_optimizer=True), 2 * P),
    ):
        simulation = blobs_simulation(
            9, protocol=Walk(tokens=4, alpha=1), topology=GRAPH, aggregator=PLAIN, local=local
        )
        chain, moves = Chain(GRAPH.adjacency(8, 0), 4, 0, "repellent", 1, 0.8), 0
        for round in range(9):
            before = chain.position.copy()
            chain.step(round)
            moves += (chain.position != before).sum()
        summary = simulation.run().summary
        assert (
            summary["bytes_up"] == summary["bytes_down"] == moves * numbers * 4 and 0 < moves < 36
        )
        assert summary["participations_mean"] == 4 * 9 / 8


def test_dropouts_make_tokens_wait():
    with Ticks(walk(failures=Failures(dropout=0.5))) as ticks:
        ticks.run(20)
        moves = ticks.prepared.plan.state()["moves"]
    assert 20 * TOKENS * 0.3 < moves.sum() < 20 * TOKENS * 0.7


def test_distance_to_the_optimum_is_that_of_the_full_objective():
    """Full batches and small steps at a server with equal weights end at the minimiser; of tokens
    it is the mean."""
    local = LocalTraining(steps=1, batch_size=16, rate=1.0, weight_decay=0.3)
    parts = {
        "model": LogisticRegression,
        "metrics": [DistanceToOptimum()],
        "aggregator": PLAIN,
        "local": local,
    }
    trained = blobs_simulation(100, **parts).run()
    assert trained.summary["distance_to_optimum"] < 1e-9
    walked = blobs_simulation(
        6, protocol=Walk(tokens=4, same_start=False), topology=Ring(), **parts
    ).run()
    by_hand = np.square(walked.models - trained.models).sum(axis=1).mean()
    assert (
        walked.summary["distance_to_optimum"] == pytest.approx(by_hand, rel=1e-3) and by_hand > 0.1
    )


def test_the_optimum_is_refused_where_there_is_none():
    parts = {"metrics": [DistanceToOptimum()], "aggregator": PLAIN}
    for model, local, key in (
        (LogisticRegression, LocalTraining(), "local.weight_decay"),
        (LogisticRegression, LocalTraining(weight_decay=0.1, optimizer="adamw"), "local.optimizer"),
        (mlp(5), LocalTraining(weight_decay=0.1), "metrics"),
    ):
        with pytest.raises(ConfigError) as caught:
            blobs_simulation(model=model, local=local, **parts).prepare()
        assert caught.value.key == key


@pytest.mark.parametrize(
    ("parts", "key"),
    [
        ({"topology": None}, "topology"),
        ({"topology": RandomRegular(degree=4, per_round=True)}, "topology"),
        ({"topology": Exponential(rotate=False)}, "topology"),
        ({"mixing": Metropolis()}, "mixing"),
        ({"client": FedSpeed(mean_dual="none")}, "client"),
        ({"client": Dsgt()}, "client"),
        ({"client": PushSum()}, "client"),
        ({"aggregator": Mifa()}, "aggregator"),
        ({"correction": VarianceCorrection()}, "correction"),
        ({"failures": Failures(policy="drop")}, "failures.policy"),
        ({"protocol": Walk(start=NODES)}, "protocol.start"),
        ({"protocol": Walk(tokens=1 << 28)}, "protocol.tokens"),
        ({"metrics": [DistanceToOptimum()]}, "metrics"),
    ],
)
def test_refused_where_it_makes_no_sense(parts, key):
    with pytest.raises(ConfigError) as caught:
        walk(**parts).prepare()
    assert caught.value.key == key


def test_every_node_needs_data():
    with pytest.raises(ConfigError, match="1 clients without data"):
        Walk().bind(NODES, Ring(), None, 0, members=NODES - 1)
