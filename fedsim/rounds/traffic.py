"""The bytes of a round."""

from __future__ import annotations

from fedsim.protocols.base import Payload, Plan, Tick
from fedsim.rounds.jobs import Task
from fedsim.rounds.weighing import Weighed

NUMBER = 4  # bytes of a float32


class Traffic:
    """Counts what clients send and receive. kept: numbers of a client's kept state, which on a walk
    goes with the token."""

    def __init__(self, task: Task, plan: Plan, kept: int) -> None:
        self.task, self.plan = task, plan
        lengths = task.channels.items()
        sent = {name: size * NUMBER for name, size in lengths if name not in task.rule.same_as}
        sent["update"] = task.aggregator.sent(task.layout.size) * NUMBER
        model = sent["update"] if task.place == "graph" else task.layout.size * NUMBER
        carried = kept if task.place == "walk" else 0
        self.payload = Payload(model, (sum(task.broadcast.values()) + carried) * NUMBER, sent)

    def count(self, asked: Tick, trained: Tick, weighed: Weighed) -> tuple[int, int]:
        """Bytes sent and received by clients. asked: with those who then dropped out, to whom a
        server had sent its model."""
        aggregator, absorbs = self.task.aggregator, self.task.rule.absorbs_update
        additive = (aggregator.adds_updates or aggregator.rows) and not absorbs
        # One vector carries model and update where both have the same weights
        merged = additive and (aggregator.rows or weighed.as_mixed)
        sent, received = self.plan.traffic(trained, self.payload, merged)
        if trained is not asked and self.task.place == "server":
            received = self.plan.traffic(asked, self.payload, True)[1]
        return sent, received
