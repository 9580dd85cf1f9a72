from .directed_graphs import (
    Exponential as Exponential,
    RandomOut as RandomOut,
)
from .links import (
    Heard as Heard,
    Links as Links,
)
from .mixing import (
    Metropolis as Metropolis,
    Mixing as Mixing,
    OwnShare as OwnShare,
    Push as Push,
    Uniform as Uniform,
)
from .topology import (
    BarabasiAlbert as BarabasiAlbert,
    Complete as Complete,
    ErdosRenyi as ErdosRenyi,
    GraphFile as GraphFile,
    RandomRegular as RandomRegular,
    Ring as Ring,
    SmallWorld as SmallWorld,
    Star as Star,
    StochasticBlocks as StochasticBlocks,
    Topology as Topology,
    Torus as Torus,
    second_largest_modulus as second_largest_modulus,
    spectral_gap as spectral_gap,
)
