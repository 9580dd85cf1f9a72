"""Every preset of a client rule, on unequal shards under partial participation, at its places; and
the optimisers beside them."""

import numpy as np
import pytest

import fedsim
from fedsim.errors import ConfigError

SMALL = [
    "partition.clients=12",
    "partition.alpha=0.3",
    "participation=bernoulli",
    "participation.probability=0.5",
    "evaluation.every=4",
]
RULES = [
    "fedprox",
    "scaffold",
    "fedgamma",
    "fedcm",
    "fedsam",
    "mofedsam",
    "fedsmoo",
    "fednova",
    "relaxed_start",
]
GRAPH = ["protocol=gossip", "topology=ring"]


def models(*overrides: str) -> np.ndarray:
    result = fedsim.simulate([*SMALL, "rounds=4", *overrides])
    assert result.status == "done" and np.isfinite(result.models).all()
    return result.models


@pytest.mark.parametrize("name", RULES)
def test_presets_at_a_server(name):
    plain = models("algorithm=average_participating")
    assert np.abs(models(f"algorithm={name}") - plain).max() > 1e-5


@pytest.mark.parametrize(
    "name", ["fedprox", "fedcm", "fedsam", "mofedsam", "fednova", "relaxed_start"]
)
def test_presets_over_a_graph(name):
    plain = models("algorithm=average_participating", *GRAPH)
    assert np.abs(models(f"algorithm={name}", *GRAPH) - plain).max() > 1e-5


@pytest.mark.parametrize("name", ["scaffold", "fedgamma", "fedsmoo"])
def test_presets_that_need_a_server_say_so(name):
    with pytest.raises(ConfigError, match="only a server|exists only at a server"):
        models(f"algorithm={name}", *GRAPH)


@pytest.mark.parametrize("name", ["adam", "adahessian"])
@pytest.mark.parametrize("place", [[], GRAPH], ids=["server", "graph"])
def test_optimizers_with_state_that_outlives_rounds(name, place):
    kept, afresh = (
        models(f"local={name}", f"local.keep_optimizer={keep}", *place)
        for keep in ("true", "false")
    )
    assert np.abs(kept - afresh).max() > 1e-5
    assert (
        np.abs(
            kept
            - models(f"local={name}", "local.keep_optimizer=true", "local.weight_decay=0.5", *place)
        ).max()
        > 1e-5
    )
