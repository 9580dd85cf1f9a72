"""fedsim: a simulator of federated and gossip learning over many clients with differently distributed data."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedsim.analysis import compare, load_runs, plot
    from fedsim.config.simulate import simulate, simulate_many
    from fedsim.errors import ConfigError
    from fedsim.simulation import Result, Simulation
    from fedsim.together import run_together

    __version__: str

__all__ = [
    "ConfigError",
    "Result",
    "Simulation",
    "__version__",
    "compare",
    "load_runs",
    "plot",
    "run_together",
    "simulate",
    "simulate_many",
]

_HOMES = {  # imported at first use, so that `import fedsim` takes no time
    "ConfigError": "fedsim.errors",
    "Result": "fedsim.simulation",
    "Simulation": "fedsim.simulation",
    "compare": "fedsim.analysis",
    "load_runs": "fedsim.analysis",
    "plot": "fedsim.analysis",
    "run_together": "fedsim.together",
    "simulate": "fedsim.config.simulate",
    "simulate_many": "fedsim.config.simulate",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("fedsim")
    if name not in _HOMES:
        raise AttributeError(f"module 'fedsim' has no attribute {name!r}")
    from fedsim.imports import without_collections

    with without_collections():
        found = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = found  # asked for once
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
