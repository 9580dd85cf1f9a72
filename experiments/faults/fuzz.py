"""Feeds every part of fedsim that reads settings or files with bad input: `python
experiments/faults/fuzz.py --cases 20000`.

Each case must end as a valid outcome or as one clear line (see tests/fuzz/harness.py for what else
is looked at). A table is printed with the cases, valid outcomes, refusals and failures of each
target, then every failure with the shortest input that shows it; the exit code is 1 if there is
any. Each target runs in a process of its own, so that a crash is a failure too.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--cases", type=int, default=20_000, help="in all, divided among the targets (%(default)s)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="another seed, other cases (%(default)s)"
    )
    parser.add_argument("--only", help="targets whose name holds this text")
    parser.add_argument(
        "--jobs", type=int, default=os.cpu_count(), help="targets at once (%(default)s)"
    )
    # The one target named by --only, in this process
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    from tests.fuzz.harness import explore
    from tests.fuzz.targets import all_targets

    targets = all_targets()
    if options.here:
        tally = explore(
            next(target for target in targets if target.name == options.only),
            options.cases,
            options.seed,
            collect=True,
        )
        print(json.dumps([tally.valid, tally.refused, tally.failed, tally.failures]))
        return 0
    chosen = [target for target in targets if options.only is None or options.only in target.name]
    shares = sum(target.share for target in chosen)
    cases = [math.ceil(options.cases * target.share / shares) for target in chosen]
    total, failures = (0, 0, 0), {}
    print(f"{'target':32} {'cases':>7} {'valid':>7} {'refused':>8} {'failed':>7} {'seconds':>8}")
    with ThreadPoolExecutor(options.jobs) as pool:
        runs = pool.map(
            lambda target, count: explored(target.name, count, options.seed), chosen, cases
        )
        for target, (counts, found, seconds) in zip(chosen, runs, strict=True):
            total = tuple(map(sum, zip(total, counts, strict=True)))
            failures |= {f"{target.name}: {where}": shown for where, shown in found.items()}
            print(f"{line(target.name, counts)} {seconds:8.0f}", flush=True)
    print(line("all", total))
    for where, shown in failures.items():
        print(f"\n--- {where}\n{shown}")
    return 1 if failures else 0


def explored(
    target: str, cases: int, seed: int
) -> tuple[tuple[int, int, int], dict[str, str], float]:
    """Valid, refused and failed cases of a target in a process of its own; its failures;
    seconds."""
    start = time.monotonic()
    command = [
        sys.executable,
        __file__,
        "--here",
        "--only",
        target,
        "--cases",
        str(cases),
        "--seed",
        str(seed),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    try:
        valid, refused, failed, found = json.loads(done.stdout.splitlines()[-1])
    except (ValueError, IndexError):
        valid, refused, failed, found = (
            0,
            0,
            1,
            {f"the process ended with {done.returncode}": done.stderr[-2000:]},
        )
    return (valid, refused, failed), found, time.monotonic() - start


def line(name: str, counts: Sequence[int]) -> str:
    valid, refused, failed = counts
    return f"{name:32} {sum(counts):7} {valid:7} {refused:8} {failed:7}"


if __name__ == "__main__":
    sys.exit(main())
