from .analysis import compare as compare, load_runs as load_runs, plot as plot
from .config import simulate as simulate, simulate_many as simulate_many
from .errors import ConfigError as ConfigError
from .simulation import Result as Result, Simulation as Simulation, run_together as run_together

__version__: str
