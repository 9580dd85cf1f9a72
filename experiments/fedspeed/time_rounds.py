"""Processor time of a round, method by method: python time_rounds.py [REPEATS]

Time of the process, not of the clock, so that other work on the machine counts little: (40 rounds -
10 rounds) / 30, the least of the repeats. The seed is the same, so every method has the same
cohorts.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import fedsim

METHODS = (
    "average_participating fedprox fedadam scaffold feddyn fedcm fedsam mofedsam fedgamma fedspeed"
    " fedsmoo".split()
)
FIXED = ["experiment=fedspeed", "evaluation.every=1000"]


def seconds(method: str, rounds: int) -> float:
    start = time.process_time()
    fedsim.simulate(
        [*FIXED, f"algorithm={method}", f"rounds={rounds}"],
        config_dir=Path(__file__).parent / "conf",
    )
    return time.process_time() - start


def main(repeats: int) -> None:
    seconds(METHODS[0], 1)  # imports and caches
    least = dict.fromkeys(METHODS, float("inf"))
    for _ in range(repeats):
        for method in METHODS:
            least[method] = min(least[method], (seconds(method, 40) - seconds(method, 10)) / 30)
    for method, each in least.items():
        print(f"| `{method}` | {1000 * each:.1f} ms | {each / least[METHODS[0]]:.2f} |")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
