"""The kernel that trains a run's model: what `fedsim.kernels` has, where that folder is there."""

from importlib.util import find_spec

from fedsim.training.execution import WORTH_A_CALL, clients_per_call, gradient_kernel

if find_spec("fedsim.kernels") is not None:
    import fedsim.kernels  # noqa: F401 (it registers what it has)

__all__ = ["WORTH_A_CALL", "clients_per_call", "gradient_kernel"]
