"""The objective that federated averaging with equal weights minimises."""

from __future__ import annotations

from fedsim.component import component
from fedsim.evaluation.metric import Look, Metric


@component
class Objective(Metric):
    """Mean over clients with data of the client's mean training loss: f of Wang & Ji (ICLR
    2024)."""

    def measure(self, look: Look) -> dict[str, float]:
        losses, _ = look.examples()
        return {"objective": float(look.client_means(losses).mean())}
