"""All options and settings, as the configuration files and classes list them: what the targets of
settings choose from."""

from __future__ import annotations

from typing import Any

import yaml

from fedsim.component import defaults_of
from fedsim.config.building import GROUPS, METRICS, PRESETS, locate
from fedsim.config.options import find_options

# Data sets that are never downloaded
NEAR = ("digits", "synthetic", "npz", "heart_disease", "har", "shakespeare")
TINY = {  # a simulation of a few milliseconds, unless a case says otherwise
    "data": "synthetic",
    "data.samples": "48",
    "data.test": "8",
    "data.shape": "[4]",
    "data.classes": "3",
    "partition.clients": "6",
    "participation": "full",
    "model": "logistic_regression",
    "local.steps": "1",
    "local.batch_size": "4",
    "rounds": "1",
    "progress": "false",
}


def options() -> dict[str, list[str]]:
    """Options by group; of the data sets those that are never downloaded, of the engines not those
    that start processes."""
    found = {
        group: [option.name for option in listed]
        for group, listed in find_options().items()
        if group in (*GROUPS, *PRESETS, METRICS)
    }
    found["data"] = [name for name in found["data"] if name in NEAR]
    found["engine"] = [name for name in found["engine"] if name != "ray"]
    found["experiment"] = [
        name
        for name in found["experiment"]
        if not name.startswith(("fedau", "fedspeed", "gossip", "srrw"))
    ]
    return found


def classes() -> dict[str, list[tuple[Any, dict[str, Any]]]]:
    """Classes by group, each with its settings and their defaults."""
    found: dict[str, list[tuple[Any, dict[str, Any]]]] = {}
    for group, listed in find_options().items():
        if group not in (*GROUPS, METRICS):
            continue
        for option in listed:
            node = yaml.safe_load(option.path.read_bytes()) or {}
            for inner in (group, option.name):
                node = node[inner] if isinstance(node.get(inner), dict) else node
            if (
                "_target_" not in node
                or (group == "data" and option.name not in NEAR)
                or (group, option.name) == ("engine", "ray")
            ):
                continue
            target = locate(node["_target_"], group)
            if all(target is not known for known, _ in found.setdefault(group, [])):
                found[group].append((target, defaults_of(target) or {}))
    return found


def settings() -> list[str]:
    """All dotted names of settings, "aggregator.cutoff"."""
    return sorted(
        {
            f"{group}.{name}"
            for group, listed in classes().items()
            for _, names in listed
            for name in names
            if group != METRICS
        }
    )
