"""Who trains, from which row, and who hears whom: at a server, over a graph, on a walk."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
