"""Where clients run: in process, or on Ray actors. Nothing else knows."""

from fedsim.engine.inprocess import InProcess

__all__ = ["InProcess"]
