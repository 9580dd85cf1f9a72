from .batched_seeds import run_together as run_together
from .interruption import Interrupted as Interrupted
from .result import Result as Result
from .simulation import Simulation as Simulation
