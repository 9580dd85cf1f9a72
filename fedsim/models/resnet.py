"""ResNet-18 with GroupNorm, whose normalisation keeps no running statistics and so can be
averaged."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from fedsim.errors import require
from fedsim.models.settings import image_shape, one_of, positive_int

STAGES = (64, 128, 256, 512)  # channels


def _convolution(inputs: int, outputs: int, size: int, stride: int) -> nn.Conv2d:
    layer = nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False)
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return layer


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions with GroupNorm and a shortcut, projected where the shape changes: [B,
    inputs, H, W] to [B, outputs, H/stride, W/stride]."""

    def __init__(self, inputs: int, outputs: int, stride: int, groups: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            _convolution(inputs, outputs, 3, stride),
            nn.GroupNorm(groups, outputs),
            nn.ReLU(),
            _convolution(outputs, outputs, 3, 1),
            nn.GroupNorm(groups, outputs),
        )
        same = stride == 1 and inputs == outputs
        self.shortcut = (
            nn.Identity()
            if same
            else nn.Sequential(
                _convolution(inputs, outputs, 1, stride), nn.GroupNorm(groups, outputs)
            )
        )
        self.activation = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.residual(x) + self.shortcut(x))


class ResNet18(nn.Sequential):
    """ResNet-18 (He et al. 2016) with every BatchNorm replaced by GroupNorm. Images [B, C, H, W] to
    [B, outputs].

    groups: of each GroupNorm (2 as in FL-Simulator's experiments); stem: imagenet, 7 x 7
    convolution of stride 2 and max-pooling (11,181,642 parameters for 3 channels and 10 classes),
    or cifar, one 3 x 3 convolution, for small images.
    """

    def __init__(
        self, input_shape: Sequence[int], outputs: int, groups: int = 2, stem: str = "imagenet"
    ) -> None:
        channels, _, _ = image_shape("ResNet18", input_shape)
        positive_int("ResNet18.groups", groups)
        require(
            STAGES[0] % groups == 0,
            "ResNet18.groups",
            groups,
            f"accepted is a divisor of {STAGES[0]}, the channels of the first stage",
        )
        width = STAGES[0]
        if one_of("ResNet18.stem", stem, ["imagenet", "cifar"]) == "imagenet":
            layers = [
                _convolution(channels, width, 7, 2),
                nn.GroupNorm(groups, width),
                nn.ReLU(),
                nn.MaxPool2d(3, 2, padding=1),
            ]
        else:
            layers = [_convolution(channels, width, 3, 1), nn.GroupNorm(groups, width), nn.ReLU()]
        for outputs_of_stage in STAGES:
            stride = 1 if outputs_of_stage == STAGES[0] else 2
            layers += [
                BasicBlock(width, outputs_of_stage, stride, groups),
                BasicBlock(outputs_of_stage, outputs_of_stage, 1, groups),
            ]
            width = outputs_of_stage
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, outputs))
