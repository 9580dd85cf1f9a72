"""What a run leaves behind: its folder, metric rows, checkpoints, loggers and the progress bar."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
