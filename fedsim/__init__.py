"""fedsim: a simulator of federated and gossip learning over many clients with differently
distributed data."""

from typing import Any

import lazy_loader

# Names are imported at first use, so that `import fedsim` takes no time and needs neither Hydra nor
# Ray
_imported, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("fedsim")
    if name not in __all__:
        raise AttributeError(f"module 'fedsim' has no attribute {name!r}")
    return _imported(name)
