"""Settings of local training."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor

from fedsim.algorithms.base import State
from fedsim.component import Fraction, NonNegative, Positive, PositiveInt, component
from fedsim.errors import require
from fedsim.training.optimizers import AdaHessian, Adam, HeavyBall, Optimizer

OPTIMIZERS = {  # and the settings that each takes
    "sgd": ("momentum", "nesterov"),
    "adam": ("betas", "epsilon"),
    "adamw": ("betas", "epsilon"),
    "adahessian": ("betas", "epsilon", "hessian_power"),
}


@component
class LocalTraining:
    """Local training at a client.

    steps: local steps per round (or epochs: passes over the shard; give one of the two);
    batch_size: examples per step; last_batch: a shard's short last batch is used (keep) or skipped
    and the shard reshuffled (drop; a shard smaller than a batch is used whole); rate: learning
    rate, multiplied by the schedule; optimizer: what steps along the direction; sgd takes momentum
    (heavy-ball factor) and nesterov, the others betas (null: 0.9, 0.999) and epsilon (null: 1e-8,
    adahessian: 1e-4), adahessian hessian_power too; keep_optimizer: its state outlives a round
    (else each round starts afresh); weight_decay: added to the direction after clipping, by adamw
    and adahessian decoupled from it; clip_norm: largest Euclidean norm of a direction (null: no
    clipping); relaxation: beta of relaxed initialisation: local training starts from s + beta (s -
    y), s where it would start else (the model received) and y the model that the client last
    trained, kept at the client; the update counts from the model received all the same; execution:
    looped (one client at a time) or stacked (many in one batched call), auto: by model and device,
    see `fedsim.training.execution`; precision: of gradients: float32, or bfloat16 for torch's mixed
    precision, with weights and updates in float32: other results, sooner where a processor or GPU
    has bfloat16 instructions and the model is large; gradients are not written out then;
    clients_per_batch: clients in one stacked call, at most (null: by model and device); groups: the
    cohort is cut into at most this many groups, the units of work (fewer where there is little to
    do); their sums are added in order, whoever computed them.

    Order within a step: direction (with the rule's own terms), clipping, weight decay, the
    optimizer's step.
    """

    steps: PositiveInt | None = 5
    epochs: Positive | None = None
    batch_size: PositiveInt = 16
    last_batch: Literal["keep", "drop"] = "keep"
    rate: Positive = 0.1
    optimizer: Literal["sgd", "adam", "adamw", "adahessian"] = "sgd"
    momentum: Fraction = 0.0
    nesterov: bool = False
    betas: Annotated[list[Fraction], Field(min_length=2, max_length=2)] | None = None
    epsilon: Positive | None = None
    hessian_power: Positive | None = None
    keep_optimizer: bool = False
    weight_decay: NonNegative = 0.0
    clip_norm: Positive | None = None
    relaxation: NonNegative = 0.0
    execution: Literal["auto", "looped", "stacked"] = "auto"
    precision: Literal["float32", "bfloat16"] = "float32"
    clients_per_batch: PositiveInt | None = None
    groups: PositiveInt = 16

    def __post_init__(self) -> None:
        require(
            (self.steps is None) != (self.epochs is None),
            "local.epochs",
            self.epochs,
            f"give either steps or epochs, not both (local.steps={self.steps})",
        )
        for name in ("momentum", "nesterov", "betas", "epsilon", "hessian_power"):
            taken = OPTIMIZERS[self.optimizer]
            value, accepted = (
                getattr(self, name),
                f"optimizer={self.optimizer} has no such setting; it takes {', '.join(taken)}",
            )
            require(not value or name in taken, f"local.{name}", value, accepted)
        require(
            not self.nesterov or self.momentum > 0,
            "local.nesterov",
            True,
            "needs local.momentum above 0",
        )
        remembers = self.optimizer != "sgd" or self.momentum > 0
        require(
            not self.keep_optimizer or remembers,
            "local.keep_optimizer",
            True,
            "needs local.momentum above 0, or another optimizer",
        )

    def make_optimizer(self) -> Optimizer:
        """What steps along the direction."""
        if self.optimizer == "sgd":
            return HeavyBall(self.momentum, self.nesterov) if self.momentum else Optimizer()
        first, second = self.betas or (0.9, 0.999)
        betas, decay = (first, second), 0.0 if self.coupled else self.weight_decay
        if self.optimizer == "adahessian":
            return AdaHessian(betas, self.epsilon or 1e-4, decay, self.hessian_power or 1.0)
        return Adam(betas, self.epsilon or 1e-8, decay)

    @property
    def coupled(self) -> bool:
        """Whether weight decay is added to the direction, and not the optimizer's own."""
        return self.optimizer in ("sgd", "adam")

    @property
    def keeps_state(self) -> bool:
        """Whether clients keep anything between rounds."""
        return self.keep_optimizer or self.relaxation > 0

    def init(self, x: Tensor) -> State:
        """What clients keep, before their first round with the models x [C, P]."""
        return self.kept(self.make_optimizer().init(x), x)

    def kept(self, optimizer_state: State, trained: Tensor) -> State:
        """What clients keep of the optimizer's state and of the models they trained [C, P]."""
        last = {"trained": trained} if self.relaxation else {}
        return last | (optimizer_state if self.keep_optimizer else {})

    @property
    def plain(self) -> bool:
        """Whether a local step is x - rate * (direction + weight_decay x) and nothing else."""
        return self.optimizer == "sgd" and self.momentum == 0 and self.clip_norm is None
