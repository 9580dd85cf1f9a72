"""The two parts of an algorithm, and a correction that any of them can carry.

A client rule says what one client does, on one flat vector [P]. An aggregator says what a receiver
(a server, or each node of a graph) does with what it heard. Both are pure: state goes in and comes
out. Rules use elementwise arithmetic and `norm` and `dot`, so the same text runs on one vector [P]
and on a stack [C, P]. Every argument called x, anchor, state[...], shared[...] or mixed[...] has
that shape, unless `lengths` or the initial value says otherwise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from fedsim import rng
from fedsim.algorithms.directions import Affine, Gradient
from fedsim.network.links import Heard, Links
from fedsim.parameters import Layout

State = dict[str, Tensor]
Place = Literal["server", "graph", "walk"]  # where an algorithm runs: see `fedsim.protocols`


class Averaging(Enum):
    """How a channel is averaged: by the aggregator's coefficients; as 1/N over all clients, absent
    ones counting as zero (a server only); equally over the senders that were heard other than the
    receiver itself; or as models are mixed, whatever the aggregator (not at a server, which mixes
    none)."""

    COHORT = "cohort"
    EVERYONE = "everyone"
    OTHERS = "others"
    MIXING = "mixing"


COHORT, EVERYONE, OTHERS, MIXING = (
    Averaging.COHORT,
    Averaging.EVERYONE,
    Averaging.OTHERS,
    Averaging.MIXING,
)


@dataclass(frozen=True)
class LocalInfo:
    """What a client knows of its own work this round, one value a client ([1], or [C, 1] for a
    stack): steps: local steps K; rates: sum of the learning rates of those steps; examples: size of
    its shard.

    start: where its local training started, [P]; fisher(x): diagonal of the Fisher information of
    its shard at x, float32 like x (one more pass over the shard).
    """

    steps: Tensor
    rates: Tensor
    examples: Tensor
    start: Tensor
    fisher: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Reports:
    """What is known of the senders that were heard or asked, in cohort order: examples: shard sizes
    [S]; steps: local steps [S]; rate: the round's learning rate; probability: true participation
    probabilities [S]; accumulated: sum of the coefficients with which a client's gradients enter
    its update, in units of the rate [S] (steps for plain SGD; momentum and prox terms change it);
    norms: Euclidean norms of the updates [S], None where messages are only summed (then weights are
    needed before training); round, seed: keys of random draws.
    """

    examples: np.ndarray
    steps: np.ndarray
    rate: float
    probability: np.ndarray
    accumulated: np.ndarray
    norms: np.ndarray | None = None
    round: int = 0
    seed: int = 0


@dataclass(frozen=True)
class RoundInfo:
    """What receivers know of a round. receivers: their ids [r]; heard: number of senders each
    heard, itself aside where it is one, float32 [r, 1]; members: clients with data; rate, steps:
    the learning rate, and the mean of the local steps of the cohort (0: nobody).

    senders: in `merge`, whose updates these are, ids int64 [H]. evaluate(updates [m, P]) -> mean
    losses [m] and accuracies [m] on the validation split of the server's model plus each of these,
    for aggregators that declare `judges`.
    """

    round: int
    seed: int
    receivers: np.ndarray
    heard: Tensor
    members: int
    rate: float
    steps: float
    evaluate: Callable[[Tensor], tuple[np.ndarray, np.ndarray]] | None = None
    senders: np.ndarray | None = None

    def gaussian(self, like: Tensor) -> Tensor:
        """Standard normal draws [r, P] for the receivers, keyed by seed, round and receiver."""
        draws = [
            rng.generator(self.seed, "aggregator", self.round, int(r)).standard_normal(
                like.shape[-1]
            )
            for r in self.receivers
        ]
        return torch.from_numpy(np.stack(draws)).to(like)


@dataclass(frozen=True)
class Setting:
    """The run that an aggregator is to work in. place; rule: the clients' part; corrected: whether
    a correction is on; sampling: how cohorts are drawn (`fedsim.participation.Pattern.sampling`);
    probability: true participation probabilities float64 [N], 0 for clients without data; members:
    clients with data."""

    place: Place
    rule: ClientRule
    corrected: bool
    sampling: str
    probability: np.ndarray
    members: int


class ClientRule:
    """What one client does in a round; the default is local SGD (FedAvg's client).

    broadcasts: whether clients read the shared vectors, or the names of those they read, which are
    then sent with the model; absorbs_update: whether `absorb` uses the mixed update by itself,
    which then travels beside the model over a graph; plain_steps: whether `finish` takes the
    distance x - info.start for the sum of the directions times the rate, which momentum, clipping
    or another optimizer would make untrue (weight decay counts as part of the gradient); scaled:
    whether receivers hold models times weights of their own, which `output` takes out: what mixing
    by `column_stochastic` weights needs, and neither a correction nor an aggregator of rows can
    work on; classifies: whether it needs labels that are classes.
    """

    broadcasts: ClassVar[bool | tuple[str, ...]] = True
    absorbs_update: ClassVar[bool] = False
    plain_steps: ClassVar[bool] = False
    scaled: ClassVar[bool] = False
    classifies: ClassVar[bool] = False

    @property
    def channels(self) -> dict[str, Averaging]:
        """The vectors [P] a client sends, and how each is averaged."""
        return {"update": COHORT}

    @property
    def lengths(self) -> dict[str, int]:
        """Lengths of the channels that are not P long."""
        return {}

    @property
    def pull(self) -> float:
        """Strength mu of a prox term mu (x - anchor) in `direction`, for aggregators that normalise
        by local work."""
        return 0.0

    @property
    def same_as(self) -> dict[str, str]:
        """Channels that average the vector of another channel once more, in another way: channel ->
        that one. They are not sent."""
        return {}

    def check(self, rate: float, place: Place) -> None:
        """Raise ConfigError if the rule cannot work with this learning rate, or not at this
        place."""

    def init(self, x: Tensor) -> State:
        """State a client keeps between rounds; x gives the shape."""
        return {}

    def init_shared(self, x: Tensor) -> State:
        """Vectors that live at the receiver and are sent to clients with the model; x gives the
        shape."""
        return {}

    def start(self, anchor: Tensor, state: State, shared: State) -> Tensor:
        """Where local training starts, given the model received (the anchor)."""
        return anchor

    def affine(self, anchor: Tensor, state: State, shared: State) -> Affine | None:
        """The descent direction of every local step of a round, where it has that form; the default
        is the gradient."""
        return Affine()

    def direction(
        self, grad: Gradient, x: Tensor, anchor: Tensor, state: State, shared: State
    ) -> Tensor | tuple[Tensor, State]:
        """The descent direction of one local step, or that and the state from here on; the engine
        then clips, adds weight decay, and the optimiser steps. To be defined where `affine` cannot
        say it, which then counts no more (or where it says None)."""
        form = self.affine(anchor, state, shared)
        assert form is not None
        return form.direction(grad, x)

    def form(self, anchor: Tensor, state: State, shared: State) -> Affine | None:
        """What `affine` says, unless a class derived from the one that says it defines
        `direction`."""
        maker = next(
            cls for cls in type(self).__mro__ if "affine" in vars(cls) or "direction" in vars(cls)
        )
        return self.affine(anchor, state, shared) if "affine" in vars(maker) else None

    def finish(
        self, x: Tensor, anchor: Tensor, state: State, shared: State, info: LocalInfo
    ) -> tuple[dict[str, Tensor], State]:
        """Messages by channel, and the state kept."""
        return {"update": x - anchor}, state

    def absorb(
        self, shared: State, mixed: dict[str, Tensor], info: RoundInfo
    ) -> tuple[State, Tensor | None]:
        """At each receiver, once per round: the new shared vectors, and what is added to the model
        after the aggregator's step."""
        return shared, None

    def output(self, model: Tensor, shared: State) -> Tensor:
        """The model that is evaluated and released, from the one the receiver holds."""
        return model


class Aggregator:
    """What a receiver does with what it heard; the default adds the mean over the cohort, or over
    the neighbours by their mixing weights.

    remembers_links: True if link state lasts between rounds, which a graph drawn afresh each round
    does not allow; rows: True if `merge` must see the single updates, not their weighted sum;
    judges: True if `merge` evaluates models on the validation split (a server only); classifies:
    whether it needs labels that are classes.
    """

    remembers_links: ClassVar[bool] = False
    rows: ClassVar[bool] = False
    judges: ClassVar[bool] = False
    classifies: ClassVar[bool] = False

    @property
    def adds_updates(self) -> bool:
        """Whether `step` is base + mixed, so that over a graph a neighbour's model and update can
        travel as their sum."""
        return type(self).step is Aggregator.step

    def sent(self, length: int) -> int:
        """How many numbers a client sends of an update, or over a graph of a model, of this
        length."""
        return length

    def check(self, place: Place) -> None:
        """Raise ConfigError if the aggregator does not work at this place."""

    def bind(self, setting: Setting) -> Aggregator:
        """The aggregator of a run: itself, or a copy that knows what it needs of the setting. Raise
        ConfigError if they do not fit."""
        return self

    @property
    def notes(self) -> dict[str, Any]:
        """Facts worth a line in the summary of a run."""
        return {}

    def report(self, rounds: int) -> dict[str, float]:
        """Values recorded with every evaluation, by metric name, after this number of rounds."""
        return {}

    def init_links(self, links: Links) -> dict[str, np.ndarray]:
        """State per link [L] or per receiver [R]."""
        return {}

    def coefficients(
        self, links: Links, heard: Heard, reports: Reports, state: dict[str, np.ndarray]
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """The weight of every message heard, float64 [H], and the new link state. Called every
        round, also when nobody is heard; the arrays of `state` may be updated in place, so that the
        cost follows the links heard and not all links."""
        return heard.weight, state

    def init_memory(self, x: Tensor) -> State:
        """Vectors that `encode` keeps at the client between rounds; x gives the shape."""
        return {}

    def encode(self, messages: dict[str, Tensor], memory: State) -> tuple[dict[str, Tensor], State]:
        """At the client, on its way out: what is sent, and the memory kept."""
        return messages, memory

    def init_receiver(self, x: Tensor) -> State:
        """Vectors a receiver keeps between rounds (a server optimiser's moments), [R, any length];
        x gives the shape of the models."""
        return {}

    def merge(self, updates: Tensor, weights: Tensor, info: RoundInfo) -> Tensor:
        """For aggregators with `rows`: the mixed update [P] of one receiver from single ones [H, P]
        and their coefficients [H]; called only if something was heard. Over a graph an update is
        the sender's trained model less the receiver's model, the receiver's own included. info: of
        that receiver alone."""
        raise NotImplementedError("an aggregator of rows merges them")

    def step(
        self, base: Tensor, mixed: Tensor, state: State, info: RoundInfo
    ) -> tuple[Tensor, State]:
        """The next model from the receivers' mixed models and the mixed updates."""
        return base + mixed, state

    def output(self, model: Tensor, state: State) -> Tensor:
        """The model that is evaluated and released, from the one the receiver holds and what it
        keeps."""
        return model


class Correction:
    """A change to the mixed model that needs small statistics of what was mixed, averaged equally
    over the other senders."""

    def statistics(self, models: Tensor, layout: Layout) -> Tensor:
        """Statistics [..., Q] of trained models [..., P], sent beside the update."""
        raise NotImplementedError("a correction defines its statistics")

    def apply(self, model: Tensor, own: Tensor, others: Tensor, layout: Layout) -> Tensor:
        """The corrected model [..., P], given the receiver's own statistics before mixing and the
        others' mean, both [..., Q]."""
        raise NotImplementedError("a correction defines how it is applied")
