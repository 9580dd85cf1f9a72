"""The two parts of an algorithm, and a correction that any of them can carry.

A client rule says what one client does, on one flat vector [P]. An aggregator says what a receiver (a server, or each node of a graph)
does with what it heard. Both are pure: state goes in and comes out. Rules use elementwise arithmetic and `norm` and `dot` below, so the
same text runs on one vector [P] and on a stack [C, P]. Every argument called x, anchor, state[...], shared[...] or mixed[...] has that
shape.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from fedsim.links import Heard, Links
from fedsim.parameters import Layout

State = dict[str, Tensor]
Gradient = Callable[[Tensor], Tensor]  # the mini-batch gradient at a point; may be called more than once per local step


class Averaging(Enum):
    """How a channel is averaged: by the aggregator's coefficients; as 1/N over all clients, absent ones counting as zero (a server only);
    or equally over the senders that were heard other than the receiver itself."""

    COHORT = "cohort"
    EVERYONE = "everyone"
    OTHERS = "others"


COHORT, EVERYONE, OTHERS = Averaging.COHORT, Averaging.EVERYONE, Averaging.OTHERS


def norm(x: Tensor) -> Tensor:
    """Euclidean norm over the parameters: [1] of [P], [C, 1] of [C, P]."""
    return torch.linalg.vector_norm(x, dim=-1, keepdim=True)


def dot(x: Tensor, y: Tensor) -> Tensor:
    """Inner product over the parameters: [1] of [P], [C, 1] of [C, P]."""
    return (x * y).sum(dim=-1, keepdim=True)


@dataclass(frozen=True)
class LocalInfo:
    """What a client knows of its own work this round, one value a client ([1], or [C, 1] for a stack):
    steps: local steps K; rates: sum of the learning rates of those steps; examples: size of its shard."""

    steps: Tensor
    rates: Tensor
    examples: Tensor


@dataclass(frozen=True)
class Reports:
    """What is known of the senders before they train, in cohort order: examples: shard sizes [S]; steps: local steps [S];
    rate: the round's learning rate; probability: true participation probabilities [S]."""

    examples: np.ndarray
    steps: np.ndarray
    rate: float
    probability: np.ndarray


class ClientRule:
    """What one client does in a round; the default is local SGD (FedAvg's client).

    plain_sgd: True declares that `start`, `direction` and `finish` are the defaults, so that the update may be fused;
    broadcasts: whether clients read the shared vectors, which are then sent with the model;
    absorbs_update: whether `absorb` uses the mixed update by itself, which then travels beside the model over a graph.
    """

    plain_sgd: ClassVar[bool] = False
    broadcasts: ClassVar[bool] = True
    absorbs_update: ClassVar[bool] = False

    @property
    def channels(self) -> dict[str, Averaging]:
        """The vectors [P] a client sends, and how each is averaged."""
        return {"update": COHORT}

    @property
    def same_as(self) -> dict[str, str]:
        """Channels that average the vector of another channel once more, in another way: channel -> that one. They are not sent."""
        return {}

    def check(self, rate: float, graph: bool) -> None:
        """Raise ConfigError if the rule cannot work with this learning rate, or not over a graph."""

    def init(self, x: Tensor) -> State:
        """State a client keeps between rounds; x gives the shape."""
        return {}

    def init_shared(self, x: Tensor) -> State:
        """Vectors that live at the receiver and are sent to clients with the model; x gives the shape."""
        return {}

    def start(self, anchor: Tensor, state: State, shared: State) -> Tensor:
        """Where local training starts, given the model received (the anchor)."""
        return anchor

    def direction(self, grad: Gradient, x: Tensor, anchor: Tensor, state: State, shared: State) -> Tensor:
        """The descent direction of one local step; the engine then clips, adds weight decay and momentum, and steps."""
        return grad(x)

    def finish(self, x: Tensor, anchor: Tensor, state: State, shared: State, info: LocalInfo) -> tuple[dict[str, Tensor], State]:
        """Messages by channel, and the state kept."""
        return {"update": x - anchor}, state

    def absorb(self, shared: State, mixed: dict[str, Tensor]) -> tuple[State, Tensor | None]:
        """At each receiver, once per round: the new shared vectors, and what is added to the model after the aggregator's step."""
        return shared, None


class Aggregator:
    """What a receiver does with what it heard; the default adds the mean over the cohort, or over the neighbours by their mixing weights.

    remembers_links: True if link state lasts between rounds, which a graph drawn afresh each round does not allow.
    """

    remembers_links: ClassVar[bool] = False

    @property
    def adds_updates(self) -> bool:
        """Whether `step` is base + mixed, so that over a graph a neighbour's model and update can travel as their sum."""
        return type(self).step is Aggregator.step

    def init_links(self, links: Links) -> dict[str, np.ndarray]:
        """State per link [L] or per receiver [R]."""
        return {}

    def coefficients(
        self, links: Links, heard: Heard, reports: Reports, state: dict[str, np.ndarray]
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """The weight of every message heard, float64 [H], and the new link state. Called every round, also when nobody is heard; the arrays
        of `state` may be updated in place, so that the cost follows the links heard and not all links."""
        return heard.weight, state

    def init_receiver(self, x: Tensor) -> State:
        """Vectors a receiver keeps between rounds (a server optimiser's moments); x gives the shape."""
        return {}

    def step(self, base: Tensor, mixed: Tensor, state: State) -> tuple[Tensor, State]:
        """The next model from the receivers' mixed models and the mixed updates."""
        return base + mixed, state


class Correction:
    """A change to the mixed model that needs small statistics of what was mixed, averaged equally over the other senders."""

    def statistics(self, models: Tensor, layout: Layout) -> Tensor:
        """Statistics [..., Q] of trained models [..., P], sent beside the update."""
        raise NotImplementedError("a correction defines its statistics")

    def apply(self, model: Tensor, own: Tensor, others: Tensor, layout: Layout) -> Tensor:
        """The corrected model [..., P], given the receiver's own statistics before mixing and the others' mean, both [..., Q]."""
        raise NotImplementedError("a correction defines how it is applied")
