"""Who is measured on which workload, how often, and with what settings."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path

from environments import python_of
from workloads import Workload

SYSTEMS = Path(__file__).parent / "systems"
# The first is not in the seconds per round
ROUNDS = {"W2lr": 20, "W2": 20, "W1b": 8, "W1": 4, "W3": 20}
# Its rounds of small models take many times as long
FLOWER_ROUNDS = {"W2lr": 5, "W2": 5, "W1b": 6, "W1": 3}
FLUKE_ROUNDS = {"W2lr": 8, "W2": 8, "W1b": 4}
REFERENCE = "plain loop, 1 process"  # whose models all others are compared with
BASE = "fedsim on Ray, 2 workers"  # what ratios are of


@dataclass(frozen=True)
class System:
    """name: in the tables; script: in systems/; peer: whose environment it runs in, None: fedsim's
    own; settings: of the script; torchrun: processes to start through it; rounds: fewer rounds by
    workload; workloads: where it is measured, None: everywhere."""

    name: str
    script: str
    peer: str | None = None
    settings: dict = field(default_factory=dict)
    torchrun: int = 0
    rounds: dict[str, int] = field(default_factory=dict)
    workloads: tuple[str, ...] | None = None

    def runs(self, workload: Workload) -> bool:
        return self.workloads is None or workload.name in self.workloads

    def rounds_on(self, workload: Workload, rounds: int | None = None) -> int:
        return rounds or self.rounds.get(workload.name) or ROUNDS[workload.name]

    def command(self) -> list[str]:
        """The command line. Raises CalledProcessError where the peer's environment cannot be
        made."""
        python = python_of(self.peer) if self.peer else Path(sys.executable)
        through = (
            ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(self.torchrun)]
            if self.torchrun
            else []
        )
        return [str(python), *through, str(SYSTEMS / self.script)]

    def all_settings(self, workload: Workload, rounds: int | None = None) -> dict:
        common = {
            "workload": workload.name,
            "model": workload.model,
            "batch": workload.batch,
            "rounds": self.rounds_on(workload, rounds),
        }
        return {**common, "processes": 1, **self.settings}


SERVER = ("W2lr", "W2", "W1b", "W1")
FLOWER = {"script": "run_flower.py", "peer": "flower", "rounds": FLOWER_ROUNDS}
ALL = (
    System(BASE, "run_fedsim.py", settings={"engine": "ray", "processes": 2}),
    System("fedsim in process", "run_fedsim.py", settings={"engine": "inprocess"}),
    System(
        "Flower, num_cpus=1",
        **FLOWER,
        settings={"processes": 2, "cpus_per_client": 1.0},
        workloads=SERVER,
    ),
    # Its best there alone
    System(
        "Flower, num_cpus=0.5",
        **FLOWER,
        settings={"processes": 2, "cpus_per_client": 0.5},
        workloads=("W2",),
    ),
    System(
        "pfl-research, 2 processes",
        "run_pfl.py",
        peer="pfl",
        settings={"processes": 2},
        torchrun=2,
        workloads=SERVER,
    ),
    System(
        "fluke, 1 process", "run_fluke.py", peer="fluke", rounds=FLUKE_ROUNDS, workloads=SERVER[:3]
    ),
    System("plain loop, 2 processes", "plain.py", settings={"processes": 2}, workloads=SERVER),
    System(REFERENCE, "plain.py"),
)
