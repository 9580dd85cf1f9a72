from .decays import (
    REX as REX,
    UBA as UBA,
    Constant as Constant,
    Cosine as Cosine,
    Exponential as Exponential,
    Linear as Linear,
    Schedule as Schedule,
    Step as Step,
)
from .power import Power as Power
from .refined import Refined as Refined
