"""Client rules, aggregators and corrections, one file per algorithm."""

from fedsim.algorithms.base import COHORT, EVERYONE, MIXING, OTHERS, Aggregator, ClientRule, Correction, LocalInfo, Reports
from fedsim.algorithms.directions import Affine, dot, norm, uphill_gradient
from fedsim.algorithms.dp_fedavg import DpFedAvg
from fedsim.algorithms.dsgt import Dsgt
from fedsim.algorithms.fedau import FedAU
from fedsim.algorithms.fedavg import FedAvg, Sgd
from fedsim.algorithms.fedcm import FedCM
from fedsim.algorithms.fednova import FedNova
from fedsim.algorithms.fedprox import FedProx
from fedsim.algorithms.fedsam import FedSam
from fedsim.algorithms.fedsmoo import FedSmoo
from fedsim.algorithms.fedspeed import FedSpeed
from fedsim.algorithms.fedvarp import FedVarp
from fedsim.algorithms.fisher import FisherMerging
from fedsim.algorithms.krum import Krum
from fedsim.algorithms.last_average import LastAverage
from fedsim.algorithms.mifa import Mifa
from fedsim.algorithms.partitioned_gossip import PartitionedGossip
from fedsim.algorithms.push_sum import PushSum
from fedsim.algorithms.robust import Median, TrimmedMean
from fedsim.algorithms.scaffold import Scaffold
from fedsim.algorithms.server_optimizers import FedAdagrad, FedAdam, FedAvgM, FedYogi
from fedsim.algorithms.soup import GreedySoup
from fedsim.algorithms.variance import VarianceCorrection

__all__ = [
    "COHORT",
    "EVERYONE",
    "MIXING",
    "OTHERS",
    "Affine",
    "Aggregator",
    "ClientRule",
    "Correction",
    "DpFedAvg",
    "Dsgt",
    "FedAU",
    "FedAdagrad",
    "FedAdam",
    "FedAvg",
    "FedAvgM",
    "FedCM",
    "FedNova",
    "FedProx",
    "FedSam",
    "FedSmoo",
    "FedSpeed",
    "FedVarp",
    "FedYogi",
    "FisherMerging",
    "GreedySoup",
    "Krum",
    "LastAverage",
    "LocalInfo",
    "Median",
    "Mifa",
    "PartitionedGossip",
    "PushSum",
    "Reports",
    "Scaffold",
    "Sgd",
    "TrimmedMean",
    "VarianceCorrection",
    "dot",
    "norm",
    "uphill_gradient",
]
