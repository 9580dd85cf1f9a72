"""How a round's time and the memory grow: python growth.py [--only PART ...]

    cohort          clients a round, of 1,000 with 50 examples each; MLP of 50,890 parameters
    population      registered clients at a cohort of 100, up to 1,000,000
    workers         in process, on 1 and 2 Ray workers, and on a cluster of two nodes with one
                    worker each (both on this machine), whose second worker is sent its vectors
                    in calls as between machines
    parameters      of an MLP with one hidden layer, 20 clients a round
    graph           nodes of a 4-regular graph; degree: of a graph of 200 nodes
    memory          of a registered client, of one in the cohort (at a server, and as a node of a
                    graph), and of one that keeps state

Every point is a process of its own. Lines are fitted by least squares; the exponent is that of a
power law between the last two points.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from lines_of import read, replace_lines
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

POINT = Path(__file__).parent / "growth_point.py"
PLACES = {"in process": {}, "1 Ray worker": {"workers": 1}, "2 Ray workers": {"workers": 2}}
PLACES |= {"two nodes": {"workers": 2, "cluster": True}}


def points(part: str, small: bool) -> list[dict]:
    """Settings of `growth_point.py`, with x and the series they belong to."""
    few = 3 if small else None
    if part == "cohort":
        return [
            {
                "x": cohort,
                "series": place,
                "clients": 1000,
                "examples": 50,
                "cohort": cohort,
                **PLACES[place],
            }
            for place in ("in process", "2 Ray workers")
            for cohort in (10, 30, 100, 300, 1000)[:few]
        ]
    if part == "population":
        largest = (1000, 10_000, 100_000, 1_000_000)[:few]
        return [
            {"x": clients, "series": rule, "clients": clients, "rule": rule, **_SMALL}
            for rule in ("FedAvg", "FedSpeed")
            for clients in largest
        ]
    if part == "workers":
        return [
            {
                "x": number,
                "series": name,
                "clients": 100,
                "examples": 100,
                "cohort": 20,
                "model": name,
                "place": place,
                **PLACES[place],
            }
            for name in ("mlp", "lenet")
            for number, place in enumerate(PLACES)
        ]
    if part == "parameters":
        return [
            {"x": 0, "series": "in process", "hidden": hidden, **_FEW}
            for hidden in (16, 64, 256, 1024, 4096)[:few]
        ]
    if part == "graph":
        nodes = [
            {"x": nodes, "series": "degree 4", "clients": nodes, "degree": 4, **_NODES}
            for nodes in (25, 100, 400, 1600)[:few]
        ]
        return nodes + [
            {"x": degree, "series": "200 nodes", "clients": 200, "degree": degree, **_NODES}
            for degree in (4, 16, 64)[:few]
        ]
    return [
        *({"x": n, "series": "registered", "clients": n, **_SMALL} for n in (100_000, 400_000)),
        *(
            {"x": n, "series": "in the cohort", "clients": 1000, "cohort": n, "examples": 20}
            for n in (100, 900)
        ),
        *(
            {"x": n, "series": "node of a graph", "clients": n, "degree": 4, **_NODES}
            for n in (200, 1000)
        ),
        *(
            {
                "x": n,
                "series": "keeps state",
                "clients": n,
                "cohort": n,
                "examples": 20,
                "rule": "FedSpeed",
            }
            for n in (200, 1000)
        ),
    ]


_SMALL = {
    "examples": 2,
    "features": 10,
    "cohort": 100,
    "model": "logistic_regression",
    "rounds": 60,
}
_FEW = {"clients": 200, "examples": 20, "cohort": 20}
_NODES = {"examples": 20, "rounds": 4}
PARTS = ("cohort", "population", "workers", "parameters", "graph", "memory")
LABELS = {
    "cohort": "clients a round",
    "population": "registered clients, 100 a round",
    "workers": "",
    "parameters": "parameters",
    "graph": "nodes; degree",
    "memory": "clients",
}


def run_point(settings: dict) -> dict:
    """One process; what it found."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    done = subprocess.run(
        [sys.executable, str(POINT), json.dumps(settings)],
        capture_output=True,
        text=True,
        env=environment,
    )
    if done.returncode:
        return {**settings, "error": done.stderr[-1000:]}
    return {**settings, **json.loads(done.stdout.splitlines()[-1])}


def exponent(line: list[dict], value: str = "seconds") -> float:
    """Of a power law between the last two points."""
    (a, b), (p, q) = ([each["x"] for each in line[-2:]], [each[value] for each in line[-2:]])
    return float(np.log(q / p) / np.log(b / a))


def series_of(lines: list[dict], part: str) -> dict[str, list[dict]]:
    found: dict[str, list[dict]] = {}
    for line in lines:
        if line["part"] == part and "error" not in line:
            found.setdefault(line["series"], []).append(line)
    return found


def table(results: Path) -> str:
    lines = read(results / "growth.jsonl")
    rows = [
        "| against | series | ms a round at each point | exponent between the last two |",
        "|---|---|---|---|",
    ]
    for part in PARTS[:-1]:
        for name, found in series_of(lines, part).items():
            values = ", ".join(
                f"{each.get('place') or format(each['x'], ',')}: {1000 * each['seconds']:.3g}"
                for each in found
            )
            rows.append(
                f"| {part} | {name} | {values} |"
                f" {'' if part == 'workers' or len(found) < 2 else f'{exponent(found):.2f}'} |"
            )
    rows += ["", "| memory of a client that is | kB each | parameters, kB |", "|---|---|---|"]
    for name, (low, high) in {
        name: found for name, found in series_of(lines, "memory").items() if len(found) == 2
    }.items():
        slope = 1000 * (high["megabytes"] - low["megabytes"]) / (high["x"] - low["x"])
        rows.append(f"| {name} | {slope:.3g} | {high['parameters'] * 4 / 1000:.3g} |")
    failed = [f"{line['part']} {line['series']} {line['x']}" for line in lines if "error" in line]
    return "\n".join([*rows, "", *([f"Failed: {', '.join(failed)}."] if failed else [])])


def draw(results: Path) -> None:
    """A small picture for each part."""
    lines = read(results / "growth.jsonl")
    for part in PARTS:
        found = series_of(lines, part)
        if not found:
            continue
        figure = Figure(figsize=(4.2, 3), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        value, label = ("megabytes", "MB") if part == "memory" else ("seconds", "s a round")
        for name, each in found.items():
            if part == "workers":
                axes.plot(
                    [point["place"] for point in each],
                    [point[value] for point in each],
                    "o-",
                    label=name,
                )
            else:
                axes.plot(
                    [point["x"] for point in each],
                    [point[value] for point in each],
                    "o-",
                    label=name,
                )
        if part != "workers":
            axes.set_xscale("log")
        if part != "memory":
            axes.set_yscale("log")
        axes.set_xlabel(LABELS[part])
        axes.set_ylabel(label)
        axes.tick_params(labelsize=8)
        axes.legend(fontsize=7, frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
        figure.savefig(results / f"growth_{part}.png", dpi=90)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--small", action="store_true", help="few and small points, to try it out")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    options.results.mkdir(parents=True, exist_ok=True)
    for part in options.only:
        lines = []
        for point in points(part, options.small):
            started = time.perf_counter()
            lines.append(
                {"part": part, **run_point(point | ({"rounds": 3} if options.small else {}))}
            )
            if "error" not in lines[-1] and part == "parameters":
                lines[-1]["x"] = lines[-1]["parameters"]
            last = lines[-1]
            shown = (
                last.get("error")
                or f"{1000 * last['seconds']:.3g} ms a round, {last['megabytes']:.0f} MB"
            )
            print(
                f"{part} {last['series']} {last['x']}: {shown}"
                f" ({time.perf_counter() - started:.1f} s)",
                flush=True,
            )
        replace_lines(options.results / "growth.jsonl", ("part",), lines)
    print(table(options.results))
    draw(options.results)


if __name__ == "__main__":
    main()
