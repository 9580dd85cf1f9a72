"""The main job (`make run`, `fedsim demo`): five algorithms on digits, at a server and over a
graph, over several seeds.

One run goes to Ray, and again in process to compare the bytes; the rest run in process, as many at
once as there are cores.
"""

from __future__ import annotations

import argparse
import os
import shutil
from pathlib import Path

SERVER = ("average_participating", "fedau", "fedspeed")
GRAPH = ("gossip", "vc_gossip")


def jobs(seeds: int, rounds: int | None) -> dict[str, list[str]]:
    """Overrides of every run, by folder name."""
    length = [] if rounds is None else [f"rounds={rounds}"]
    places = [(name, ["experiment=digits_server"]) for name in SERVER] + [
        (name, ["experiment=digits_graph"]) for name in GRAPH
    ]
    return {
        f"{name}-{seed}": [*place, f"algorithm={name}", f"seed={seed}", *length]
        for name, place in places
        for seed in range(seeds)
    }


def run_quietly(overrides: list[str], folder: str) -> str:
    """One run without a progress bar of its own; its accuracy and the hash of its models."""
    from fedsim import simulate

    return simulate(overrides, folder=folder, progress=False).summary["model_sha256"]


def main(arguments: list[str] | None = None) -> int:
    """Run the main job, print its table and draw its curves. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="fedsim demo", description=__doc__)
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path("outputs/demo"),
        help="where to record (emptied first; default: %(default)s)",
    )
    parser.add_argument(
        "--seeds", type=int, default=3, help="seeds of each algorithm (default: %(default)s)"
    )
    parser.add_argument(
        "--rounds", type=int, help="rounds of every run (default: as the experiments say)"
    )
    options = parser.parse_args(arguments)
    if options.seeds < 1 or (options.rounds is not None and options.rounds < 1):
        parser.error("--seeds and --rounds are integers of at least 1")

    from joblib import Parallel, delayed
    from rich.console import Console
    from rich.progress import track

    import fedsim

    console, folder = Console(), options.folder
    shutil.rmtree(folder, ignore_errors=True)
    planned = jobs(options.seeds, options.rounds)
    console.print(
        f"{len(planned)} runs on digits: 100 clients, labels skewed by Dirichlet(0.1); recorded in"
        f" {folder}"
    )
    pool = Parallel(n_jobs=os.cpu_count(), return_as="generator_unordered")
    runs = pool(
        delayed(run_quietly)(overrides, str(folder / name))
        for name, overrides in planned.items()
        if name != "fedspeed-0"
    )
    for _ in track(
        runs, "in process", total=len(planned) - 1, console=console, disable=not console.is_terminal
    ):
        pass

    console.print("fedspeed with seed 0 runs on 2 Ray workers, and in process once more")
    on_ray = run_quietly([*planned["fedspeed-0"], "engine=ray"], str(folder / "fedspeed-0"))
    in_process = fedsim.simulate(planned["fedspeed-0"], progress=False).summary["model_sha256"]
    console.print(
        f"  the final models have {'the same bytes' if on_ray == in_process else 'DIFFERENT BYTES'}"
        f" (SHA-256 {on_ray[:16]}...)\n"
    )

    comparison = fedsim.compare(folder, panel="choices.protocol", last=3, target=0.9)
    comparison.print(console)
    console.print(
        "\nObjective (mean over clients of their mean training loss) less that of"
        " average_participating, 95 % interval over seeds:"
    )
    runs = [folder / f"{name}-{seed}" for name in SERVER for seed in range(options.seeds)]
    judged = fedsim.compare(runs, metric="objective", panel=None, last=3, baseline=SERVER[0])
    for row in judged.differences.itertuples():
        console.print(
            f"  {row.method:10} {row.difference:+.3f}  ({row.low:+.3f} to {row.high:+.3f})"
        )
    comparison.plot(folder / "curves.png")
    (folder / "comparison.md").write_text(comparison.to_markdown())
    console.print(
        f"\ncurves: {folder / 'curves.png'}   table: {folder / 'comparison.md'}   more: fedsim run"
        " --help, fedsim list"
    )
    return 0 if on_ray == in_process else 1
