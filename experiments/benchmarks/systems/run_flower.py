"""Flower's simulation on Ray, by its own FedAvg. `flower_app.py` holds its apps."""

from __future__ import annotations

from common import SETTINGS, Plan
from flower_app import client_app, server_app
from flwr.simulation import run_simulation


def main() -> None:
    session = {
        "num_cpus": SETTINGS["processes"],
        "logging_level": "ERROR",
        "log_to_driver": False,
        "include_dashboard": False,
    }
    resources = {"num_cpus": SETTINGS["cpus_per_client"], "num_gpus": 0.0}
    run_simulation(
        server_app=server_app,
        client_app=client_app,
        num_supernodes=len(Plan.read().x),
        backend_config={"client_resources": resources, "init_args": session},
    )


if __name__ == "__main__":
    main()
