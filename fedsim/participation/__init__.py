"""Who takes part in a round: settings that, bound to a population and a seed, give cohorts with known true probabilities."""

from fedsim.participation.base import Participation, Pattern, Population
from fedsim.participation.bernoulli import Bernoulli
from fedsim.participation.cyclic import Cyclic
from fedsim.participation.markov import Markov
from fedsim.participation.probabilities import ClientProbabilities
from fedsim.participation.trace import Trace
from fedsim.participation.uniform import Full, Uniform

__all__ = [
    "Bernoulli",
    "ClientProbabilities",
    "Cyclic",
    "Full",
    "Markov",
    "Participation",
    "Pattern",
    "Population",
    "Trace",
    "Uniform",
]
