"""One tick, in the order in which it happens: train -> screen -> weigh -> mix -> step ->
account."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedsim.attacks import Attack, NoAttack
from fedsim.engine.base import Session
from fedsim.protocols.base import Plan, Tick
from fedsim.rounds.client_state import ClientState
from fedsim.rounds.cohort_training import CohortTraining
from fedsim.rounds.failures import Failures
from fedsim.rounds.graph_mixing import GraphMixing
from fedsim.rounds.grouping import Grouping
from fedsim.rounds.jobs import Task
from fedsim.rounds.judging import Judge
from fedsim.rounds.receivers import Receivers
from fedsim.rounds.screening import Screening
from fedsim.rounds.server_mixing import ServerMixing
from fedsim.rounds.traffic import Traffic
from fedsim.rounds.weighing import Weighing


@dataclass(frozen=True)
class RoundReport:
    """cohort: clients that trained and were heard [S]; update_norms: Euclidean norms of their
    updates [S]; sent, received: bytes by clients in this round; dropouts: clients that dropped out
    in mid-round; discarded: clients whose updates could not be used."""

    cohort: np.ndarray
    update_norms: np.ndarray
    sent: int
    received: int
    dropouts: int = 0
    discarded: int = 0


class Rounds:
    """Runs ticks. receivers: their models and vectors; clients: the state that clients keep;
    weighing: with the aggregator's state per link."""

    def __init__(
        self,
        task: Task,
        session: Session,
        plan: Plan,
        probability: np.ndarray,
        failures: Failures | None = None,
        attack: Attack | None = None,
    ) -> None:
        self.task, self.session, self.plan = task, session, plan
        self.receivers = Receivers(task, session.arena)
        self.clients = ClientState(task.keepers, session.arena)
        self.grouping = grouping = Grouping(task)
        self.training = CohortTraining(task, session, self.receivers, self.clients, grouping)
        kinds = failures or Failures(), attack or NoAttack()
        self.screening = Screening(task, self.receivers, plan, *kinds)
        judge = Judge(task, session, self.receivers)
        self.weighing = Weighing(task, plan, probability, judge)
        at_server = task.place == "server"
        self.mixing = (
            ServerMixing(task, session, self.receivers, grouping)
            if at_server
            else GraphMixing(task, session, self.receivers)
        )
        self.traffic = Traffic(task, plan, self.clients.length)

    def run(self, asked: Tick, rate: float) -> RoundReport:
        """Run one tick with this learning rate. Raises Diverged."""
        present, dropouts = self.screening.present(asked)
        # A server that only adds messages up weighs first: its workers form the sums as they train
        weighed = None if self.task.rows else self.weighing.weigh(present, rate, None)
        trained = self.training.train(present, rate, weighed)
        tick, trained = self.screening.screen(present, trained, self.clients)
        if weighed is None:
            weighed = self.weighing.weigh(tick, rate, trained.norms)
        # Over a graph workers mix and step a block at once: by jobs that `mix` makes, `step` runs
        mixed = self.mixing.mix(weighed, trained.groups)
        self.mixing.step(weighed, mixed)
        self.clients.commit(tick.keepers, trained.state_rows)
        traffic = self.traffic.count(asked, present, weighed)
        discarded = len(present.cohort) - len(tick.cohort)
        return RoundReport(tick.cohort, trained.norms, *traffic, dropouts, discarded)

    @property
    def state_bytes(self) -> dict[str, int]:
        """Bytes of what an algorithm remembers: at the clients that have any, per link, and at the
        receivers beside their models."""
        vectors = self.receivers.vectors().values()
        return {
            "client_state_bytes": self.clients.bytes,
            "link_state_bytes": sum(array.nbytes for array in self.weighing.links.values()),
            "receiver_state_bytes": sum(array.nbytes for array in vectors),
        }

    def state(self) -> dict[str, np.ndarray]:
        """Everything that lasts between rounds, by name; arrays may be views of what the next round
        changes."""
        parts = {
            "receivers": self.receivers.state(),
            "client": self.clients.state(),
            "links": self.weighing.links,
            "plan": self.plan.state(),
        }
        found = {"owners": self.clients.rows.owners}
        for part, values in parts.items():
            found |= {f"{part}/{name}": value for name, value in values.items()}
        return found

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Go on from what `state` gave, in place of starting the receivers."""

        def part(kind: str) -> dict[str, np.ndarray]:
            start = f"{kind}/"
            named = {name: value for name, value in state.items() if name.startswith(start)}
            return {name.removeprefix(start): value for name, value in named.items()}

        self.clients.restore(state["owners"], part("client"))
        self.receivers.restore(part("receivers"))
        self.weighing.links = {name: value.copy() for name, value in part("links").items()}
        self.plan.restore(part("plan"))
