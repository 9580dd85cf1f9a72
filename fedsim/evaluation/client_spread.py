"""How differently one model serves the clients."""

from __future__ import annotations

import numpy as np

from fedsim.component import component
from fedsim.evaluation.metric import Look, Metric


@component
class ClientSpread(Metric):
    """Standard deviation and greatest of the clients' mean training losses (q-FFL, Li et al., ICLR
    2020, judges fairness by such a spread)."""

    def measure(self, look: Look) -> dict[str, float]:
        means = look.client_means(look.examples()[0])
        return {"client_loss_std": float(np.std(means)), "client_loss_max": float(means.max())}
