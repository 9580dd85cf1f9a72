"""The presets over a graph and on a walk, as they are typed: partial participation, unequal shards,
and variance correction on top."""

import numpy as np
import pytest
import torch

from fedsim.config.building import build
from fedsim.config.composition import compose
from fedsim.errors import ConfigError
from tests.helpers import Ticks

GRAPH = [
    "dpsgd",
    "gossip",
    "vc_gossip",
    "dfedavgm",
    "dsgt",
    "push_sum",
    "el_local",
    "el_oracle",
    "partitioned_gossip",
]
WALK = ["srrw", "srrw_history"]
SMALL = [
    "data.limit=300",
    "partition.clients=10",
    "model.hidden=[8]",
    "participation=bernoulli",
    "participation.probability=0.7",
]


def ticks(preset, *overrides):
    return Ticks(build(compose([f"algorithm={preset}", *SMALL, *overrides])))


@pytest.mark.parametrize("preset", [*GRAPH, *WALK])
def test_every_preset_learns_under_partial_participation(preset):
    overrides = ("protocol.tokens=3",) if preset in WALK else ()
    with ticks(preset, *overrides) as run:
        sizes, before = run.task.shards.sizes, run.models
        models = run.run(3)
        assert (
            len(set(sizes)) > 3
            and np.isfinite(models).all()
            and np.abs(models - before).max() > 1e-3
        )


@pytest.mark.parametrize(
    "preset", [name for name in GRAPH if name not in ("push_sum", "dpsgd", "vc_gossip")]
)
def test_the_correction_gives_every_layer_the_variance_of_the_models_heard(preset):
    """After any adapt-then-combine preset: a node that heard others has the mean of their variances
    in each weight tensor."""
    with ticks(preset, "correction=variance", "protocol.same_start=false") as run:
        cohort = run.prepared.pattern.cohort(0)
        tick = run.prepared.plan.tick(0, cohort)
        run.rounds.run(tick, 0.1)
        models = run.models[tick.receivers]
        wanted = tick.others @ run.array("message/statistics")[: len(cohort)]
        found = run.task.correction.statistics(torch.from_numpy(models), run.task.layout).numpy()
        heard = np.diff(tick.others.indptr) > 0
        assert heard.sum() >= 2
        np.testing.assert_allclose(found[heard], wanted[heard], rtol=1e-4)


@pytest.mark.parametrize("preset", ["push_sum", *WALK])
def test_where_the_correction_makes_no_sense_it_is_refused(preset):
    with pytest.raises(ConfigError) as caught:
        ticks(preset, "correction=variance").simulation.prepare()
    assert caught.value.key == "correction"


def test_epidemic_learning_averages_equally_what_arrived():
    """EL-Local: 4 random others each, in-degrees by chance, absent nodes neither heard nor counted;
    EL-Oracle: regular."""
    for preset in ("el_local", "el_oracle"):
        with ticks(preset, "partition.clients=12") as run:
            received = []
            for round in range(3):
                cohort = run.prepared.pattern.cohort(round)
                tick = run.prepared.plan.tick(round, cohort)
                W = tick.base.toarray()
                assert set(np.flatnonzero(W.any(axis=0))) <= set(cohort)
                count = (W > 0).sum(axis=1, keepdims=True)
                np.testing.assert_allclose(W, (W > 0) / count, rtol=1e-6)
                assert (W[np.arange(len(cohort)), cohort] > 0).all()
                received += count.ravel().tolist()
            full = run.prepared.plan.tick(3, np.arange(12)).base.toarray() > 0
            assert (full.sum(axis=0) == 5).all() and (full.sum(axis=1) == 5).all() == (
                preset == "el_oracle"
            )
            assert len(set(received)) > 1


def test_heavy_ball_buffers_of_dfedavgm_start_afresh():
    with ticks("dfedavgm") as run:
        assert run.task.local.momentum == 0.9 and not run.task.local.keeps_state
        assert not [name for name in run.session.arena.specs if name.startswith("client/")]


@pytest.mark.parametrize("preset", [*GRAPH, *WALK])
def test_a_run_goes_on_from_its_state(preset):
    """Models, trackers, weights, ages, visits and positions: two rounds, then three more in another
    session."""
    with ticks(preset) as whole, ticks(preset) as resumed:
        whole.run(2)
        resumed.rounds.restore({name: value.copy() for name, value in whole.rounds.state().items()})
        resumed.round = 2
        assert resumed.run(3).tobytes() == whole.run(3).tobytes()
