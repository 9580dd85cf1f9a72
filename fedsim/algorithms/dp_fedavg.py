"""DP-FedAvg: differential privacy of clients towards whoever sees the models, by clipping and noise
at the server.

Source: McMahan, Ramage, Talwar & Zhang, "Learning Differentially Private Recurrent Language
Models", ICLR 2018 (arXiv 1710.06963), the estimator with a fixed denominator; accounting:
`fedsim.algorithms.privacy`.

    x <- x + eta * (sum_S D_i min(1, C / ||D_i||) + sigma C z) / (q N),
        z standard normal, keyed by seed and round

Symbols: D_i update [P]; C clip; sigma noise multiplier; q N expected size of the cohort; S the
cohort. All clients count alike.

The divisor is q N and not |S|, which would depend on who takes part. Noise is there in empty rounds
too. Where the probabilities of taking part are unequal they tell something of the data, and
`cohort` (q N) has to be given as a public number.

Only the update is clipped and noised: client rules that send more, or whose shared vectors follow
the mixed update, and corrections are refused. Attackers' forged updates are not clipped. Over a
graph neighbours see each other's models, which this does not protect: refused.
"""

from __future__ import annotations

import copy
from typing import Annotated

import numpy as np
from pydantic import Field

from fedsim.algorithms.base import Aggregator, Reports
from fedsim.algorithms.directions import norm
from fedsim.algorithms.privacy import Accounting
from fedsim.component import NonNegative, Positive, component
from fedsim.errors import require
from fedsim.network.links import Heard, Links


@component
class DpFedAvg(Aggregator):
    """Clipped updates, summed with Gaussian noise (McMahan et al. 2018).

    clip: C; noise: sigma, in units of C (0: clipping alone, no privacy); delta: of (epsilon,
    delta), for the epsilon that is recorded; cohort: expected size of the cohort q N (null: from
    the participation's equal probabilities); rate: global learning rate eta.
    """

    clip: Positive = 1.0
    noise: NonNegative = 1.0
    delta: Annotated[float, Field(gt=0, lt=1)] = 1e-5
    cohort: Positive | None = None
    rate: Positive = 1.0

    expected = None  # q N; like the next, known once bound to a run
    accounting = None  # how it is accounted, where there is noise

    def check(self, place):
        accepted = (
            "protects the models that a server releases; over a graph or on a walk clients see each"
            " other's; use protocol=server"
        )
        require(place == "server", "aggregator", "DpFedAvg", accepted)

    def bind(self, setting):
        rule, name = setting.rule, type(setting.rule).__name__
        alone = list(rule.channels) == ["update"] and not rule.absorbs_update
        accepted = (
            f"sends or shares more than the update ({list(rule.channels)}), which"
            " aggregator=dp_fedavg does not protect"
        )
        require(alone, "client", name, accepted)
        require(
            not setting.corrected,
            "correction",
            "on",
            "sends statistics that aggregator=dp_fedavg does not protect; use correction=none",
        )
        probability = setting.probability[setting.probability > 0]
        equal = len(np.unique(probability)) == 1
        accepted = (
            "a public number must be given where the probabilities of taking part are unequal,"
            " since they may follow the data"
        )
        require(equal or self.cohort is not None, "aggregator.cohort", None, accepted)
        bound = copy.copy(self)
        bound.expected = float(self.cohort or probability.sum())
        bound.accounting = (
            Accounting.of(setting.sampling, probability, self.noise) if self.noise else None
        )
        return bound

    @property
    def notes(self):
        if self.accounting is None:
            return {"privacy": "none: no noise"}
        return {"delta": self.delta, "privacy": self.accounting.text}

    def report(self, rounds):
        return (
            {}
            if self.accounting is None
            else {"epsilon": self.accounting.epsilon(rounds, self.delta)}
        )

    def coefficients(self, links: Links, heard: Heard, reports: Reports, state):
        return np.full(len(heard), 1 / self._size(links.senders)), state

    def encode(self, messages, memory):
        update = messages["update"]
        return (
            messages | {"update": update * (self.clip / norm(update).clamp_min(self.clip))},
            memory,
        )

    @property
    def adds_updates(self):
        return False

    def step(self, base, mixed, state, info):
        deviation = self.noise * self.clip / self._size(info.members)
        noise = deviation * info.gaussian(base) if deviation else 0.0
        return base + self.rate * (mixed + noise), state

    def _size(self, clients: int) -> float:
        """q N; outside a run, as if everyone took part."""
        return self.expected or self.cohort or clients
