"""Settings of local training."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from fedsim.algorithms.base import State
from fedsim.component import Fraction, NonNegative, Positive, PositiveInt, component
from fedsim.errors import require
from fedsim.local.optimizers import HeavyBall, Optimizer


@component
class LocalTraining:
    """Local SGD at a client.

    steps: local steps per round (or epochs: passes over the shard; give one of the two); batch_size: examples per step;
    last_batch: a shard's short last batch is used (keep) or skipped and the shard reshuffled (drop; a shard smaller than a batch is used
    whole); rate: learning rate, multiplied by the schedule; momentum: heavy-ball factor; keep_momentum: buffers outlive a round;
    weight_decay: added to the direction after clipping; clip_norm: largest Euclidean norm of a direction (null: no clipping);
    execution: looped (one client at a time) or stacked (many in one batched call), auto: by model and device, see `fedsim.local.gradients`;
    clients_per_batch: clients in one stacked call (null: by model and device);
    groups: the cohort is cut into at most this many groups, the units of work; their sums are added in order, whoever computed them.

    Order within a step: direction (with the rule's own terms), clipping, weight decay, momentum, step.
    """

    steps: PositiveInt | None = 5
    epochs: Positive | None = None
    batch_size: PositiveInt = 16
    last_batch: Literal["keep", "drop"] = "keep"
    rate: Positive = 0.1
    momentum: Fraction = 0.0
    keep_momentum: bool = False
    weight_decay: NonNegative = 0.0
    clip_norm: Positive | None = None
    execution: Literal["auto", "looped", "stacked"] = "auto"
    clients_per_batch: PositiveInt | None = None
    groups: PositiveInt = 16

    def __post_init__(self) -> None:
        require(
            (self.steps is None) != (self.epochs is None),
            "local.epochs",
            self.epochs,
            f"give either steps or epochs, not both (local.steps={self.steps})",
        )
        require(not self.keep_momentum or self.momentum > 0, "local.keep_momentum", True, "needs local.momentum above 0")

    @property
    def optimizer(self) -> Optimizer:
        """What steps along the direction."""
        return HeavyBall(self.momentum) if self.momentum else Optimizer()

    @property
    def keeps_state(self) -> bool:
        """Whether clients keep the optimiser's state between rounds."""
        return self.keep_momentum

    def init(self, x: Tensor) -> State:
        """The optimiser's state before the first step."""
        return self.optimizer.init(x)

    @property
    def plain(self) -> bool:
        """Whether a local step is x - rate * direction and nothing else."""
        return self.momentum == 0 and self.weight_decay == 0 and self.clip_norm is None
