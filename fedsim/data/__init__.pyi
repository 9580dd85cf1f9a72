from .bundled import (
    Digits as Digits,
    Synthetic as Synthetic,
)
from .dataset import (
    Dataset as Dataset,
    DataSource as DataSource,
    Split as Split,
)
from .images import (
    CIFAR10 as CIFAR10,
    MNIST as MNIST,
    FashionMNIST as FashionMNIST,
)
from .natural import (
    Har as Har,
    HeartDisease as HeartDisease,
    MnistWriters as MnistWriters,
    Shakespeare as Shakespeare,
)
from .partition import (
    Dirichlet as Dirichlet,
    DirichletPrior as DirichletPrior,
    Iid as Iid,
    Natural as Natural,
    Partition as Partition,
    Pathological as Pathological,
    Quantity as Quantity,
)
from .shards import Shards as Shards
from .svmlight import SvmLight as SvmLight
from .user import Npz as Npz
