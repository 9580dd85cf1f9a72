"""FedProx: steps by hand, its stationary point, and what it refuses."""

import numpy as np
import pytest

from fedsim.algorithms import FedProx
from fedsim.errors import ConfigError
from fedsim.network.topology import Complete
from fedsim.protocols import Gossip
from tests.helpers import blobs_simulation, quadratic_run


def test_two_steps_by_hand():
    # from 0: d = -c, then at c / 2: d = -c / 2 + c / 2 * 0.4 = -0.3 c
    np.testing.assert_allclose(
        quadratic_run([[4, -8]], 1, steps=2, client=FedProx(strength=0.4)).models[0],
        [2.6, -5.2],
        rtol=1e-6,
    )


def test_many_steps_end_where_the_gradient_and_the_pull_are_equal():
    """a (x - c) + mu (x - x0) = 0 for each client; the server then has their mean."""
    centres, curvatures, mu, start = (
        np.array([[4.0, 0], [0, 8], [-4, 4]]),
        np.array([1.0, 2, 3]),
        0.7,
        np.array([1.0, -1]),
    )
    found = quadratic_run(
        centres,
        1,
        curvatures=curvatures.tolist(),
        start=start.tolist(),
        rate=0.2,
        steps=200,
        client=FedProx(strength=mu),
    ).models[0]
    points = (curvatures[:, None] * centres + mu * start) / (curvatures + mu)[:, None]
    np.testing.assert_allclose(found, points.mean(axis=0), rtol=1e-5, atol=1e-6)


def test_over_a_graph_the_pull_is_to_the_nodes_own_model():
    """Two nodes that mix halves: in the second round both are pulled to the (3, 0) that they hold,
    not to where they started."""
    graph = {"protocol": Gossip(), "topology": Complete(), "client": FedProx(strength=1.0)}
    models = quadratic_run([[12, 0], [0, 0]], 1, **graph, steps=2).models
    # node 0: 0 -> 6 -> 6 + (6 - 6) / 2 = 6; node 1 stays at 0; halves of both
    np.testing.assert_allclose(models, [[3, 0], [3, 0]], rtol=1e-6)
    models = quadratic_run([[12, 0], [0, 0]], 2, **graph, steps=2).models
    # from 3: node 0 to 7.5, then + (4.5 - 4.5) / 2; node 1 to 1.5, then + (-1.5 + 1.5) / 2
    np.testing.assert_allclose(models, [[4.5, 0], [4.5, 0]], rtol=1e-6)


def test_without_pull_it_is_fedavg():
    without, pulled = (
        blobs_simulation(client=FedProx(strength=mu)).run().models for mu in (0.0, 1.0)
    )
    np.testing.assert_allclose(without, blobs_simulation().run().models, atol=1e-6)
    assert np.abs(without - pulled).max() > 1e-3


def test_a_pull_that_diverges_by_itself_is_refused():
    with pytest.raises(
        ConfigError, match=r"^client\.strength=10\.0: less than 2 / local\.rate \(10\)"
    ):
        blobs_simulation(client=FedProx(strength=10.0)).run()
    assert blobs_simulation(client=FedProx(strength=9.9), rounds=1).run().status == "done"
