"""What algorithms, shard sizes, executions and mixing cost beside each other: python variants.py
[--only PART ...]

    rules       FedProx and FedSpeed against FedAvg on W2, W1b and W1 (there with cohorts of 4), in
                process
    ragged      shards of log-normal sizes (sigma 1) against equal ones on W2, seconds per local
                step, in process and on 2 Ray workers
    execution   one client at a time against several in one batched call, W2, in process
    mixing      10,000 nodes of degree 8 with 50,890 parameters against moving 2 x 4 bytes of each
                parameter once (needs 9 GB; --nodes)
    means       each means of being fast: with it and without, on the workloads that it is meant for
    evaluations the same of evaluations
    overlap     what planning and evaluating beside training could bring at most, on 2 Ray workers
    sweep       8 short runs one after the other against two at a time, in process
    seeds       ten runs that differ in the seed: one after the other, trained together, and both in
                two processes

Everything that is compared runs in turn, repeat by repeat, in this process (sweeps: in processes of
their own).
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np  # noqa: E402
import torch  # noqa: E402
from lines_of import read, replace_lines  # noqa: E402
from means import ALWAYS, EVALUATION_MEANS, MEANS, Residual  # noqa: E402
from mixing_speed import measure_mixing  # noqa: E402
from overlap import FIRST, OVERLAPS, Stamps  # noqa: E402
from prepare import WORK, prepared_folder  # noqa: E402
from statistics_of import Median, ratios  # noqa: E402
from timing import RoundClock  # noqa: E402
from workloads import RATE, WORKLOADS, Workload, simulation, write_data  # noqa: E402

from fedsim.algorithms import FedProx, FedSpeed, Sgd  # noqa: E402
from fedsim.engine.inprocess import InProcess  # noqa: E402
from fedsim.engine.ray import Ray  # noqa: E402
from fedsim.evaluation.evaluator import Evaluation  # noqa: E402
from fedsim.training import LocalTraining  # noqa: E402
from fedsim.training.batches import local_steps  # noqa: E402

ROUNDS = {"W2": 15, "W1b": 6, "W1": 3, "residual": 40}  # the first is not counted
RAGGED = WORK / "ragged.npz"
UNITS = {
    "ragged": ("µs a step", 1e6),
    "sweep": ("s", 1.0),
    "seeds": ("s", 1.0),
    "evaluations": ("ms each", 1e3),
}
Times = dict[str, list[float]]  # seconds of each repeat


def seconds(workload: Workload, rounds: int, data: Path | None = None, **changes) -> float:
    """Mean seconds of a round."""
    clock = RoundClock()
    data = data or prepared_folder(WORKLOADS[workload.name]) / "data.npz"
    simulation(
        workload,
        data,
        rounds,
        **{"evaluation": Evaluation(every=rounds), "loggers": [clock], **changes},
    ).run()
    return clock.mean


def interleaved(variants: dict[str, Callable[[], float]], repeats: int) -> Times:
    found: Times = {name: [] for name in variants}
    for repeat in range(repeats):
        for name, variant in variants.items():
            found[name].append(variant())
            print(
                f"{time.strftime('%H:%M:%S')} {repeat + 1} {name}: {found[name][-1]:.5f}",
                flush=True,
            )
    return found


def rules(repeats: int, rounds: dict[str, int]) -> list[dict]:
    lines = []
    for name in ("W2", "W1b", "W1"):
        workload = replace(WORKLOADS[name], cohort=4) if name == "W1" else WORKLOADS[name]
        kinds = {"FedAvg": Sgd, "FedProx": FedProx, "FedSpeed": FedSpeed}
        variants = {
            kind: lambda make=make, w=workload: seconds(w, rounds[w.name], client=make())
            for kind, make in kinds.items()
        }
        lines.append(
            {
                "part": "rules",
                "what": name,
                "base": "FedAvg",
                "times": interleaved(variants, repeats),
            }
        )
    return lines


def ragged_sizes(clients: int, batch: int, steps: int) -> np.ndarray:
    """Log-normal shard sizes (sigma 1) that make so many local steps of all clients together."""
    draws = np.random.default_rng(1).lognormal(0.0, 1.0, clients)
    low, high = 0.1, 10.0 * batch * steps / clients
    while high - low > 1e-6:
        middle = (low + high) / 2
        low, high = (middle, high) if steps_of(draws, middle, batch) <= steps else (low, middle)
    return np.maximum(np.rint(draws * low), 1).astype(np.int64)


def ragged_data() -> np.ndarray:
    """Write W2 with unequal shards; their sizes."""
    workload = WORKLOADS["W2"]
    sizes = ragged_sizes(
        workload.clients, workload.batch, workload.clients * workload.examples // workload.batch
    )
    RAGGED.parent.mkdir(exist_ok=True)
    write_data(workload, RAGGED, sizes)
    return sizes


def steps_of(draws: np.ndarray, scale: float, batch: int) -> int:
    return int(-(-np.maximum(np.rint(draws * scale), 1) // batch).sum())


def ragged(repeats: int, rounds: dict[str, int]) -> list[dict]:
    """Seconds per local step: the cohorts of unequal clients have more steps in one round and fewer
    in another."""
    workload, lines, sizes = WORKLOADS["W2"], [], ragged_data()
    files = {"equal sizes": prepared_folder(workload) / "data.npz", "log-normal sizes": RAGGED}
    per_round = {name: mean_steps(workload, file, rounds["W2"]) for name, file in files.items()}
    for engine, make in (("in process", InProcess), ("on 2 Ray workers", lambda: Ray(workers=2))):
        variants = {
            name: lambda file=file, name=name, make=make: (
                seconds(workload, rounds["W2"], file, engine=make()) / per_round[name]
            )
            for name, file in files.items()
        }
        facts = {"steps": per_round, "greatest": int(sizes.max()), "examples": int(sizes.sum())}
        lines.append(
            {
                "part": "ragged",
                "what": engine,
                "base": "equal sizes",
                "times": interleaved(variants, repeats),
                **facts,
            }
        )
    return lines


def mean_steps(workload: Workload, file: Path, rounds: int) -> float:
    """Local steps of a round, over the rounds that are timed."""
    prepared = simulation(workload, file, rounds).prepare()
    sizes = prepared.task.shards.sizes
    steps = [
        int(local_steps(sizes[prepared.pattern.cohort(round)], prepared.task.local).sum())
        for round in range(rounds)
    ]
    return float(np.mean(steps[1:]))


def execution(repeats: int, rounds: dict[str, int]) -> list[dict]:
    workload = WORKLOADS["W2"]

    def local(how: str) -> LocalTraining:
        return LocalTraining(
            steps=None, epochs=1, batch_size=workload.batch, rate=RATE, execution=how
        )

    variants = {
        how: lambda how=how: seconds(workload, rounds["W2"], local=local(how))
        for how in ("stacked", "looped")
    }
    return [
        {
            "part": "execution",
            "what": "W2",
            "base": "stacked",
            "times": interleaved(variants, repeats),
        }
    ]


def means(repeats: int, rounds: dict[str, int], words: Sequence[str] = ()) -> list[dict]:
    """words: of the means, if not all are measured."""
    ragged_data()
    lines = []
    for what, (names, engine, without) in MEANS.items():
        if words and not any(word in what for word in words):
            continue
        for name in names:
            workload = WORKLOADS.get(name, WORKLOADS["W2"])
            workload = replace(workload, cohort=4) if name == "W1" else workload
            data, count = RAGGED if name == "ragged" else None, rounds.get(name, rounds["W2"])
            model = {"model": Residual} if name == "residual" else {}

            def one(
                patched: bool,
                w=workload,
                d=data,
                n=count,
                model=model,
                engine=engine,
                what=what,
                without=without,
            ) -> float:
                with (
                    ALWAYS.get(what, contextlib.nullcontext)(),
                    without() if patched else contextlib.nullcontext(),
                ):
                    return seconds(w, n, d, engine=engine(), **model)

            variants = {"with": lambda one=one: one(False), "without": lambda one=one: one(True)}
            lines.append(
                {
                    "part": "means",
                    "what": f"{what}, {name}",
                    "base": "with",
                    "times": interleaved(variants, repeats),
                }
            )
    return lines


def evaluations(repeats: int, rounds: dict[str, int]) -> list[dict]:
    """What means of fast evaluations bring."""
    lines = []
    for what, (names, without) in EVALUATION_MEANS.items():
        for name in names:

            def one(patched: bool, name=name, what=what, without=without) -> float:
                clock, data = RoundClock(), prepared_folder(WORKLOADS[name]) / "data.npz"
                workload = (
                    replace(WORKLOADS[name], cohort=1)
                    if not WORKLOADS[name].degree
                    else WORKLOADS[name]
                )
                with (
                    ALWAYS.get(what, contextlib.nullcontext)(),
                    without() if patched else contextlib.nullcontext(),
                ):
                    simulation(
                        workload,
                        data,
                        rounds["W2"],
                        evaluation=Evaluation(every=1),
                        loggers=[clock],
                    ).run()
                return statistics.median(clock.evaluations)

            variants = {"with": lambda one=one: one(False), "without": lambda one=one: one(True)}
            lines.append(
                {
                    "part": "evaluations",
                    "what": f"{what}, {name}",
                    "base": "with",
                    "times": interleaved(variants, repeats),
                }
            )
    return lines


def overlap(repeats: int, rounds: int) -> list[dict]:
    lines, every = [], 10

    def one(workload: Workload, context: Callable) -> float:
        stamps, data = Stamps(), prepared_folder(workload) / "data.npz"
        with context():
            simulation(
                workload,
                data,
                rounds,
                engine=Ray(workers=2),
                evaluation=Evaluation(every=every),
                loggers=[stamps],
            ).run()
        return stamps.mean(every)

    for what, (names, context) in OVERLAPS.items():
        for name in names:
            contexts = {"as it is": contextlib.nullcontext, what: context}
            variants = {
                each: lambda with_=with_, w=WORKLOADS[name]: one(w, with_)
                for each, with_ in contexts.items()
            }
            lines.append(
                {
                    "part": "overlap",
                    "what": name,
                    "base": "as it is",
                    "times": interleaved(variants, repeats),
                }
            )
    return lines


def mixing(repeats: int, nodes: int) -> list[dict]:
    lines = []
    ways = {
        "in process": {},
        "in process, 2 threads": {"threads": 2},
        "on 2 Ray workers": {"workers": 2},
    }
    for what, way in ways.items():
        found = measure_mixing(nodes, 8, mixings=max(2, repeats - 2), **way)
        print(f"{time.strftime('%H:%M:%S')} mixing {what}: {found}", flush=True)
        lines.append({"part": "mixing", "what": what, "base": "copy", "nodes": nodes, **found})
    return lines


def sweep(repeats: int, runs: int, rounds: int) -> list[dict]:
    """Seconds of a whole sweep, start and end of processes included."""

    def whole(how: list[str]) -> float:
        with tempfile.TemporaryDirectory() as folder:
            settings = [
                "data=digits",
                f"rounds={rounds}",
                f"seed={','.join(map(str, range(runs)))}",
                f"hydra.sweep.dir={folder}/sweep",
            ]
            started = time.perf_counter()
            command = [sys.executable, "-m", "fedsim", "run", "-m", *settings, *how]
            subprocess.run(
                command,
                check=True,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd=folder,
            )
            return time.perf_counter() - started

    two = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    times = interleaved(
        {"one after the other": lambda: whole([]), "two at a time": lambda: whole(two)},
        max(1, repeats - 2),
    )
    return [
        {
            "part": "sweep",
            "what": f"{runs} runs of {rounds} rounds",
            "base": "two at a time",
            "times": times,
            "runs": runs,
        }
    ]


def seeds(repeats: int, rounds: int) -> list[dict]:
    """Seconds of ten runs on digits, where models are small, that differ in the seed: one after the
    other, together, and both in two processes, without the start of processes."""
    from joblib import Parallel, delayed

    halves, lines = (range(5), range(5, 10)), []
    few = ["participation=bernoulli", "participation.probability=0.1"]
    patterns = {"2 of 20 clients": few, "5 of 20 clients": ["participation.cohort=5"]}
    with Parallel(n_jobs=2) as pool:
        for what, participation in patterns.items():
            settings = [
                "data=digits",
                "partition=iid",
                "partition.clients=20",
                f"rounds={rounds}",
                f"evaluation.every={rounds}",
                *participation,
            ]

            def two(run: Callable, settings: list[str] = settings) -> float:
                # Processes have started
                pool(delayed(_seconds_of)(run, [*settings, "rounds=2"], half) for half in halves)
                started = time.perf_counter()
                pool(delayed(_seconds_of)(run, settings, half) for half in halves)
                return time.perf_counter() - started

            variants = {
                "one after the other": lambda settings=settings: _seconds_of(
                    _apart, settings, range(10)
                ),
                "together": lambda settings=settings: _seconds_of(_together, settings, range(10)),
                "two processes, one after the other": lambda two=two: two(_apart),
                "two processes, five together": lambda two=two: two(_together),
            }
            times = interleaved(variants, repeats)
            lines.append(
                {
                    "part": "seeds",
                    "what": f"{what}, 10 runs of {rounds} rounds",
                    "base": "one after the other",
                    "times": times,
                }
            )
    return lines


def _seconds_of(run: Callable, settings: list[str], chosen: range) -> float:
    from fedsim.config.building import build
    from fedsim.config.composition import compose

    simulations = [build(compose([*settings, f"seed={seed}"]), None, False) for seed in chosen]
    started = time.perf_counter()
    run(simulations)
    return time.perf_counter() - started


def _apart(simulations: list) -> None:
    for each in simulations:
        each.run()


def _together(simulations: list) -> None:
    from fedsim.simulation.batched_seeds import run_together

    for result in run_together(simulations):
        if isinstance(result, BaseException):
            raise result


def table(results: Path) -> str:
    """What was found, as Markdown."""
    rows = [
        "| part | on | what | time (interval of the median) | times the first |",
        "|---|---|---|---|---|",
    ]
    for line in read(results / "variants.jsonl"):
        unit = UNITS.get(line["part"], ("ms a round", 1e3))
        for name, values in sorted(line["times"].items(), key=lambda item: item[0] != line["base"]):
            median, ratio = Median.of([unit[1] * value for value in values]), Median.of([1.0])
            if name != line["base"]:
                base = line["times"][line["base"]]
                ratio = ratios(values, base) if len(values) == len(base) else None
            shown = "1" if name == line["base"] else f"{ratio:.2f}"
            more = (
                f", {3600 * line['runs'] / median.value:.0f} runs an hour" if "runs" in line else ""
            )
            rows.append(
                f"| {line['part']} | {line['what']} | {name} | {median:.4g} {unit[0]}{more} |"
                f" {shown} |"
            )
    return "\n".join([*rows, ""])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = (
        "rules",
        "ragged",
        "execution",
        "means",
        "evaluations",
        "overlap",
        "mixing",
        "sweep",
        "seeds",
    )
    parser.add_argument("--only", nargs="+", choices=parts, default=parts)
    parser.add_argument("--words", nargs="+", default=(), help="of the means that are measured")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--rounds", type=int, help="of each variant, 2 or more; fewer than usual to try it out"
    )
    parser.add_argument("--nodes", type=int, default=10_000)
    parser.add_argument("--runs", type=int, default=8)
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    options.results.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    rounds = {name: options.rounds or number for name, number in ROUNDS.items()}
    measure: dict[str, Callable[[], list[dict]]] = {
        "rules": lambda: rules(options.repeats, rounds),
        "ragged": lambda: ragged(options.repeats, rounds),
        "execution": lambda: execution(options.repeats, rounds),
        "means": lambda: means(options.repeats, rounds, options.words),
        "evaluations": lambda: evaluations(options.repeats, rounds),
        "overlap": lambda: overlap(options.repeats, max(options.rounds or 101, FIRST + 11)),
        "mixing": lambda: mixing(options.repeats, options.nodes),
        "sweep": lambda: sweep(options.repeats, options.runs, options.rounds or 300),
        "seeds": lambda: seeds(options.repeats, options.rounds or 600),
    }
    for part in options.only:
        replace_lines(options.results / "variants.jsonl", ("part",), measure[part]())
    print(table(options.results))


if __name__ == "__main__":
    main()
