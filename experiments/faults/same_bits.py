"""The same bytes whatever a run runs on: every preset of `algorithm=` in process, on Ray with 1, 2
and 4 workers, without shared memory, and interrupted and resumed with other workers.

    python experiments/faults/same_bits.py             all presets, some minutes
    python experiments/faults/same_bits.py fedau dsgt  presets whose name contains one of the words

A line for each preset; exit code 1 if the SHA-256 of the models or of the metric rows (times aside)
differs anywhere.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from fedsim.config.building import build
from fedsim.config.composition import compose
from fedsim.engine.inprocess import InProcess
from fedsim.engine.ray import Ray
from fedsim.recording.loggers import Logger
from fedsim.simulation.interruption import Interrupted
from fedsim.simulation.simulation import Simulation

PRESETS = sorted(
    path.stem for path in (Path(__file__).parents[2] / "conf" / "algorithm").glob("*.yaml")
)
TINY = [
    "partition.clients=14",
    "model.hidden=[8]",
    "rounds=6",
    "evaluation.every=2",
    "metrics=[objective]",
    "progress=false",
]
ENGINES = {
    "in process": InProcess(),
    **{f"{workers} workers": Ray(workers=workers) for workers in (1, 2, 4)},
}
ENGINES["2 workers, no shared memory"] = Ray(workers=2, shared_memory=False)


class StopsIn(Logger):
    """Sends this process SIGTERM when a round is recorded."""

    def __init__(self, round: int) -> None:
        self.round = round

    def rows(self, rows: Sequence) -> None:
        if rows and rows[-1]["round"] == self.round:
            self.round = -1
            os.kill(os.getpid(), signal.SIGTERM)


def simulation(preset: str) -> Simulation:
    participation = (
        []
        if preset.startswith("srrw")
        else ["participation=bernoulli", "participation.probability=0.5"]
    )
    tokens = ["protocol.tokens=5"] if preset.startswith("srrw") else []
    return build(compose([f"algorithm={preset}", *participation, *tokens, *TINY]))


def hashes(result) -> tuple[str, str]:
    return result.summary["model_sha256"], result.summary["metrics_sha256"]


def resumed(preset: str, engines: Sequence) -> tuple[str, str]:
    """The hashes of a run that is interrupted after round 2 and after round 4, each part on another
    engine."""
    with tempfile.TemporaryDirectory() as folder:
        for engine, stop in zip(engines[:-1], (2, 4), strict=True):
            part = simulation(preset)
            part.folder, part.engine, part.loggers = Path(folder) / "run", engine, [StopsIn(stop)]
            try:
                part.run(resume=stop > 2)
                raise RuntimeError("the run was not interrupted")
            except Interrupted:
                pass
        last = simulation(preset)
        last.folder, last.engine = Path(folder) / "run", engines[-1]
        return hashes(last.run(resume=True))


def main(words: list[str]) -> int:
    different = []
    chosen = [preset for preset in PRESETS if not words or any(word in preset for word in words)]
    for preset in chosen:
        found = {}
        for name, engine in ENGINES.items():
            part = simulation(preset)
            part.engine = engine
            found[name] = hashes(part.run())
        found["2 workers, in process, 1 worker"] = resumed(
            preset, [ENGINES["2 workers"], ENGINES["in process"], ENGINES["1 workers"]]
        )
        other = [name for name, value in found.items() if value != found["in process"]]
        print(
            f"{preset:24} {found['in process'][0][:12]} "
            f" {'differs: ' + ', '.join(other) if other else 'the same everywhere'}",
            flush=True,
        )
        different += [preset] if other else []
    print(f"{len(chosen)} presets, {len(ENGINES) + 1} ways each: {len(different)} differ")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
