from .base import (
    COHORT as COHORT,
    EVERYONE as EVERYONE,
    MIXING as MIXING,
    OTHERS as OTHERS,
    Aggregator as Aggregator,
    ClientRule as ClientRule,
    Correction as Correction,
    LocalInfo as LocalInfo,
    Reports as Reports,
    RoundInfo as RoundInfo,
    Setting as Setting,
)
from .directions import (
    Affine as Affine,
    dot as dot,
    norm as norm,
    uphill_gradient as uphill_gradient,
)
from .dp_fedavg import DpFedAvg as DpFedAvg
from .dsgt import Dsgt as Dsgt
from .fedau import FedAU as FedAU
from .fedavg import (
    FedAvg as FedAvg,
    Sgd as Sgd,
)
from .fedcm import FedCM as FedCM
from .fednova import FedNova as FedNova
from .fedprox import FedProx as FedProx
from .fedsam import FedSam as FedSam
from .fedsmoo import FedSmoo as FedSmoo
from .fedspeed import FedSpeed as FedSpeed
from .fedvarp import FedVarp as FedVarp
from .fisher import FisherMerging as FisherMerging
from .krum import Krum as Krum
from .last_average import LastAverage as LastAverage
from .mifa import Mifa as Mifa
from .partitioned_gossip import PartitionedGossip as PartitionedGossip
from .push_sum import PushSum as PushSum
from .robust import (
    Median as Median,
    TrimmedMean as TrimmedMean,
)
from .scaffold import Scaffold as Scaffold
from .server_optimizers import (
    FedAdagrad as FedAdagrad,
    FedAdam as FedAdam,
    FedAvgM as FedAvgM,
    FedYogi as FedYogi,
)
from .soup import GreedySoup as GreedySoup
from .variance import VarianceCorrection as VarianceCorrection
