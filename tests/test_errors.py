"""What an algorithm remembers is counted: FedAU three numbers a link, MIFA a vector for every
client that has taken part."""

from fedsim.algorithms import FedAU, FedAvg, FedSpeed, Mifa
from fedsim.training.settings import LocalTraining
from tests.helpers import Cohorts, blobs_simulation

COHORTS = Cohorts([0, 3], [3, 5], [])


def remembered(**parts):
    summary = blobs_simulation(3, participation=COHORTS, **parts).run().summary
    names = ("client_state_bytes", "link_state_bytes", "receiver_state_bytes")
    return summary["parameters"], [summary[name] for name in names]


def test_bytes_of_state():
    P, plain = remembered(aggregator=FedAvg(weighting="uniform"))
    assert plain == [0, 0, 0]
    assert remembered(aggregator=Mifa())[1] == [3 * P * 4, 0, P * 4]
    assert remembered(client=FedSpeed())[1] == [3 * P * 4, 0, P * 4]
    momentum = LocalTraining(steps=2, batch_size=4, momentum=0.5, keep_optimizer=True)
    assert remembered(aggregator=Mifa(), local=momentum)[1] == [3 * 2 * P * 4, 0, P * 4]
    clients = 8
    _, (kept, links, vectors) = remembered(aggregator=FedAU())
    # And a clock
    assert (kept, vectors) == (0, 0) and 3 * clients * 8 <= links <= 3 * clients * 8 + 16
