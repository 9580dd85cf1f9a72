"""fedsim with its run folder, metrics and evaluation on, as a user has it. What the clock says of a
round includes all but evaluation."""

from __future__ import annotations

import sys
import time
from pathlib import Path

# first, as in the command line: it imports torch faster
from fedsim.engine.inprocess import InProcess
from fedsim.recording.loggers import Logger

# isort: split
import torch
from common import FOLDER, PREPARED, SETTINGS, Clock

sys.path.insert(0, str(Path(__file__).parent.parent))

from workloads import WORKLOADS, simulation  # noqa: E402


class Watch(Logger):
    """Hears of every round and every evaluation when its rows are written."""

    def __init__(self, clock: Clock) -> None:
        self.clock, self.round, self.evaluating, self.evaluations = clock, 0, [0.0], 0
        # What the evaluation after the last round took, which the clock did not see
        self.last = 0.0

    def rows(self, rows) -> None:
        number, found = (
            rows[0]["round"],
            {row["metric"]: row["value"] for row in rows if row["scope"] == "run"},
        )
        if "seconds_evaluating" in found:
            self.evaluating.append(found["seconds_evaluating"] - sum(self.evaluating))
            if self.round == 0:
                return
            self.evaluations += 1
            self.clock.since += 0.0 if number == self.clock.rounds else self.evaluating[-1]
        elif number > self.round:
            self.round = number
            self.clock.round_done()


def main() -> None:
    workload, rounds, clock = (
        WORKLOADS[SETTINGS["workload"]],
        SETTINGS["rounds"],
        Clock(SETTINGS["rounds"]),
    )
    if SETTINGS["engine"] == "ray":
        from fedsim.engine.ray import Ray

        engine = Ray(workers=SETTINGS["processes"])
    else:
        engine = InProcess()
    torch.set_num_threads(1)
    watch = Watch(clock)
    changes = {"engine": engine, "loggers": [watch], "folder": FOLDER / "run"}
    result = simulation(workload, PREPARED / "data.npz", rounds, **changes).run()
    model = torch.cat([tensor.reshape(-1) for tensor in result.model.values()])
    # The first of `evaluating` stands for the start, the second is of the initial model
    later = watch.evaluating[2:]
    rows = result.metrics
    judged = rows[rows["scope"].isin(["server", "mean_model"]) & (rows["metric"] == "accuracy")]
    facts = {
        "told": float(judged["value"].iloc[-1]),
        "evaluation": sum(later) / max(len(later), 1),
        "evaluations": len(later),
    }
    clock.write({rounds: model}, **facts, finished=time.time())


if __name__ == "__main__":
    main()
