"""Put deliberate errors into algorithms and see whether the golden curves catch them.

    python experiments/faults/algorithm_faults.py
        all faults, two at a time; lists the caught and the missed
    python experiments/faults/algorithm_faults.py fedau
        faults whose name contains one of the words

Each fault changes one place of a copy of the package, and runs the convergence tests of the
algorithm against the golden curves. Exit code 1 if a fault is missed, or could not be put in.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from joblib import Parallel, delayed

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Fault:
    """name; file below fedsim/; old: text that stands there once; new: what takes its place; cases:
    convergence tests, for pytest -k."""

    name: str
    file: str
    old: str
    new: str
    cases: str


def algorithm(name: str, file: str, old: str, new: str, cases: str) -> Fault:
    return Fault(name, f"algorithms/{file}.py", old, new, cases)


FAULTS = [
    algorithm(
        "fedavg: sign of the update",
        "base",
        'return {"update": x - anchor}, state',
        'return {"update": anchor - x}, state',
        "server-fedavg-",
    ),
    algorithm(
        "fedavg: sizes forgotten",
        "fedavg",
        "heard.weight * reports.examples[heard.column]",
        "heard.weight * 1.0",
        "server-fedavg-",
    ),
    algorithm(
        "average_all: divided by the cohort",
        "fedavg",
        "weight = links.weight[heard.link]",
        "weight = heard.weight",
        "server-average_all",
    ),
    algorithm(
        "known_prob: multiplied by p",
        "fedavg",
        "weight = weight / np.where(",
        "weight = weight * np.where(",
        "server-known_prob",
    ),
    algorithm(
        "fedau: weight of the round itself",
        "fedau",
        "sent = w\n        omega[at], intervals[at], last[at] = (m * w + since) / (m + 1), m +"
        " 1, now",
        "omega[at], intervals[at], last[at] = (m * w + since) / (m + 1), m + 1, now\n        sent ="
        " omega[at]",
        "server-fedau",
    ),
    algorithm(
        "fedau: gap one round short",
        "fedau",
        "now - last[at]",
        "now - last[at] - 1",
        "server-fedau",
    ),
    algorithm(
        "fedau: intervals forgotten",
        "fedau",
        "(m * w + since) / (m + 1), m + 1, now",
        "(m * w + since) / (m + 1), m, now",
        "server-fedau",
    ),
    algorithm(
        "fedau: clock stands still",
        "fedau",
        "slice(None)] += 1",
        "slice(None)] += 0",
        "server-fedau",
    ),
    algorithm(
        "fedspeed: dual not kept",
        "fedspeed",
        '{"dual": dual}',
        '{"dual": state["dual"]}',
        "server-fedspeed",
    ),
    algorithm(
        "fedspeed: sign of the prox pull",
        "fedspeed",
        "pull=1 / self.prox",
        "pull=-1 / self.prox",
        "server-fedspeed",
    ),
    algorithm(
        "fedspeed: sign of the dual",
        "fedspeed",
        '(state["dual"] - anchor)',
        '(-state["dual"] - anchor)',
        "server-fedspeed",
    ),
    algorithm(
        "fedspeed: downhill instead of uphill",
        "fedspeed",
        "            radius=self.radius",
        "            radius=-self.radius",
        "server-fedspeed",
    ),
    algorithm(
        "fedspeed: mean dual not added",
        "fedspeed",
        'return {"mean_dual": mean_dual}, mean_dual',
        'return {"mean_dual": mean_dual}, None',
        "server-fedspeed",
    ),
    algorithm(
        "fedspeed: mean dual of the round before",
        "fedspeed",
        'return {"mean_dual": mean_dual}, mean_dual',
        'return {"mean_dual": mean_dual}, shared["mean_dual"]',
        "server-fedspeed or server-feddyn",
    ),
    algorithm(
        "variance: target is the own variance",
        "variance",
        "target = share * own",
        "target = own  # share * own",
        "graph-vc_gossip",
    ),
    algorithm(
        "variance: scale not rooted",
        "variance",
        "(wanted / variance).sqrt()",
        "(wanted / variance)",
        "graph-vc_gossip",
    ),
    algorithm(
        "fedprox: pushes away",
        "fedprox",
        "pull=self.strength, offset=-self.strength * anchor",
        "pull=-self.strength, offset=self.strength * anchor",
        "fedprox",
    ),
    algorithm(
        "scaffold: control variates swapped",
        "scaffold",
        'shared["mean_control"] - state["control"]',
        'state["control"] - shared["mean_control"]',
        "server-scaffold",
    ),
    algorithm(
        "scaffold: own control forgotten",
        "scaffold",
        '{"control": state["control"] + change}',
        '{"control": change}',
        "server-scaffold",
    ),
    algorithm(
        "scaffold: mean control forgotten",
        "scaffold",
        'shared["mean_control"] + mixed["control"]',
        'mixed["control"]',
        "server-scaffold",
    ),
    algorithm(
        "fedcm: sign of the momentum",
        "fedcm",
        "(-info.steps * info.rate)",
        "(info.steps * info.rate)",
        "fedcm",
    ),
    algorithm(
        "fedcm: shares swapped",
        "fedcm",
        "(1 - self.share) * shared",
        "self.share * shared",
        "fedcm or mofedsam",
    ),
    algorithm(
        "fedsmoo: ascent dual forgotten",
        "fedsmoo",
        'state["ascent"] + step - common',
        "step - common",
        "server-fedsmoo",
    ),
    algorithm(
        "fednova: multiplied by local work",
        "fednova",
        "weight * common[heard.receiver] / work",
        "weight * common[heard.receiver] * work / work.mean() ** 2",
        "server-fednova",
    ),
    algorithm(
        "mifa: memory forgotten",
        "mifa",
        '{"update": update}',
        '{"update": memory["update"]}',
        "server-mifa",
    ),
    algorithm(
        "mifa: only the round's differences",
        "mifa",
        'state["mean_update"] + mixed',
        "mixed",
        "server-mifa",
    ),
    algorithm(
        "fedvarp: mean of memories a round late",
        "fedvarp",
        '{"mean_update": mean + mixed * (info.heard / info.members)}',
        '{"mean_update": mean}',
        "server-fedvarp",
    ),
    algorithm(
        "fedvarp: difference averaged over everybody",
        "fedvarp",
        "(mixed + mean), base)",
        "(mixed * (info.heard / info.members) + mean), base)",
        "server-fedvarp",
    ),
    algorithm(
        "fedavgm: velocity forgotten",
        "server_optimizers",
        '{"velocity": velocity}',
        '{"velocity": mixed}',
        "server-fedavgm",
    ),
    algorithm(
        "fedadam: second moment from the update, not its square",
        "server_optimizers",
        "mixed.square()), state",
        "mixed.abs()), state",
        "server-fedadam",
    ),
    algorithm(
        "fedyogi: sign",
        "server_optimizers",
        "v - (1 - self.beta2) * square",
        "v + (1 - self.beta2) * square",
        "server-fedyogi",
    ),
    algorithm(
        "fedadagrad: second moment forgotten",
        "server_optimizers",
        "return v + square",
        "return square",
        "server-fedadagrad",
    ),
    algorithm(
        "median: one off",
        "robust",
        "trimmed_mean(updates, (len(updates) - 1) // 2)",
        "trimmed_mean(updates, (len(updates) - 1) // 2 - 1)",
        "median",
    ),
    algorithm(
        "krum: the farthest",
        "krum",
        "torch.argsort(scores(updates, counted), stable=True)",
        "torch.argsort(-scores(updates, counted), stable=True)",
        "krum",
    ),
    algorithm(
        "dsgt: gradient of the round before kept",
        "dsgt",
        '{"gradient": gradient}',
        '{"gradient": state["gradient"]}',
        "graph-dsgt",
    ),
    algorithm(
        "push-sum: weight not mixed",
        "push_sum",
        '{"weight": mixed["weight"]}',
        '{"weight": shared["weight"]}',
        "graph-push_sum",
    ),
    algorithm(
        "partitioned gossip: ages forgotten",
        "partitioned_gossip",
        "np.maximum.at(ages, (heard.receiver, part), age)",
        "pass",
        "graph-partitioned",
    ),
    algorithm(
        "greedy soup: worst first",
        "soup",
        "np.lexsort((losses, -accuracies))",
        "np.lexsort((losses, accuracies))",
        "server-greedy_soup",
    ),
    algorithm(
        "fisher: plain mean",
        "fisher",
        'return shared, (merged - mixed["update"]).where(heard, 0.0)',
        "return shared, None",
        "server-fisher",
    ),
    algorithm(
        "latest average: no average",
        "last_average",
        "return torch.where(kept > 0, mean, model)",
        "return model",
        "server-last_average",
    ),
    Fault(
        "momentum of Adam: second moment forgotten",
        "training/optimizers.py",
        'first, second, steps = state["first"], state["second"], state["steps"]\n        rows',
        'first, second, steps = state["first"], torch.zeros_like(state["second"]), state["steps"]\n'
        "        rows",
        "server-adam-",
    ),
    Fault(
        "schedule: a round late",
        "simulation/simulation.py",
        "schedule.factor(round, self.rounds)",
        "schedule.factor(max(round - 1, 0), self.rounds)",
        "linear",
    ),
    Fault(
        "gossip: mixing with the models of two rounds ago",
        "rounds/graph_mixing.py",
        "        self.receivers.settle(weighed.tick.receivers)\n",
        "        if weighed.tick.round % 2:\n           "
        " self.receivers.settle(weighed.tick.receivers)\n",
        "graph-gossip",
    ),
]


def inject(fault: Fault) -> tuple[Fault, str]:
    """caught, missed, or why the fault could not be put in."""
    with tempfile.TemporaryDirectory(prefix="fedsim-fault-") as folder:
        copy = Path(folder)
        for part in ("fedsim", "conf", "tests"):
            shutil.copytree(ROOT / part, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", copy)
        path = copy / "fedsim" / fault.file
        text = path.read_text() if path.exists() else ""
        if text.count(fault.old) != 1:
            return (
                fault,
                f"not put in: the text stands {text.count(fault.old)} times in {fault.file}",
            )
        path.write_text(text.replace(fault.old, fault.new))
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-x",
            "-p",
            "no:cacheprovider",
            "tests/convergence/test_curves.py",
        ]
        chosen = ["-k", f"test_the_curves_are_those_kept and ({fault.cases})"]
        environment = {**os.environ, "PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1"}
        run = subprocess.run(
            [*command, *chosen], cwd=copy, env=environment, capture_output=True, text=True
        )
        if run.returncode == 0:
            return fault, "missed"
        if run.returncode != 1:
            return fault, f"not put in: the tests ended with code {run.returncode}"
        off = re.search(r"E +(\S+/\S+ from round \d+).*off by (\S+) tolerances", run.stdout)
        return (
            fault,
            (
                f"caught: {off[1]}, off by {off[2]} tolerances"
                if off
                else "caught: " + run.stdout.strip().splitlines()[-2][:100]
            ),
        )


def main(words: list[str]) -> int:
    chosen = [fault for fault in FAULTS if not words or any(word in fault.name for word in words)]
    found = []
    for fault, result in Parallel(n_jobs=2, return_as="generator")(
        delayed(inject)(fault) for fault in chosen
    ):
        print(f"{fault.name:60} {result}", flush=True)
        found.append(result)
    caught = sum(result.startswith("caught") for result in found)
    missed = found.count("missed")
    print(
        f"{len(found)} faults: {caught} caught, {missed} missed, {len(found) - caught - missed} not"
        " put in"
    )
    return 0 if caught == len(found) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
