"""Which run is the same as which: what settings say of a result, and under which names.

A key is a hash of the settings that can change what a run gives, less those that have their
default, with classes under their present public names. So a run keeps its key when a group of
settings is added, when a class moves, and when a default is written out.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedsim.component import defaults_of
from fedsim.errors import ConfigError
from fedsim.recording.files import flat, plain, read_json, read_yaml, shown

FORMAT = 2  # of a run folder, in status.json; folders before it have none
FREE = (  # settings that change no result
    *("engine", "logger", "progress", "checkpoint", "folder", "plots"),
    *("name", "sweep", "choices", "overrides", "data.root"),
)
OLD_NAMES = {  # modules that have moved: what recorded folders and users' YAML may still call them
    "fedsim.directed": "fedsim.network",
    "fedsim.failures": "fedsim.rounds",
    "fedsim.local": "fedsim.training",
    "fedsim.metrics": "fedsim.evaluation",
    "fedsim.mixing": "fedsim.network",
    "fedsim.topology": "fedsim.network",
}
DEFAULTS: dict[str, Any] = {  # of a `Simulation`, which a test compares
    "client": "fedsim.algorithms.Sgd",
    "aggregator": "fedsim.algorithms.FedAvg",
    "participation": "fedsim.participation.Full",
    "protocol": "fedsim.protocols.Server",
    "attack": "fedsim.attacks.NoAttack",
    "failures": "fedsim.rounds.Failures",
    "local": "fedsim.training.LocalTraining",
    "schedule": "fedsim.schedules.Constant",
    "evaluation": "fedsim.evaluation.Evaluation",
    "rounds": 100,
    "seed": 0,
}


def canonical_name(path: Any) -> Any:
    """The present public name of a class: "fedsim.network.Ring" for "fedsim.topology.Ring" and for
    "fedsim.network.topology.Ring". What is not fedsim's, or is no name, stays as it is."""
    if not isinstance(path, str) or not path.startswith("fedsim."):
        return path
    for old, new in OLD_NAMES.items():
        if path.startswith(f"{old}."):
            path = new + path.removeprefix(old)
            break
    parts = path.split(".")
    public = len(parts) > 2 and parts[-1] in _exported(parts[1])
    return f"fedsim.{parts[1]}.{parts[-1]}" if public else path


def with_present_names(config: Any) -> Any:
    """Settings whose targets, at any depth, have their present names."""
    if isinstance(config, Mapping):
        return {
            key: canonical_name(part) if key == "_target_" else with_present_names(part)
            for key, part in config.items()
        }
    return [with_present_names(part) for part in config] if isinstance(config, list) else config


def telling(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that can change what a run gives, by dotted key, where they differ from their
    defaults. config: resolved, as recorded."""
    found = {}
    for key, part in with_present_names(plain(config)).items():
        if key not in FREE:
            if key == "metrics":
                part = list(part.values()) if isinstance(part, Mapping) else part or []
                part = sorted(map(_differing, part), key=_text)  # in any order they are the same
                part = {str(number): each for number, each in enumerate(part)}
            part, usual = _differing(part), DEFAULTS.get(key)
            if isinstance(part, Mapping) and part.get("_target_") == usual:
                part = {name: value for name, value in part.items() if name != "_target_"}
            if part not in (usual, {}, [], None):
                found[key] = part
    return {key: part for key, part in flat(found).items() if key not in FREE}


def settings_key(config: Mapping[str, Any]) -> str:
    """SHA-256 of the settings that say what a run computes."""
    return hashlib.sha256(json.dumps(telling(config), sort_keys=True).encode()).hexdigest()


def first_key(config: Mapping[str, Any]) -> str:
    """The key that folders of format 1 have: of all settings, as they are recorded there."""
    named = {key: part for key, part in plain(config).items() if key not in FREE}
    whole = {key: _whole(part) for key, part in flat(named).items() if key not in FREE}
    return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()


def format_of(folder: Path) -> int:
    """The format of a run folder; 0 where status.json says none that can be read."""
    try:
        state = read_json(folder / "status.json")
    except ConfigError:
        return 0
    number = state.get("format", 1) if isinstance(state, dict) else 0
    return number if type(number) is int else 0


def refuse_other_settings(folder: Path, config: Mapping[str, Any]) -> None:
    """Raise ConfigError if the run in `folder` is of a later format, or, naming the setting, if it
    has other settings than `config`."""
    if (number := format_of(folder)) > FORMAT:
        reason = f"it is of format {number}, and this fedsim goes on with formats up to {FORMAT}"
        raise ConfigError("resume", shown(folder), f"{reason}; accepted: the fedsim that wrote it")
    if not (folder / "config.yaml").is_file():
        return
    recorded = read_yaml(folder / "config.yaml")
    if not isinstance(recorded, dict):
        raise ConfigError("resume", str(folder / "config.yaml"), "a mapping of settings")
    old, new = telling(recorded), telling(config)
    if (key := differing_key(new, old)) is not None:
        has = f"the run in {shown(folder)} has {value_of(old, key)!r}"
        raise ConfigError(
            key, value_of(new, key), f"{has}; accepted is the same, or another folder"
        )


def value_of(settings: Mapping[str, Any], key: str) -> Any:
    """The value of a setting in what `telling` gave, its default where that left it out; None where
    none is known."""
    group, _, name = key.partition(".")
    if key in settings or not name:
        return settings.get(key, DEFAULTS.get(key))
    target = settings.get(f"{group}._target_", DEFAULTS.get(group))
    return target if name == "_target_" else _defaults(str(target)).get(name)


def differing_key(one: Mapping[str, Any], other: Mapping[str, Any]) -> str | None:
    """The first setting in which two runs differ, of what `telling` gave; None: they are the same.
    A setting that is null is another than one that has its default and so is not there."""
    for key in [*one, *other]:
        if key not in one or key not in other or _text(one[key]) != _text(other[key]):
            return key
    return None


def _differing(node: Any) -> Any:
    """A component's settings without those that have its default, at any depth."""
    if isinstance(node, list):
        return [_differing(part) for part in node]
    if not isinstance(node, Mapping):
        return _whole(node)
    known = _defaults(node["_target_"]) if isinstance(node.get("_target_"), str) else {}
    whole = {key: _differing(part) for key, part in node.items()}
    return {
        key: part
        for key, part in whole.items()
        if key not in known or _text(known[key]) != _text(part)
    }


@functools.cache
def _defaults(path: str) -> dict[str, Any]:
    """The defaults of a public class of fedsim's; none are known of others, whose settings all
    tell."""
    root, package, name = path.split(".") if path.count(".") == 2 else ("", "", "")
    if root != "fedsim" or name not in _exported(package):
        return {}
    found = getattr(importlib.import_module(f"fedsim.{package}"), name)
    return {key: _differing(plain(value)) for key, value in (defaults_of(found) or {}).items()}


@functools.cache
def _exported(package: str) -> frozenset[str]:
    """What a package of fedsim's names for users."""
    if package not in _packages():
        return frozenset()
    return frozenset(getattr(importlib.import_module(f"fedsim.{package}"), "__all__", ()))


@functools.cache
def _packages() -> frozenset[str]:
    return frozenset(path.parent.name for path in Path(__file__).parents[1].glob("*/__init__.py"))


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _whole(value: Any) -> Any:
    """1.0 as 1: rate=1 is the run that rate=1.0 is."""
    if isinstance(value, list):
        return [_whole(part) for part in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
