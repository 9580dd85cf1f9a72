"""FedAU: weights by hand, the list of intervals they stand for, what is known of them in closed
form, and counters over a graph."""

import numpy as np
import pytest

from fedsim.algorithms import FedAU, FedAvg, Reports
from fedsim.network.mixing import Metropolis
from fedsim.network.topology import BarabasiAlbert, Ring, Star
from fedsim.participation import Full
from fedsim.protocols import Gossip, Server
from tests.helpers import Cohorts, blobs_simulation, quadratic_run, tick_of

# FedAU looks at no report
NOTHING = Reports(np.zeros(0), np.zeros(0), 0.1, np.zeros(0), np.zeros(0))
CUTOFFS = [None, 1, 2, 3, 7, 50]


def interval_weights(trace, cutoff):
    """The weight before each round of a trace, bool [T]: the mean of the intervals closed so far,
    kept as a list (Wang & Ji's code)."""
    intervals, absences, weights = [], 0, []
    for takes_part in trace:
        weights.append(np.mean(intervals) if intervals else 1.0)
        if takes_part:
            intervals.append(absences + 1)
            absences = 0
        else:
            absences += 1
            if cutoff is not None and absences >= cutoff:
                intervals.append(cutoff)
                absences = 0
    return weights


def sent_weights(traces, cutoff):
    """N times the coefficient of every client in every round it takes part in, nan elsewhere: [T,
    N]. traces: bool [T, N]."""
    clients = traces.shape[1]
    plan, rule = Server().bind(clients, None, None, 0), FedAU(cutoff=cutoff)
    state, weights = rule.init_links(plan.links), np.full(traces.shape, np.nan)
    for round, present in enumerate(traces):
        tick = tick_of(plan, round, np.flatnonzero(present))
        values, state = rule.coefficients(tick.links, tick.heard, NOTHING, state)
        weights[round, tick.cohort] = values * clients
    return weights


@pytest.mark.parametrize(
    ("cutoff", "by_hand"),
    [
        (None, {1: 1, 4: 2, 5: (2 + 3) / 2, 9: (2 + 3 + 1) / 3}),
        (2, {1: 1, 4: (2 + 2) / 2, 5: (2 + 2 + 1) / 3, 9: (2 + 2 + 1 + 1 + 2) / 5}),
        (3, {1: 1, 4: 2, 5: (2 + 3) / 2, 9: (2 + 3 + 1 + 3) / 4}),
    ],
)
def test_weights_and_models_by_hand(cutoff, by_hand):
    """Client 0 takes part in rounds 1, 4, 5 and 9, at intervals 2, 3, 1 and 4, which a cutoff cuts;
    client 1 always does, with weight 1."""
    traces = np.ones((10, 2), bool)
    traces[:, 0] = np.isin(np.arange(10), list(by_hand))
    weights = sent_weights(traces, cutoff)
    np.testing.assert_allclose(weights[list(by_hand), 0], list(by_hand.values()), rtol=1e-12)
    np.testing.assert_array_equal(weights[:, 1], 1)

    cohorts = [np.flatnonzero(present).tolist() for present in traces]
    models = quadratic_run(
        [[1, 0], [0, 1]],
        10,
        rate=0.25,
        participation=Cohorts(*cohorts),
        aggregator=FedAU(cutoff=cutoff, rate=0.8),
    ).models
    x = np.zeros(2)
    for round in range(10):  # update (c - x) / 4, global rate 0.8, divided by N = 2
        first = by_hand.get(round, 0) * ([1, 0] - x)
        x = x + 0.8 * (first + ([0, 1] - x)) / 4 / 2
    np.testing.assert_allclose(models[0], x, rtol=1e-5)


@pytest.mark.parametrize("cutoff", CUTOFFS)
def test_the_lazy_form_is_the_list_of_intervals(cutoff):
    random = np.random.Generator(np.random.Philox(1))
    probabilities = random.choice([0.02, 0.1, 0.3, 0.7, 1.0], size=60)
    traces = random.random((150, 60)) < probabilities
    # Long first absences; in round 40 the cutoff may just have closed an interval, or be about to
    traces[:40, :20] = False
    traces[np.arange(40, 60), np.arange(20)] = True
    weights = sent_weights(traces, cutoff)
    expected = np.array([interval_weights(trace, cutoff) for trace in traces.T]).T
    np.testing.assert_allclose(weights[traces], expected[traces], rtol=1e-12)
    assert traces.sum() > 1000


def test_a_first_participation_has_weight_one_however_late_unless_the_cutoff_closed_an_interval():
    traces = np.zeros((500, 1), bool)
    traces[[498, 499]] = True
    np.testing.assert_allclose(sent_weights(traces, None)[498:, 0], [1, 499])
    np.testing.assert_allclose(sent_weights(traces, 50)[498:, 0], [50, (9 * 50 + 49) / 10])


@pytest.mark.parametrize(("period", "cutoff"), [(3, None), (3, 3), (5, 50), (1, 1)])
def test_periodic_participation_is_weighed_by_its_period(period, cutoff):
    rounds = np.arange(10 * period)
    weights = sent_weights((rounds % period == period - 1)[:, None], cutoff)[
        period - 1 :: period, 0
    ]
    np.testing.assert_allclose(weights, [1] + 9 * [period])


@pytest.mark.parametrize(
    ("probability", "cutoff", "rounds"),
    [(0.1, 5, 1500), (0.02, 50, 3000), (0.3, None, 1500), (0.5, 2, 1000)],
)
def test_the_mean_weight_tends_to_the_mean_cut_interval(probability, cutoff, rounds):
    """E[w] -> (1 - (1 - p)^K) / p, which is 1/p without a cutoff; the spread over clients gives the
    sampling error."""
    clients = 400
    traces = np.random.Generator(np.random.Philox(2)).random((rounds, clients)) < probability
    traces[-1] = True  # everybody shows its weight
    weights = sent_weights(traces, cutoff)[-1]
    expected = (1 - (1 - probability) ** (cutoff or np.inf)) / probability
    error = weights.std() / np.sqrt(clients)
    # Plus the bias of order 1/T of a mean of closed intervals
    assert abs(weights.mean() - expected) < 4 * error + expected**2 / rounds
    assert error < 0.01 * expected


def test_full_participation_is_uniform_fedavg():
    models = [
        blobs_simulation(5, participation=Full(), aggregator=rule).run().models
        for rule in (FedAU(), FedAvg(weighting="uniform"))
    ]
    np.testing.assert_array_equal(*models)


def test_cutoff_one_is_average_all():
    cohorts = Cohorts([1, 2], [], [0, 5, 7], [2], [3, 4, 6], [2, 5])
    models = [
        blobs_simulation(6, participation=cohorts, aggregator=rule).run().models
        for rule in (FedAU(cutoff=1), FedAvg(weighting="all"))
    ]
    np.testing.assert_array_equal(*models)


@pytest.mark.parametrize("cutoff", CUTOFFS)
def test_over_a_graph_each_link_counts_the_active_rounds_of_its_receiver(cutoff):
    nodes, random = 9, np.random.Generator(np.random.Philox(3))
    plan, rule = (
        Gossip().bind(nodes, BarabasiAlbert(edges=2), Metropolis(), 4),
        FedAU(cutoff=cutoff),
    )
    links, state = plan.links, rule.init_links(plan.links)
    active = random.random((120, nodes)) < random.choice([0.1, 0.5, 0.9], size=nodes)
    found = {}
    for round, present in enumerate(active):
        tick = tick_of(plan, round, np.flatnonzero(present))
        values, state = rule.coefficients(tick.links, tick.heard, NOTHING, state)
        found |= {(round, link): value for link, value in zip(tick.heard.link, values, strict=True)}
    expected = {}
    for link, (receiver, sender) in enumerate(zip(links.receiver, links.sender, strict=True)):
        ticks = np.flatnonzero(active[:, receiver])  # the receiver's own clock
        weights = interval_weights(active[ticks, sender], cutoff)
        nominal = links.weight[link]
        expected |= {
            (tick, link): nominal * weight
            for tick, weight in zip(ticks, weights, strict=True)
            if active[tick, sender]
        }
        if receiver == sender:
            assert all(weight == 1 for weight in weights)
    assert found.keys() == expected.keys()
    np.testing.assert_allclose(
        [found[key] for key in expected], list(expected.values()), rtol=1e-12
    )


def test_rounds_over_a_graph_by_hand():
    """A star of three, centre 0, with Metropolis weights 1/3 on edges. Node 1 is heard by 0 in
    rounds 1 and 3 only: it is sent with the weights 1 and 2, as node 0 is active in all rounds;
    node 2 never."""
    centres, cohorts = np.array([[6.0, 0], [0, 6], [9, 9]]), Cohorts([0], [0, 1], [0], [0, 1])
    models = quadratic_run(
        centres, 4, participation=cohorts, protocol=Gossip(), topology=Star(), aggregator=FedAU()
    ).models
    x = np.zeros((3, 2))
    for weight in (0, 1, 0, 2):
        update = (centres - x) / 2
        # alone: all of its own model, a third of its own update (its nominal weight)
        if weight == 0:
            x[0] = x[0] + update[0] / 3
            continue
        x[0], x[1] = (
            (2 * x[0] + x[1]) / 3 + update[0] / 3 + weight * update[1] / 3,
            # Node 0 is there whenever node 1 is: weight 1
            (x[0] + 2 * x[1]) / 3 + update[0] / 3 + 2 * update[1] / 3,
        )
    np.testing.assert_allclose(models, x, rtol=1e-6)


def test_a_nodes_clock_stands_still_while_it_is_away():
    """On a ring of three, node 0 is active in rounds 0, 5 and 6 and hears node 1 in all three: by
    its clock the intervals are 1."""
    plan, rule = Gossip().bind(3, Ring(), Metropolis(), 0), FedAU()
    state, weights = rule.init_links(plan.links), []
    for round, cohort in enumerate([[0, 1], [1], [1, 2], [1], [], [0, 1], [0, 1, 2]]):
        tick = tick_of(plan, round, cohort)
        values, state = rule.coefficients(tick.links, tick.heard, NOTHING, state)
        here = (tick.heard.receiver == 0) & (tick.heard.sender == 1)
        weights += (values[here] * 3).tolist()
    np.testing.assert_allclose(weights, [1, 1, 1])
