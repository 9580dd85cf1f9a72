"""From recorded runs to tables, curves, golden curves and tuned step sizes."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
