"""`make golden`: measure every case anew, rewrite the golden files and print what moved.

python -m tests.convergence.rewrite [NAME ...]      only cases whose name contains one of these
"""

from __future__ import annotations

import sys

from joblib import Parallel, delayed

from fedsim.analysis.golden import Curves, Golden, moved
from fedsim.errors import ConfigError
from tests.convergence.cases import CASES, FOLDER, measured


def rewrite(name: str) -> str:
    """Measure one case and write it; what moved."""
    path = FOLDER / f"{name}.json"
    golden = measured(name)
    try:
        run = Curves(
            golden.settings,
            {key: (curve["round"], curve["value"]) for key, curve in golden.curves.items()},
            golden.sha256,
        )
        before = Golden.read(path) if path.exists() else None
        worst = [] if before is None else moved(before, run)
        if before is None:
            line = "new"
        elif worst:
            line = f"{len(worst)} curves moved, {worst[0].curve} by {worst[0].worst:.3g} tolerances"
        else:
            line = "the same bytes" if before.sha256 == golden.sha256 else "within tolerance"
    except ConfigError as error:
        line = f"other settings ({error})"
    golden.write(path)
    weak = (
        f"; blind: {', '.join(golden.blind)}"
        if "server/loss" in golden.blind or "nodes/loss_mean" in golden.blind
        else ""
    )
    return f"{name}: {line}{weak}"


def main(wanted: list[str]) -> None:
    names = [name for name in CASES if not wanted or any(each in name for each in wanted)]
    for line in Parallel(n_jobs=2, return_as="generator")(delayed(rewrite)(name) for name in names):
        print(line, flush=True)
    gone = (
        [] if wanted else sorted(path for path in FOLDER.glob("*.json") if path.stem not in CASES)
    )
    for path in gone:
        path.unlink()
        print(f"{path.stem}: removed")


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    main(sys.argv[1:])
