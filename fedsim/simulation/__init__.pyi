from .interruption import Interrupted as Interrupted
from .result import Result as Result
from .seeds import run_together as run_together
from .simulation import Simulation as Simulation
