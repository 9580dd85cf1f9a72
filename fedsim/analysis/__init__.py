"""Finished runs: one tidy table, comparisons over seeds, and pictures."""

from fedsim.analysis.compare import Comparison, compare
from fedsim.analysis.curves import plot, plot_comparison, run_curves
from fedsim.analysis.runs import failed_runs, label_of, load_runs
from fedsim.analysis.targets import rounds_per_node, rounds_to_target

__all__ = [
    "Comparison",
    "compare",
    "failed_runs",
    "label_of",
    "load_runs",
    "plot",
    "plot_comparison",
    "rounds_per_node",
    "rounds_to_target",
    "run_curves",
]
