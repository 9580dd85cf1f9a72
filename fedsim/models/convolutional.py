"""Small convolutional networks for images, as plain sequences of layers."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from fedsim.errors import require
from fedsim.models.settings import image_shape, layer_sizes, positive_int


class LeNet(nn.Sequential):
    """LeNet-5 (LeCun et al. 1998) with ReLU and max-pooling: convolutions 6 and 16 of 5 x 5, dense
    120 and 84. Images [B, C, H, W] to [B, outputs].

    padding: of the first convolution. 2 suits 28 x 28 (61,706 parameters for 1 x 28 x 28 and 10
    classes); 0 on 3 x 32 x 32 is the usual network of 62,006 parameters.
    """

    def __init__(self, input_shape: Sequence[int], outputs: int, padding: int = 2) -> None:
        accepted = padding in (0, 1, 2) and not isinstance(padding, bool)
        require(accepted, "LeNet.padding", padding, "accepted is 0, 1 or 2")
        channels, height, width = image_shape("LeNet", input_shape, least=16 - 2 * padding)
        rows, columns = (((size + 2 * padding - 4) // 2 - 4) // 2 for size in (height, width))
        super().__init__(
            nn.Conv2d(channels, 6, 5, padding=padding),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(6, 16, 5),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(16 * rows * columns, 120),
            nn.ReLU(),
            nn.Linear(120, 84),
            nn.ReLU(),
            nn.Linear(84, outputs),
        )


class CNN(nn.Sequential):
    """The two-layer network of FedAU's experiments (Wang and Ji, ICLR 2024, official code): two 3 x
    3 convolutions, each with ReLU and 2 x 2 max-pooling, then dense layers. Images [B, C, H, W] to
    [B, outputs]. Kaiming normal weights and zero biases on all layers but the last.

    dense: sizes of the hidden dense layers; on 3 x 32 x 32 and 10 classes [128] is the authors'
    SVHN network (273,706 parameters), [256, 64] their CIFAR-10 one (551,786); channels: of both
    convolutions.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        outputs: int,
        dense: Sequence[int] = (64,),
        channels: int = 32,
    ) -> None:
        in_channels, height, width = image_shape("CNN", input_shape, least=4)
        positive_int("CNN.channels", channels)
        sizes = [channels * (height // 4) * (width // 4), *layer_sizes("CNN.dense", dense)]
        layers: list[nn.Module] = []
        for inputs in (in_channels, channels):
            layers += [nn.Conv2d(inputs, channels, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        layers.append(nn.Flatten())
        for inputs, size in zip(sizes, sizes[1:], strict=False):
            layers += [nn.Linear(inputs, size), nn.ReLU()]
        for layer in layers:
            if isinstance(layer, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(layer.weight)
                nn.init.zeros_(layer.bias)
        super().__init__(*layers, nn.Linear(sizes[-1], outputs))


class McMahanCNN(nn.Sequential):
    """The network of the FedAvg paper (McMahan et al. 2017): 5 x 5 convolutions 32 and 64, each
    with ReLU and 2 x 2 max-pooling, dense 512. Images [B, C, H, W] to [B, outputs]; 1,663,370
    parameters for 1 x 28 x 28 and 10 classes."""

    def __init__(self, input_shape: Sequence[int], outputs: int) -> None:
        channels, height, width = image_shape("McMahanCNN", input_shape, least=4)
        super().__init__(
            nn.Conv2d(channels, 32, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(64 * (height // 4) * (width // 4), 512),
            nn.ReLU(),
            nn.Linear(512, outputs),
        )
