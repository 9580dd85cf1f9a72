"""Where clients run: in process, or on Ray actors. Nothing else knows."""

from fedsim.imports import without_collections

with without_collections():  # the first that a worker's process imports
    from fedsim.engine.inprocess import InProcess

__all__ = ["InProcess"]
