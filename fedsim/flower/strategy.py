"""Bridges to Flower (https://flower.ai), which is imported here and nowhere else; needs the extra
`fedsim[flower]`.

`as_strategy` takes an aggregator to a Flower deployment; `InProcessGrid` runs any Flower strategy
in this process, without Ray or a SuperLink, which is how fedsim's rules are compared with Flower's
in the tests.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch

from fedsim.algorithms.base import Aggregator, Reports, RoundInfo, State
from fedsim.algorithms.directions import norm
from fedsim.errors import ConfigError, require
from fedsim.protocols.server import Server

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")  # read when Flower is imported
try:
    from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
    from flwr.serverapp import Grid
    from flwr.serverapp.strategy import FedAvg as FlowerFedAvg

    # private; messages cannot be made outside a run without it
    from flwr.supercore.task_identity import TaskIdentity
except ImportError as error:
    raise ConfigError(
        "flower",
        str(error),
        "needs flwr 1.41 or a release like it; install the extra: pip install 'fedsim[flower]'",
    ) from error

Respond = Callable[[Message], RecordDict | None]


class InProcessGrid(Grid):
    """A Grid whose nodes are one function of this process.

    nodes: their number, with the ids 1, 2, ...; respond(message) -> the content of the reply of
    node message.metadata.dst_node_id; None: it does not answer.
    """

    def __init__(self, nodes: int, respond: Respond) -> None:
        self.nodes, self.respond, self.replies = nodes, respond, {}
        for name in ("task_id", "run_id", "node_id"):
            try:
                getattr(TaskIdentity, name)
            except RuntimeError:  # not set: this process is part of no Flower run
                setattr(TaskIdentity, name, 1)

    @property
    def run(self) -> Any:
        raise NotImplementedError("no Flower run belongs to a grid in process")

    def set_run(self, run: Any) -> None:
        """There is no run to set."""

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> list[int]:
        return list(range(1, self.nodes + 1))

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        first = len(self.replies)
        for message in messages:
            content = self.respond(message)
            self.replies[str(len(self.replies))] = (
                None if content is None else Message(content, reply_to=message)
            )
        return [str(number) for number in range(first, len(self.replies))]

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        return [reply for name in message_ids if (reply := self.replies[name]) is not None]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> list[Message]:
        return self.pull_messages(self.push_messages(messages))


class AggregatorStrategy(FlowerFedAvg):
    """A Flower strategy that merges with an aggregator of fedsim.

    Clients are Flower's nodes in the order of their ids, those connected in the first round; their
    replies are those that FedAvg expects: the trained arrays, all of floats, and a metric record
    with `num-examples`. A node that does not answer is absent in that round, and a round without
    answers is an empty one. What an aggregator keeps at clients is kept here. settings: of Flower's
    FedAvg.

    Raises ConfigError for aggregators that need more than such replies hold.
    """

    def __init__(self, aggregator: Aggregator, seed: int = 0, **settings: Any) -> None:
        super().__init__(**settings)
        aggregator.check("server")
        name = type(aggregator).__name__
        require(
            not aggregator.judges,
            "aggregator",
            name,
            "judges models on a validation split, and a Flower server has none",
        )
        self.aggregator, self.seed = aggregator, seed
        self.plan, self.nodes, self.current = None, [], None
        self.links: dict[str, np.ndarray] = {}
        self.receiver: State = {}
        self.memory: dict[int, State] = {}

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        # Waits for enough nodes
        messages = super().configure_train(server_round, arrays, config, grid)
        if self.plan is None:
            self.nodes = sorted(grid.get_node_ids())
            self.plan = Server().bind(len(self.nodes), None, None, self.seed)
            self.links = self.aggregator.init_links(self.plan.links)
            self.receiver = self.aggregator.init_receiver(_flat(arrays))
        self.current = arrays
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        valid, _ = self._check_and_log_replies(list(replies), is_train=True)
        valid = sorted(valid, key=lambda reply: reply.metadata.src_node_id)
        base = _flat(self.current)
        contents = [reply.content for reply in valid]
        trained = [next(iter(content.array_records.values())) for content in contents]
        updates = torch.cat([_flat(arrays) - base for arrays in trained]) if trained else base[:0]
        examples = [
            next(iter(content.metric_records.values()))[self.weighted_by_key]
            for content in contents
        ]
        cohort = np.array([self._client(reply.metadata.src_node_id) for reply in valid], np.int64)
        following = self._merge(
            server_round - 1, base, updates, cohort, np.array(examples, np.float64)
        )
        metrics = self.train_metrics_aggr_fn(contents, self.weighted_by_key) if contents else None
        return _like(self.current, following), metrics

    def _client(self, node: int) -> int:
        require(
            node in self.nodes,
            "node",
            node,
            f"accepted are the {len(self.nodes)} nodes that were connected in the first round",
        )
        return self.nodes.index(node)

    def _merge(
        self,
        round: int,
        base: torch.Tensor,
        updates: torch.Tensor,
        cohort: np.ndarray,
        examples: np.ndarray,
    ) -> torch.Tensor:
        """The next model [1, P] from updates [S, P]."""
        sizes, unknown = norm(updates).squeeze(-1).numpy(), np.full(len(cohort), np.nan)
        sent = []
        # Split gives one empty piece of no rows
        for update, client in zip(updates.split(1), cohort.tolist(), strict=False):
            memory = self.memory.get(client) or self.aggregator.init_memory(base)
            messages, self.memory[client] = self.aggregator.encode({"update": update}, memory)
            sent.append(messages["update"])
        updates = torch.cat(sent) if sent else updates
        tick = self.plan.tick(round, cohort)
        reports = Reports(examples, unknown, float("nan"), unknown, unknown, sizes)
        weights, self.links = self.aggregator.coefficients(
            tick.links, tick.heard, reports, self.links
        )
        known = bool(np.isfinite(weights).all())
        name = type(self.aggregator).__name__
        require(
            known,
            "aggregator",
            name,
            "needs probabilities or numbers of local steps, which Flower's replies do not hold",
        )
        heard, steps = torch.full((1, 1), float(len(cohort))), float(len(cohort) > 0)
        info = RoundInfo(
            round, self.seed, np.zeros(1, np.int64), heard, len(self.nodes), float("nan"), steps
        )
        if self.aggregator.rows and len(cohort):
            mixed = self.aggregator.merge(
                updates, torch.from_numpy(weights).float(), info
            ).unsqueeze(0)
        else:
            mixed = (torch.from_numpy(weights) @ updates.double()).float().unsqueeze(0)
        following, self.receiver = self.aggregator.step(base, mixed, self.receiver, info)
        return following


def as_strategy(aggregator: Aggregator, seed: int = 0, **settings: Any) -> AggregatorStrategy:
    """A Flower strategy (`flwr.serverapp.strategy.Strategy`) that merges with `aggregator`;
    settings: of Flower's FedAvg, such as fraction_train. See `AggregatorStrategy`."""
    return AggregatorStrategy(aggregator, seed, **settings)


def _flat(arrays: ArrayRecord) -> torch.Tensor:
    """All arrays in one row, float32 [1, P]."""
    parts = [array.numpy() for array in arrays.values()]
    floats = all(np.issubdtype(part.dtype, np.floating) for part in parts)
    require(
        floats,
        "arrays",
        [str(part.dtype) for part in parts],
        "accepted are arrays of floats; leave out counters such as BatchNorm's",
    )
    return torch.from_numpy(
        np.concatenate([part.ravel().astype(np.float32) for part in parts])
    ).unsqueeze(0)


def _like(arrays: ArrayRecord, flat: torch.Tensor) -> ArrayRecord:
    """Arrays of the same names, shapes and types with the values of a row [1, P]."""
    found, start, values = {}, 0, flat.squeeze(0).numpy()
    for name, array in arrays.items():
        old = array.numpy()
        found[name] = Array(values[start : start + old.size].reshape(old.shape).astype(old.dtype))
        start += old.size
    return ArrayRecord(found)
