from .base import (
    Participation as Participation,
    Pattern as Pattern,
    Population as Population,
)
from .bernoulli import Bernoulli as Bernoulli
from .cyclic import Cyclic as Cyclic
from .markov import Markov as Markov
from .probabilities import ClientProbabilities as ClientProbabilities
from .trace import Trace as Trace
from .uniform import (
    Full as Full,
    Uniform as Uniform,
)
