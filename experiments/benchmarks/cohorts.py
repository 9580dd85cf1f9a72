"""Clients trained together in batched calls against one after the other, on one device: python
cohorts.py [--device cuda]

For each model and cohort size, in turn: a plain PyTorch loop over the clients (data on the device,
torch.optim.SGD), and fedsim in process with `local.execution` looped, stacked and auto (its fixed
rule). A client takes five local steps. Needs no Ray and no Hydra.

Where a round would take longer than --limit seconds, by the time that smaller cohorts took, it is
left out. Models after a round are compared with the loop's, as in sameness.py. Lines go to
results/cohorts.jsonl in place of those of the same device and model.
"""

from __future__ import annotations

import argparse
import functools
import os
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np  # noqa: E402
import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from lines_of import read, replace_lines  # noqa: E402
from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from matplotlib.ticker import LogLocator, NullFormatter  # noqa: E402
from statistics_of import Median, ratios  # noqa: E402
from timing import RoundClock  # noqa: E402

from fedsim import Simulation  # noqa: E402
from fedsim.algorithms import FedAvg  # noqa: E402
from fedsim.data import Synthetic  # noqa: E402
from fedsim.data.partition import Iid  # noqa: E402
from fedsim.engine.inprocess import InProcess  # noqa: E402
from fedsim.evaluation.evaluator import Evaluation  # noqa: E402
from fedsim.models import MLP, LeNet, McMahanCNN, ResNet18  # noqa: E402
from fedsim.parameters import flat_parameters  # noqa: E402
from fedsim.training import LocalTraining, vectorised  # noqa: E402
from fedsim.training.batches import draw_batches  # noqa: E402
from fedsim.training.examples import Examples  # noqa: E402
from fedsim.training.execution import clients_per_call, gradient_kernel  # noqa: E402

STEPS, RATE, FEW = 5, 0.05, 3
PLAIN, WAYS = "plain loop", ("looped", "stacked", "auto")
# How it is made, shape of an example, examples of a batch
MODELS: dict[str, tuple[Callable, list[int], int]] = {
    "W2": (functools.partial(MLP, hidden=[64]), [784], 10),
    "W1b": (LeNet, [1, 28, 28], 32),
    "W1": (McMahanCNN, [1, 28, 28], 32),
    "ResNet-18": (functools.partial(ResNet18, stem="cifar"), [3, 32, 32], 32),
}
# Greatest distance of a parameter; norm of the difference by that of the way gone, see sameness.py
DENSE, CONVOLUTIONAL = 1e-4, 0.2


def simulation(
    name: str, cohort: int, device: str, rounds: int, way: str = "auto", **changes: Any
) -> Simulation:
    """All of `cohort` clients take part in every round."""
    model, shape, batch = MODELS[name]
    return Simulation(
        data=Synthetic(samples=cohort * STEPS * batch, shape=shape, validation=0.0, test=10),
        partition=Iid(clients=cohort),
        model=model,
        aggregator=FedAvg(weighting="uniform"),
        local=LocalTraining(steps=STEPS, batch_size=batch, rate=RATE, execution=way),
        evaluation=Evaluation(every=rounds),
        engine=InProcess(device=device),
        rounds=rounds,
        progress=False,
        **changes,
    )


class PlainLoop:
    """Federated averaging as one writes it without a simulator: the same model, examples, batches
    and steps."""

    def __init__(self, simulated: Simulation) -> None:
        self.task = simulated.prepare().task
        self.device = torch.device(self.task.device)
        self.module = self.task.module.to(self.device).train()
        examples = Examples(self.task.dataset.train, self.task.dataset, self.device)
        self.x, self.y = examples.batch(slice(None))
        self.model = [parameter.detach().clone() for parameter in self.module.parameters()]
        self.round = 0

    def run(self) -> float:
        """One round; its seconds."""
        task, weight = self.task, 1 / len(self.task.shards)
        _finish(self.device)
        started = time.perf_counter()
        clients = np.arange(len(task.shards))
        index = torch.from_numpy(
            draw_batches(task.shards, clients, task.local, task.seed, self.round).index
        ).to(self.device)
        total = [torch.zeros_like(part) for part in self.model]
        for batches in index:
            with torch.no_grad():
                for parameter, part in zip(self.module.parameters(), self.model, strict=True):
                    parameter.copy_(part)
            optimizer = torch.optim.SGD(self.module.parameters(), lr=RATE)
            for batch in batches:
                optimizer.zero_grad()
                F.cross_entropy(self.module(self.x[batch]), self.y[batch]).backward()
                optimizer.step()
            for part, parameter in zip(total, self.module.parameters(), strict=True):
                part.add_(parameter.detach(), alpha=weight)
        self.model, self.round = total, self.round + 1
        _finish(self.device)
        return time.perf_counter() - started

    def flat(self) -> torch.Tensor:
        """The model as fedsim keeps it, float32 [P] on the host."""
        with torch.no_grad():
            for parameter, part in zip(self.module.parameters(), self.model, strict=True):
                parameter.copy_(part)
        return flat_parameters(self.module)


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(name: str, cohort: int, device: str, way: str, rounds: int) -> dict:
    """Mean seconds of a round but for the first, and bytes of the device at most."""
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats(device)
    if way == PLAIN:
        loop = PlainLoop(simulation(name, cohort, device, 1))
        times = [loop.run() for _ in range(1 + rounds)][1:]
        found = sum(times) / rounds
    else:
        clock = RoundClock()
        # In the first round, which is not counted
        with patch.object(vectorised, "TRACED_AFTER", 2):
            simulation(name, cohort, device, 1 + rounds, way, loggers=[clock]).run()
        found = clock.mean
    return {
        "seconds": found,
        "bytes": torch.cuda.max_memory_allocated(device) if device != "cpu" else None,
    }


def differences(name: str, device: str, ways: Sequence[str]) -> tuple[dict[str, float], float]:
    """How far the models of three clients are after one round from the plain loop's, by way, in
    units of what is allowed; seconds of the loop's second round, since a device's first one takes
    longer."""
    loop = PlainLoop(simulation(name, FEW, device, 1))
    first = loop.flat()
    loop.run()
    expected, apart = loop.flat(), {}
    taken = loop.run()
    for way in ways:
        found = torch.from_numpy(simulation(name, FEW, device, 1, way).run().models[0])
        if name == "W2":
            apart[way] = float((found - expected).abs().max()) / DENSE
        else:
            apart[way] = (
                float((found - expected).norm() / (expected - first).norm()) / CONVOLUTIONAL
            )
    return apart, taken


def measure(name: str, options: argparse.Namespace) -> list[dict]:
    device, lines = options.device, []
    unlike, taken = differences(name, device, [way for way in options.ways if way != PLAIN])
    last = dict.fromkeys(options.ways, taken / FEW)  # seconds of a client
    print(
        f"{name}: apart from the plain loop after a round, in units of what is allowed: {unlike}",
        flush=True,
    )
    for cohort in options.cohorts:
        left = [way for way in options.ways if cohort * last[way] <= options.limit]
        found: dict[str, list[dict]] = {way: [] for way in left}
        for _ in range(options.repeats):
            for way in left:
                try:
                    found[way].append(seconds(name, cohort, device, way, options.rounds))
                # memory, or a module that cannot be stacked: the table says so
                except Exception as error:
                    found[way].append({"error": f"{type(error).__name__} {error}".splitlines()[0]})
        for way, each in found.items():
            line = {
                "device": named(device),
                "model": name,
                "cohort": cohort,
                "way": way,
                "same": unlike.get(way, 0.0) <= 1,
            }
            good = [one["seconds"] for one in each if "seconds" in one]
            if len(good) == len(each):
                line |= {"seconds": good, "bytes": each[0]["bytes"]}
            else:
                line["error"] = next(one["error"] for one in each if "error" in one)
            last[way] = Median.of(good).value / cohort if good else float("inf")
            if way == "auto":
                task = simulation(name, cohort, device, 1).prepare().task
                line |= {"kernel": gradient_kernel(task.module, task.local, device).__name__}
                line |= {"together": clients_per_call(task.module, task.local, device)}
            lines.append(line)
            print(
                f"{name} {cohort} {way}:"
                f" {line.get('error') or [round(1000 * value, 2) for value in good]}",
                flush=True,
            )
    return lines


def named(device: str) -> str:
    return (
        torch.cuda.get_device_name(device)
        if device != "cpu"
        else f"CPU ({platform.machine()}), one thread"
    )


def table(results: Path) -> str:
    """What was found, as Markdown: a table for each device."""
    lines, rows = read(results / "cohorts.jsonl"), []
    for device in dict.fromkeys(line["device"] for line in lines):
        rows += [
            f"**{device}**",
            "",
            "| model | clients a round | plain loop, ms a round | time of the loop over fedsim's: ",
        ]
        rows[-1] += (
            "looped | stacked | auto | kernel of auto, clients a call at most | peak MB, loop,"
            " stacked |"
        )
        rows.append("|---|---|---|---|---|---|---|---|")
        mine = [line for line in lines if line["device"] == device]
        for model, cohort in dict.fromkeys((line["model"], line["cohort"]) for line in mine):
            by_way = {
                line["way"]: line
                for line in mine
                if (line["model"], line["cohort"]) == (model, cohort)
            }
            loop, auto = by_way.get(PLAIN, {}), by_way.get("auto", {})
            shown = (
                f"{Median.of([1000 * value for value in loop['seconds']]):.3g}"
                if "seconds" in loop
                else "-"
            )
            gains = " | ".join(_gain(loop, by_way.get(way)) for way in WAYS)
            kernel = f"{auto['kernel']}, {auto['together']}" if "kernel" in auto else "-"
            memory = [by_way.get(way, {}).get("bytes") for way in (PLAIN, "stacked")]
            megabytes = ", ".join("-" if size is None else f"{size / 1e6:.0f}" for size in memory)
            rows.append(f"| {model} | {cohort:,} | {shown} | {gains} | {kernel} | {megabytes} |")
        rows.append("")
    return "\n".join(rows)


def _gain(loop: dict, line: dict | None) -> str:
    if line is None or "seconds" not in loop:
        return "-"
    if "error" in line:
        return f"failed: {line['error'][:60]}"
    return (
        f"{ratios(loop['seconds'], line['seconds']):.2f}" if line["same"] else "not the same work"
    )


def draw(results: Path) -> None:
    """A picture for each device: what stacking clients gains over the plain loop, by cohort
    size."""
    lines = read(results / "cohorts.jsonl")
    devices = list(dict.fromkeys(line["device"] for line in lines))
    figure = Figure(figsize=(6 * len(devices), 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, device in zip(
        figure.subplots(1, len(devices), squeeze=False).ravel(), devices, strict=True
    ):
        at = {
            (line["model"], line["way"], line["cohort"]): line
            for line in lines
            if line["device"] == device and "seconds" in line
        }
        for color, model in enumerate(dict.fromkeys(model for model, _, _ in at)):
            for way, style in (("stacked", "o-"), ("looped", "o:")):
                sizes = [
                    cohort
                    for name, how, cohort in at
                    if (name, how) == (model, way) and (model, PLAIN, cohort) in at
                ]
                gains = [
                    ratios(at[model, PLAIN, size]["seconds"], at[model, way, size]["seconds"]).value
                    for size in sizes
                ]
                axes.plot(
                    sizes, gains, style, color=f"C{color}", markersize=4, label=f"{model}, {way}"
                )
        axes.axhline(1, color="0.7", linewidth=0.8)
        axes.set_xscale("log")
        axes.set_yscale("log")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter("{x:g}")
            axis.set_minor_formatter(NullFormatter())
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.set_xlabel("clients a round")
        axes.set_ylabel("time of the plain loop over fedsim's")
        axes.set_title(device, fontsize=9)
        axes.tick_params(labelsize=8)
        axes.legend(fontsize=6.5, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(results / "cohorts.png", dpi=90)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, ...")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--cohorts", nargs="+", type=int, default=[10, 30, 100, 300, 1000])
    parser.add_argument("--ways", nargs="+", choices=(PLAIN, *WAYS), default=[PLAIN, *WAYS])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=2, help="that are timed, of each launch")
    parser.add_argument(
        "--limit",
        type=float,
        default=10.0,
        help="seconds of a round, above which a cohort is left out",
    )
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    options.results.mkdir(parents=True, exist_ok=True)
    InProcess(device=options.device).check()
    torch.set_num_threads(1)
    for name in options.models:
        replace_lines(
            options.results / "cohorts.jsonl", ("device", "model"), measure(name, options)
        )
    print(table(options.results))
    draw(options.results)


if __name__ == "__main__":
    main()
