from .build import (
    build_model as build_model,
    check_model as check_model,
)
from .convolutional import (
    CNN as CNN,
    LeNet as LeNet,
    McMahanCNN as McMahanCNN,
)
from .dense import (
    MLP as MLP,
    LogisticRegression as LogisticRegression,
)
from .recurrent import CharLSTM as CharLSTM
from .resnet import ResNet18 as ResNet18
