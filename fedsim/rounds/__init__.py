"""One tick: train, screen, weigh, mix, step; with the jobs and the worker that does them."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
