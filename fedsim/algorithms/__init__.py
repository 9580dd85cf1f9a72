"""Client rules, aggregators and corrections, one file per algorithm."""

from fedsim.algorithms.base import COHORT, EVERYONE, OTHERS, Aggregator, ClientRule, Correction, LocalInfo, Reports, dot, norm
from fedsim.algorithms.fedau import FedAU
from fedsim.algorithms.fedavg import FedAvg, Sgd
from fedsim.algorithms.fedspeed import FedSpeed
from fedsim.algorithms.variance import VarianceCorrection

__all__ = [
    "COHORT",
    "EVERYONE",
    "OTHERS",
    "Aggregator",
    "ClientRule",
    "Correction",
    "FedAU",
    "FedAvg",
    "FedSpeed",
    "LocalInfo",
    "Reports",
    "Sgd",
    "VarianceCorrection",
    "dot",
    "norm",
]
