"""Learning rates over rounds. A schedule's factor multiplies `local.rate` in every local step of a round.

`decays` and `power` hold those with a closed form, `refined` the one that is computed from the norms that a run recorded.
"""

from fedsim.schedules.decays import REX, UBA, Constant, Cosine, Exponential, Linear, Schedule, Step
from fedsim.schedules.power import Power
from fedsim.schedules.refined import Refined

__all__ = ["REX", "UBA", "Constant", "Cosine", "Exponential", "Linear", "Power", "Refined", "Schedule", "Step"]
