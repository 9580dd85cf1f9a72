"""Models: torch modules built from the data's shape, and the checks a user's own module passes before it is trained."""

from fedsim.models.build import build_model, check_model
from fedsim.models.convolutional import CNN, LeNet, McMahanCNN
from fedsim.models.dense import MLP, LogisticRegression
from fedsim.models.recurrent import CharLSTM
from fedsim.models.resnet import ResNet18

__all__ = ["CNN", "MLP", "CharLSTM", "LeNet", "LogisticRegression", "McMahanCNN", "ResNet18", "build_model", "check_model"]
