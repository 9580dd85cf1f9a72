"""Measures beyond loss and accuracy, one file each."""

from fedsim.metrics.base import Look, Metric
from fedsim.metrics.client_spread import ClientSpread
from fedsim.metrics.distance_to_optimum import DistanceToOptimum
from fedsim.metrics.objective import Objective

__all__ = ["ClientSpread", "DistanceToOptimum", "Look", "Metric", "Objective"]
