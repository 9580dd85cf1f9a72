"""Hashes that a change of the code must not move: every preset of `algorithm=` and the README's
settings, in process and on 2 Ray workers.

    python experiments/faults/kept_bytes.py --write hashes.json     before the change
    python experiments/faults/kept_bytes.py --against hashes.json   after it
    python experiments/faults/kept_bytes.py --engines inprocess ... without Ray

Of each run the SHA-256 of the final models and of the metric rows (times left out). About ten
minutes on 2 cores, most of it the start of workers. Settings that need data which is not there
(FEDSIM_DATA) are left out, and said. Exit code 1 if a hash differs or a run is missing.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import fedsim

ENGINES = {"inprocess": ["engine=inprocess"], "ray": ["engine=ray", "engine.workers=2"]}
TINY = ["partition.clients=14", "model.hidden=[8]", "rounds=6", "evaluation.every=2"]
DIGITS = ["experiment=digits_server", "rounds=20"]
GRAPH = ["experiment=digits_graph", "rounds=10", "evaluation.every=5"]
FASHION = ["experiment=fedau_fashion_mnist", "rounds=6", "evaluation.every=3"]
SPEED = ["experiment=fedspeed_fashion_mnist", "rounds=3", "evaluation.every=3"]
GOSSIP = ["experiment=gossip_mnist", "rounds=3", "evaluation.every=3"]


def presets() -> list[str]:
    from fedsim.config.options import OPTIONS

    return sorted(path.stem for path in (Path(OPTIONS) / "algorithm").glob("*.yaml"))


def cases() -> dict[str, list[str]]:
    """Overrides of every run by name."""
    found = {}
    for preset in presets():
        walk = preset.startswith("srrw")
        who = ["participation=bernoulli", "participation.probability=0.5"]
        own = ["protocol.tokens=5"] if walk else who
        found[preset] = [f"algorithm={preset}", *own, *TINY, "metrics=[objective]"]
    found["README first"] = ["algorithm=fedau", "participation=markov", "rounds=200"]
    for preset in ("fedavg", "fedau", "fedspeed"):
        for pattern in ("bernoulli", "markov", "cyclic"):
            chosen = [f"algorithm={preset}", f"participation={pattern}"]
            found[f"README {preset} {pattern}"] = [*chosen, "rounds=20"]
        found[f"main job {preset}"] = [f"algorithm={preset}", *DIGITS]
    for preset in ("gossip", "vc_gossip"):
        found[f"main job {preset}"] = [f"algorithm={preset}", *GRAPH]
        found[f"README {preset}"] = [f"algorithm={preset}", *GOSSIP]
    found["README different starts"] = ["algorithm=vc_gossip", *GOSSIP, "protocol.same_start=false"]
    for preset in ("average_participating", "fedau", "known_prob"):
        found[f"README FedAU {preset}"] = [f"algorithm={preset}", *FASHION]
    for preset in ("average_participating", "feddyn", "fedspeed"):
        found[f"README FedSpeed {preset}"] = [f"algorithm={preset}", *SPEED]
    images = ["data=mnist", "model=lenet", "partition.clients=20"]
    found["convolutions"] = [*images, "algorithm=fedspeed", "rounds=2", "evaluation.every=2"]
    return found


def measured(overrides: list[str], engine: str) -> list[str] | str:
    """Both hashes of a run, or why there are none."""
    try:
        summary = fedsim.simulate([*overrides, *ENGINES[engine]]).summary
    except fedsim.ConfigError as error:
        return f"not run: {error}"
    return [summary["model_sha256"], summary["metrics_sha256"]]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", type=Path)
    parser.add_argument("--against", type=Path)
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES))
    parser.add_argument("--only", default="", help="a word that the name of a run contains")
    chosen = parser.parse_args()
    before = json.loads(chosen.against.read_text()) if chosen.against else {}
    found, bad = {}, 0
    for engine in chosen.engines:
        for name, overrides in cases().items():
            if chosen.only not in name:
                continue
            key = f"{name}, {engine}"
            found[key] = measured(overrides, engine)
            missing = isinstance(found[key], str)
            same = not before or before.get(key) == found[key]
            bad += missing or not same
            word = found[key] if missing else found[key][0][:12]
            print(f"{key:48} {word}{'' if same else '  DIFFERS'}", flush=True)
    if chosen.write:
        chosen.write.write_text(json.dumps(found, indent=1) + "\n")
    print(f"{len(found)} runs, {bad} differ or are missing")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
