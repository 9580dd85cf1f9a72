"""fedsim and its peers on the same work, in turn, several times: python bench.py --parts W2lr W2
--repeats 5

--parts: workloads (by default all five, and roofline before them); roofline, variants, growth,
cohorts: the scripts of those names; all.

Repeat 1 of all systems, then repeat 2 of all, ...: each launch in a process of its own, on a
machine that does nothing else. One line of JSON for each launch goes to results/launches.jsonl,
where the lines of the workloads that are run replace those of an earlier run; `tables.py` makes the
tables of them. Before that each system's first round is checked against the plain loop's, and after
each launch its last model. Exit code 1 if anything failed or differed.

    --systems fedsim plain     only systems whose name begins with one of these words
    --rounds, --repeats
        smaller ones try the machinery out; give --results another folder then
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from competitors import ALL, BASE, REFERENCE, System
from launching import launch
from lines_of import replace_lines
from prepare import WORK, prepared_folder
from sameness import compare, models_of
from workloads import WORKLOADS, Workload

RESULTS = Path(__file__).parent / "results"
SCRIPTS = ("roofline", "variants", "growth", "cohorts")
LIMIT = 300.0  # seconds for one launch
EVERY = 10  # rounds between fedsim's evaluations: a tenth of one counts as part of each round


def seconds_per_round(result: dict) -> float:
    """Of the whole loop after the first round, with its share of evaluation where the system
    evaluates."""
    return sum(result["seconds"]) / len(result["seconds"]) + result.get("evaluation", 0.0) / EVERY


def run_launch(
    system: System, workload: Workload, prepared: Path, rounds: int | None
) -> tuple[dict, Path]:
    folder = WORK / "launch" / f"{workload.name}-{ALL.index(system)}"
    settings = system.all_settings(workload, rounds)
    try:
        command = system.command()
    except (subprocess.CalledProcessError, OSError) as error:
        return {"error": "its environment cannot be made", "log": str(error)}, folder
    return launch(command, folder, prepared, settings, LIMIT), folder


class Part:
    """All launches of one workload."""

    def __init__(self, workload: Workload, systems: Sequence[System], rounds: int | None) -> None:
        self.workload, self.rounds, self.prepared = (
            workload,
            rounds,
            prepared_folder(workload, afresh=True),
        )
        self.systems = [system for system in systems if system.runs(workload)]
        self.reference: dict[int, object] = {}
        self.first_models: dict[str, dict] = {}
        self.launches: list[dict] = []

    def begin(self) -> bool:
        """The plain loop's models of all rounds, and one round of those that do not leave their
        first model; whether all went well."""
        plain = next(system for system in ALL if system.name == REFERENCE)
        longest = max(
            system.rounds_on(self.workload, self.rounds) for system in (*self.systems, plain)
        )
        result, folder = run_launch(plain, self.workload, self.prepared, longest)
        if "error" in result:
            print(
                f"{self.workload.name} {REFERENCE}: {result['error']}\n{result.get('log', '')}",
                flush=True,
            )
            return False
        self.reference = models_of(folder)
        if self.workload.degree:  # nodes' mean after the first and the last round
            self.reference = {1: self.reference[1], longest: self.reference[longest]}
        for system in self.systems:
            if system.script == "run_fedsim.py" and self.workload.image:
                result, folder = run_launch(system, self.workload, self.prepared, 1)
                self.first_models[system.name] = {} if "error" in result else models_of(folder)
        return True

    def repeat(self, number: int) -> bool:
        """One launch of each system; whether all went well."""
        good = True
        for system in self.systems:
            result, folder = run_launch(system, self.workload, self.prepared, self.rounds)
            line = {
                "workload": self.workload.name,
                "system": system.name,
                "repeat": number,
                **result,
            }
            if "error" not in result:
                models = self.first_models.get(system.name, {}) | models_of(folder)
                verdict = compare(self.workload, self.prepared, models, self.reference)
                line |= {
                    "per_round": seconds_per_round(result),
                    "steps": self.workload.steps,
                    **vars(verdict),
                }
                told = result.get("told")
                # What fedsim itself says of its last model
                line["same"] &= told is None or abs(told - verdict.accuracy) < 0.0011
            good &= line.get("same", False)
            print(_shown(line), flush=True)
            line.pop("log", None)  # full of paths of this machine
            self.launches.append(line)
        return good


def _shown(line: dict) -> str:
    head = f"{time.strftime('%H:%M:%S')} {line['workload']:5}{line['repeat']:2} {line['system']:28}"
    if "error" in line:
        return f"{head} FAILED: {line['error']}\n{line.get('log', '')}"
    judged = "same" if line["same"] else "DIFFERS"
    return (
        f"{head}{1000 * line['per_round']:9.1f} ms a round, first round done at"
        f" {line['first']:5.1f} s, {line['pss']:5.0f} MB, {line['whole']:5.1f} s in all; {judged}:"
        f" {line['first_difference']:.1e}, {line['last_difference']:.1e}, {line['accuracy']:.4f}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--parts",
        nargs="+",
        choices=[*SCRIPTS, *WORKLOADS, "all"],
        default=["roofline", *WORKLOADS],
    )
    parser.add_argument("--systems", nargs="+", default=[""])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    started = time.perf_counter()
    torch.set_num_threads(1)
    systems = [
        system
        for system in ALL
        if any(system.name.startswith(word) for word in (*options.systems, BASE))
    ]
    options.results.mkdir(parents=True, exist_ok=True)
    good, parts = True, [*WORKLOADS, *SCRIPTS] if "all" in options.parts else options.parts
    for name in [name for name in SCRIPTS if name in parts]:
        good &= run_script(
            name,
            ["--results", str(options.results)]
            + (["--repeats", str(options.repeats)] if name == "variants" else []),
        )
    for name in [name for name in WORKLOADS if name in parts]:
        part = Part(WORKLOADS[name], systems, options.rounds)
        good &= part.begin() and all(
            [part.repeat(number) for number in range(1, options.repeats + 1)]
        )
        replace_lines(options.results / "launches.jsonl", ("workload",), part.launches)
    good &= run_script(
        "tables",
        ["--results", str(options.results)] + (["--readme"] if options.results == RESULTS else []),
    )
    print(f"{(time.perf_counter() - started) / 60:.1f} minutes", flush=True)
    return 0 if good else 1


def run_script(name: str, arguments: list[str]) -> bool:
    print(f"{time.strftime('%H:%M:%S')} {name}", flush=True)
    return (
        subprocess.run([sys.executable, str(RESULTS.parent / f"{name}.py"), *arguments]).returncode
        == 0
    )


if __name__ == "__main__":
    sys.exit(main())
