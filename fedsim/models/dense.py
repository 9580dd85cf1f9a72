"""Logistic regression and the multilayer perceptron, for inputs of any shape."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import nn

from fedsim.models.settings import flag, layer_sizes, one_of

ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh}


class LogisticRegression(nn.Sequential):
    """One linear layer: inputs [B, *input_shape] to logits (regression: predictions) [B, outputs].

    zero_init: weights and bias start at zero, else as torch draws them.
    """

    def __init__(self, input_shape: Sequence[int], outputs: int, zero_init: bool = False) -> None:
        linear = nn.Linear(math.prod(input_shape), outputs)
        if flag("LogisticRegression.zero_init", zero_init):
            nn.init.zeros_(linear.weight)
            nn.init.zeros_(linear.bias)
        super().__init__(nn.Flatten(), linear)


class MLP(nn.Sequential):
    """Dense layers with an activation between them: inputs [B, *input_shape] to [B, outputs].

    hidden: sizes of the hidden layers; activation: relu or tanh; init: default (torch's), or
    xavier: Xavier uniform weights (Glorot and Bengio 2010, gain 1) and zero biases.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        outputs: int,
        hidden: Sequence[int] = (64,),
        activation: str = "relu",
        init: str = "default",
    ) -> None:
        sizes = [math.prod(input_shape), *layer_sizes("MLP.hidden", hidden), outputs]
        act = ACTIVATIONS[one_of("MLP.activation", activation, list(ACTIVATIONS))]
        one_of("MLP.init", init, ["default", "xavier"])
        layers: list[nn.Module] = [nn.Flatten()]
        for inputs, width in zip(sizes, sizes[1:], strict=False):
            linear = nn.Linear(inputs, width)
            if init == "xavier":
                nn.init.xavier_uniform_(linear.weight)
                nn.init.zeros_(linear.bias)
            layers += [linear, act()]
        super().__init__(*layers[:-1])
