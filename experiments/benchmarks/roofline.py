"""How fast the kernels of each workload run on this machine with both cores at work, and so how
short a round can be: the kernel bound.

    python roofline.py [--workers 2] [--seconds 0.5]

Every layer's matrix products or convolutions, in exactly the shapes of the workload, are timed in
as many one-thread processes at once as there are workers. FLOP counts are multiplications and
additions of the forward pass, the gradient of the weights and the gradient of the inputs (not for
the first layer); bias, activation, pooling, loss and the step are not counted, and no framework is
in the time: this is a bound that nothing reaches. Where a dense layer can be had as one product for
several clients at once, as in fedsim's stacked execution, the faster of both is taken
(`single_seconds`: without that); of a convolution the faster of both memory layouts.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
from collections.abc import Callable
from pathlib import Path

import torch
from workloads import WORKLOADS, Workload

RESULTS = Path(__file__).parent / "results"
STACK = 8  # clients in one stacked product

# dense: inputs, outputs, 0, 0; conv: channels in, out, height and width of the input, padding
Shape = tuple[str, int, int, int, int]
LAYERS: dict[str, list[Shape]] = {
    "logistic_regression": [("dense", 784, 10, 0, 0)],
    "mlp": [("dense", 784, 64, 0, 0), ("dense", 64, 10, 0, 0)],
    "lenet": [
        ("conv", 1, 6, 28, 2),
        ("conv", 6, 16, 14, 0),
        ("dense", 400, 120, 0, 0),
        ("dense", 120, 84, 0, 0),
        ("dense", 84, 10, 0, 0),
    ],
    "cnn": [
        ("conv", 1, 32, 28, 2),
        ("conv", 32, 64, 14, 2),
        ("dense", 3136, 512, 0, 0),
        ("dense", 512, 10, 0, 0),
    ],
}
PARAMETERS = {"mlp": 50_890}


def products(first: bool) -> int:
    """Products of the size of the forward one: also the gradient of the weights and, but for the
    first layer, of the inputs."""
    return 2 if first else 3


def flop_of(shape: Shape, first: bool, examples: int) -> float:
    """FLOP of a layer for so many examples."""
    kind, inputs, outputs, size, padding = shape
    positions, taps = (1, 1) if kind == "dense" else ((size + 2 * padding - 4) ** 2, 25)
    return 2.0 * examples * inputs * outputs * taps * positions * products(first)


def round_flop(workload: Workload) -> float:
    """FLOP of the local steps of one round."""
    examples = workload.cohort * workload.examples
    return sum(flop_of(shape, at == 0, examples) for at, shape in enumerate(LAYERS[workload.model]))


def fastest(function: Callable[[], object], seconds: float) -> float:
    """Least seconds of a call, over so many seconds."""
    times, until = [], time.perf_counter() + seconds
    for _ in range(3):
        function()
    while time.perf_counter() < until or len(times) < 5:
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


def dense_calls(shape: Shape, first: bool, batch: int, clients: int) -> Callable[[], object]:
    """Forward, weights' gradient and inputs' gradient of a dense layer, of one client or stacked
    ones, into kept buffers."""
    _, inputs, outputs, _, _ = shape
    lead = (clients,) if clients > 1 else ()
    x, w, d = (
        torch.randn(*lead, batch, inputs),
        torch.randn(*lead, outputs, inputs),
        torch.randn(*lead, batch, outputs),
    )
    y, dw, dx = torch.empty_like(d), torch.empty_like(w), torch.empty_like(x)
    multiply = torch.bmm if clients > 1 else torch.mm

    def call() -> None:
        multiply(x, w.mT, out=y)
        multiply(d.mT, x, out=dw)
        if not first:
            multiply(d, w, out=dx)

    return call


def convolution_calls(
    shape: Shape, first: bool, batch: int, channels_last: bool
) -> Callable[[], object]:
    _, inputs, outputs, size, padding = shape
    x, w = torch.randn(batch, inputs, size, size), torch.randn(outputs, inputs, 5, 5)
    if channels_last:
        x, w = (
            x.to(memory_format=torch.channels_last),
            w.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2),
        )
    x.requires_grad_(not first)
    w.requires_grad_()
    d = torch.randn_like(torch.conv2d(x, w, padding=padding))
    wanted = [w] if first else [x, w]
    return lambda: torch.autograd.grad(torch.conv2d(x, w, padding=padding), wanted, d)


def measure(name: str, seconds: float, barrier, results) -> None:
    """In a process of its own: seconds per example of every layer, the same for one client at a
    time, and of mixing. All processes begin each at the same time."""
    torch.set_num_threads(1)
    workload = WORKLOADS[name]
    found, single = [], []
    for at, shape in enumerate(LAYERS[workload.model]):
        times = []
        for variant in (1, STACK) if shape[0] == "dense" else (False, True):
            of = dense_calls if shape[0] == "dense" else convolution_calls
            call = of(shape, at == 0, workload.batch, variant)
            barrier.wait()
            examples = workload.batch * (variant if shape[0] == "dense" else 1)
            times.append(fastest(call, seconds) / examples)
        found.append(min(times))
        single.append(times[0] if shape[0] == "dense" else min(times))
    mixing = mixing_seconds(workload, seconds, barrier) if workload.degree else 0.0
    results.put((found, single, mixing))


def mixing_seconds(workload: Workload, seconds: float, barrier) -> float:
    """Seconds that one core takes to move what a round's mixing must: all models read once and
    written once."""
    models = torch.randn(workload.clients, PARAMETERS[workload.model])
    target = torch.empty_like(models)
    barrier.wait()
    return fastest(lambda: target.copy_(models), seconds)


def bound(workload: Workload, workers: int, seconds: float) -> dict:
    """What the kernels of a workload's round take on all workers."""
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(workers), context.Queue()
    processes = [
        context.Process(target=measure, args=(workload.name, seconds, barrier, results))
        for _ in range(workers)
    ]
    for process in processes:
        process.start()
    found = [results.get() for _ in processes]
    for process in processes:
        process.join()
    examples = workload.cohort * workload.examples
    layers = [sum(parts) / workers for parts in zip(*(each[0] for each in found), strict=True)]
    mixing = sum(each[2] for each in found) / workers
    flop = round_flop(workload)
    round_seconds = (examples * sum(layers) + mixing) / workers
    rates = [
        workers * flop_of(shape, at == 0, 1) / each / 1e9
        for at, (shape, each) in enumerate(zip(LAYERS[workload.model], layers, strict=True))
    ]
    single = [sum(parts) / workers for parts in zip(*(each[1] for each in found), strict=True)]
    return {
        "workload": workload.name,
        "workers": workers,
        "gflop": flop / 1e9,
        "layers": [list(shape) for shape in LAYERS[workload.model]],
        "gflops": [round(rate, 1) for rate in rates],
        "mixing": mixing / workers,
        "seconds": round_seconds,
        "single_seconds": (examples * sum(single) + mixing) / workers,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=0.5)
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    options.results.mkdir(parents=True, exist_ok=True)
    lines = [bound(workload, options.workers, options.seconds) for workload in WORKLOADS.values()]
    (options.results / "roofline.jsonl").write_text(
        "".join(json.dumps(line) + "\n" for line in lines)
    )
    for line in lines:
        print(
            f"{line['workload']:5} {line['gflop']:8.3f} GFLOP a round, at least"
            f" {1000 * line['seconds']:8.2f} ms; GFLOP/s {line['gflops']}"
        )


if __name__ == "__main__":
    main()
