"""How much of one client a run gives away, accounted by Google's dp-accounting (Renyi differential
privacy).

A round releases a sum of clipped updates with Gaussian noise of standard deviation sigma C. What is
accounted depends on how the cohort is drawn:

* everyone (participation=full): the Gaussian mechanism with noise multiplier sigma, one client
  added or removed;
* each client by itself with one and the same known probability q (participation=bernoulli): the
  same, amplified by Poisson sampling;
* cohorts of a fixed size m (participation=uniform): amplified by sampling without replacement. Here
  N and m are public and one client is replaced by another, which changes the sum by up to 2 C: the
  noise multiplier counts as sigma / 2;
* anything else (unequal probabilities, Markov, cyclic, traces): no amplification. A round counts as
  if every client took part, one client added or removed, which is right where the participation of
  one client does not depend on the data of another.

Empty rounds have their noise and count like all others. What is accounted is the release of the
models; other measures that a run records (training losses, norms of updates) are looks of the
experimenter and not private.
"""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from dataclasses import dataclass

import numpy as np

from fedsim.errors import require

# Of sampled mechanisms: between them the library is slow and may not converge
WHOLE_ORDERS = [*range(2, 64), 128, 256, 512, 1024]


@dataclass(frozen=True)
class Accounting:
    """How a run is accounted. sampling: as `Pattern.sampling`, but "other" where it does not
    amplify; clients: N; cohort: m of sampling without replacement; share: q of independent
    sampling; noise: multiplier sigma, above 0."""

    sampling: str
    clients: int
    cohort: int
    share: float
    noise: float

    @classmethod
    def of(cls, sampling: str, probability: np.ndarray, noise: float) -> Accounting:
        """probability: of those who can take part, float64 [N]."""
        require(
            importlib.util.find_spec("dp_accounting") is not None,
            "aggregator",
            "dp_fedavg",
            "needs the library dp-accounting; install the extra: pip install 'fedsim[privacy]'",
        )
        q = float(probability.max(initial=0))
        equal = bool(np.all(probability == q))
        return cls(
            sampling if equal else "other", len(probability), round(q * len(probability)), q, noise
        )

    @property
    def text(self) -> str:
        """What is accounted, in words."""
        return {
            "everyone": "every client in every round; one client added or removed",
            "independent": (
                f"amplified by Poisson sampling with probability {self.share:g}; one client added"
                " or removed"
            ),
            "fixed_size": (
                f"amplified by sampling {self.cohort} of {self.clients} clients without"
                " replacement; one client replaced"
            ),
            "other": (
                "not amplified by sampling: accounted as if every client took part in every round;"
                " one client added or removed"
            ),
        }[self.sampling]

    def epsilon(self, rounds: int, delta: float) -> float:
        """Epsilon after these rounds."""
        dp_accounting = library()
        relations, gaussian = dp_accounting.NeighboringRelation, dp_accounting.GaussianDpEvent
        relation, orders = (
            relations.ADD_OR_REMOVE_ONE,
            None if self.sampling in ("everyone", "other") else WHOLE_ORDERS,
        )
        if self.sampling == "independent":
            event = dp_accounting.PoissonSampledDpEvent(self.share, gaussian(self.noise))
        elif self.sampling == "fixed_size":
            relation = relations.REPLACE_ONE
            event = dp_accounting.SampledWithoutReplacementDpEvent(
                self.clients, self.cohort, gaussian(self.noise / 2)
            )
        else:
            event = gaussian(self.noise)
        accountant = dp_accounting.rdp.RdpAccountant(orders, relation)
        if rounds:
            accountant.compose(event, rounds)
        return float(accountant.get_epsilon(delta))


def library():
    """The library dp_accounting. Its logger takes hold of the stderr of the moment and closes it
    when logging is set up anew, unless that is the process's own."""
    with contextlib.redirect_stderr(sys.__stderr__):
        import dp_accounting
        import dp_accounting.rdp
    return dp_accounting
