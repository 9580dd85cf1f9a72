"""Data sets as arrays, and their partition among clients."""

from fedsim.data.bundled import Digits, Synthetic
from fedsim.data.dataset import Dataset, DataSource, Split
from fedsim.data.images import CIFAR10, MNIST, FashionMNIST
from fedsim.data.natural import Har, HeartDisease, MnistWriters, Shakespeare
from fedsim.data.svmlight import SvmLight
from fedsim.data.user import Npz

__all__ = [
    "CIFAR10",
    "DataSource",
    "Dataset",
    "Digits",
    "FashionMNIST",
    "Har",
    "HeartDisease",
    "MNIST",
    "MnistWriters",
    "Npz",
    "Shakespeare",
    "Split",
    "SvmLight",
    "Synthetic",
]
