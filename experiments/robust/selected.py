"""Whom Krum and multi-Krum select under attacks that hide among the honest: python selected.py
[SEEDS]

Runs experiment=robust and prints, for each attack and partition, how many of the selected updates
are attackers', and in how many rounds at least one attacker is dropped, mean over seeds. Nothing is
recorded in folders.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch

import fedsim
from fedsim.algorithms.krum import Krum, scores
from fedsim.attacks.base import Attack, NoAttack

HERE = Path(__file__).parent / "conf"
ATTACKS = ["little_is_enough", "little_is_enough_z1.5", "inner_product"]
ATTACKERS, CLIENTS, SHARE = 5, 25, 0.2


def selections(overrides: list[str]) -> list[list[int]]:
    """Numbers of the updates selected in each round of a run; all clients are heard in every round,
    in the order of their numbers."""
    found: list[list[int]] = []
    merge = Krum.merge

    def watched(
        rule: Krum, updates: torch.Tensor, weights: torch.Tensor, info: object
    ) -> torch.Tensor:
        merged = merge(rule, updates, weights, info)
        counted = max(1, len(updates) - rule.attackers - 2)
        best = torch.argsort(scores(updates, counted), stable=True)[
            : counted if rule.selected is None else rule.selected
        ]
        # These are the ones that the rule took
        assert torch.equal(updates[best.sort().values].mean(dim=0), merged)
        found.append(best.tolist())
        return merged

    Krum.merge = watched
    try:
        fedsim.simulate(overrides, config_dir=HERE)
    finally:
        Krum.merge = merge
    return found


def main() -> None:
    seeds = range(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
    print(
        "| attack | rule | Dirichlet | attackers among the selected, mean | rounds with at least"
        " one | rounds with all five |"
    )
    print("|---|---|---|---|---|---|")
    for attack in ATTACKS:
        for rule in ("krum", "multi_krum"):
            for alpha in (1.0, 0.1):
                counts = []
                for seed in seeds:
                    base = [
                        "experiment=robust",
                        f"algorithm={rule}",
                        f"aggregator.attackers={ATTACKERS}",
                        f"attack={attack}",
                    ]
                    hostile = set(
                        np.flatnonzero(
                            Attack.attackers(NoAttack(share=SHARE), seed, CLIENTS)
                        ).tolist()
                    )
                    rounds = selections(
                        [
                            *base,
                            f"partition=dirichlet_{alpha:g}",
                            f"seed={seed}",
                            "evaluation.every=50",
                        ]
                    )
                    counts += [len(hostile & set(selected)) for selected in rounds]
                    size = len(rounds[0])
                some, all_five = (
                    np.mean(np.array(counts) > 0),
                    np.mean(np.array(counts) == ATTACKERS),
                )
                last = "-" if size == 1 else f"{all_five:.0%}"
                print(
                    f"| {attack} | {rule} | {alpha:g} | {np.mean(counts):.2f} of {size} |"
                    f" {some:.0%} | {last} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
