"""Where clients run: in process, or on Ray actors. Nothing else knows."""

from fedsim.imports import without_collections

with without_collections():  # the first that a Ray worker imports of fedsim
    from fedsim.engine.inprocess import InProcess

__all__ = ["InProcess"]
