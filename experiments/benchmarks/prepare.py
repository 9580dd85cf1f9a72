"""What all systems of a workload follow, written once: the data, the initial model, who takes part
in which round, and in which order.

    python prepare.py W2 [W1b ...]

Into `.work/WORKLOAD/`: data.npz, what fedsim reads; x.npy, y.npy, the same training examples by
client [N, n, ...] for the others, who map them; test.npz; plan.npz with
    initial     float32 [P], the model before the first round, parameter after parameter in
                torch's own order
    cohorts     int32 [R, S], clients of each round
    orders      int16 [R, S, n], positions in a client's shard, in the order in which they are used
    mean, std   what inputs are standardised with: (x / 255 - mean) / std
    receiver, sender, weight    links of the graph, one after the other (W3 only)
They come from fedsim's own functions, so that the others do what fedsim does, not the reverse.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from workloads import WORKLOADS, Workload, simulation, write_data

WORK = Path(__file__).parent / ".work"
ROUNDS = 40  # as many as any system runs


def prepared_folder(workload: Workload, afresh: bool = False) -> Path:
    """The folder of a workload, filled where it is not there yet, or afresh."""
    folder = WORK / workload.name
    if afresh or not (folder / "plan.npz").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        write_data(workload, folder / "data.npz")
        _write_parts(workload, folder)
        np.savez(folder / "plan.npz.part.npz", **_plan(workload, folder))
        (folder / "plan.npz.part.npz").rename(folder / "plan.npz")  # last: now all is there
    return folder


def _write_parts(workload: Workload, folder: Path) -> None:
    with np.load(folder / "data.npz") as data:
        shape = (workload.clients, workload.examples)
        np.save(folder / "x.npy", data["x"].reshape(*shape, *data["x"].shape[1:]))
        np.save(folder / "y.npy", data["y"].reshape(shape))
        np.savez(folder / "test.npz", x=data["x_test"], y=data["y_test"])


def _plan(workload: Workload, folder: Path) -> dict[str, np.ndarray]:
    from fedsim.models import build_model
    from fedsim.training.batches import draw_batches

    simulated = simulation(workload, folder / "data.npz", ROUNDS)
    prepared = simulated.prepare()
    task, dataset = prepared.task, prepared.task.dataset
    shards = task.shards.indices.reshape(workload.clients, workload.examples)
    if not np.array_equal(shards.ravel(), np.arange(shards.size)) or dataset.validation is not None:
        raise SystemExit(
            f"{workload.name}: fedsim's shards are not the clients' examples in the order of the"
            " file"
        )
    module = build_model(simulated.model, dataset.input_shape, dataset.outputs, simulated.seed, 0)
    cohorts, orders = [], []
    for round in range(ROUNDS):
        cohort = prepared.pattern.cohort(round)
        batches = draw_batches(task.shards, cohort, task.local, task.seed, round)
        used = [
            _in_order(index, count, shards[client])
            for index, count, client in zip(batches.index, batches.count, cohort, strict=True)
        ]
        cohorts.append(cohort)
        orders.append(used)
    plan = {
        "initial": (
            torch.cat([parameter.detach().reshape(-1) for parameter in module.parameters()]).numpy()
        ),
        "cohorts": np.array(cohorts, np.int32),
        "orders": np.array(orders, np.int16),
        "mean": dataset.mean,
        "std": dataset.std,
    }
    if workload.degree:
        links = prepared.plan.graph_links
        plan |= {"receiver": links.receiver, "sender": links.sender, "weight": links.weight}
    return plan


def _in_order(index: np.ndarray, count: np.ndarray, shard: np.ndarray) -> np.ndarray:
    """Positions in a shard that begins at shard[0], in the order of use. index: [K, B]; count: [K],
    examples that count in each batch."""
    return (
        np.concatenate([row[:number] for row, number in zip(index, count, strict=True)]) - shard[0]
    )


if __name__ == "__main__":
    for name in sys.argv[1:] or WORKLOADS:
        print(prepared_folder(WORKLOADS[name], afresh=True))
