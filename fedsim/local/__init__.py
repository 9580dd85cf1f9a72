"""Local training: batches, gradients and the loop over local steps."""

from fedsim.local.settings import LocalTraining

__all__ = ["LocalTraining"]
