"""Building a simulation from plain settings: one dict for each group, `_target_` naming the class,
and a few plain keys."""

from __future__ import annotations

import difflib
import functools
import importlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, StrictBool

from fedsim.component import FROM_DATA, component, defaults_of, settings_of
from fedsim.config.model_targets import check_model_target
from fedsim.errors import ConfigError, require
from fedsim.recording.identity import canonical_name

if TYPE_CHECKING:
    from fedsim.simulation.simulation import Simulation

# The base class that an option's class must have; for a model see fedsim.config.model_targets
GROUPS = {
    "data": "fedsim.data.DataSource",
    "partition": "fedsim.data.Partition",
    "model": None,
    "client": "fedsim.algorithms.ClientRule",
    "aggregator": "fedsim.algorithms.Aggregator",
    "correction": "fedsim.algorithms.Correction",
    "participation": "fedsim.participation.Participation",
    "protocol": "fedsim.protocols.Protocol",
    "topology": "fedsim.network.Topology",
    "mixing": "fedsim.network.Mixing",
    "attack": "fedsim.attacks.Attack",
    "failures": "fedsim.rounds.Failures",
    "local": "fedsim.training.LocalTraining",
    "schedule": "fedsim.schedules.Schedule",
    "engine": "fedsim.engine.Engine",
    "evaluation": "fedsim.evaluation.Evaluation",
    "checkpoint": "fedsim.recording.Checkpoint",
    "logger": "fedsim.recording.Logger",
}
METRICS = "metrics"  # the group of which several options may be chosen: name -> settings
OPTIONAL = ("correction", "topology", "mixing")  # groups that may be absent
# Groups that choose options of others and have no settings of their own
PRESETS = ("algorithm", "experiment")
MOST_SEEDS = 100  # in one go


@dataclass(frozen=True)
class Settings:
    """What a run is built from. config: group or plain key -> plain values; choices: group ->
    option; overrides: what was typed; seeds: of several runs that differ in the seed alone, or
    none."""

    config: dict[str, Any]
    choices: dict[str, str] = field(default_factory=dict)
    overrides: list[str] = field(default_factory=list)
    seeds: Sequence[int] = ()

    def of_each_seed(self) -> list[Settings]:
        """The settings of the run of each seed, as if it had been typed alone."""
        typed = [
            override
            for override in self.overrides
            if override.lstrip("+").partition("=")[0] not in ("seed", "seeds")
        ]
        return [
            Settings(self.config | {"seed": seed}, self.choices, [*typed, f"seed={seed}"])
            for seed in self.seeds
        ]

    @property
    def recorded(self) -> dict[str, Any]:
        """What is recorded with a run."""
        return {**self.config, "choices": self.choices}


def parse_seeds(value: Any) -> list[int]:
    """Seeds from "0..9" or a list; none of None. Raises ConfigError."""
    found = value
    if value is None:
        return []
    if isinstance(value, str) and (
        ends := re.fullmatch(r"(\d{1,18})\.\.(\d{1,18})", value.strip())
    ):
        first, last = map(int, ends.groups())
        found = list(range(first, last + 1)) if last - first < MOST_SEEDS else None
    whole = isinstance(found, list) and all(
        type(seed) is int and 0 <= seed < 2**63 for seed in found
    )
    accepted = (
        "accepted is a range such as 0..9 or a list such as [0,1,5], of different integers from 0"
        f" on, at most {MOST_SEEDS}"
    )
    require(
        whole and 0 < len(found) <= MOST_SEEDS and len(set(found)) == len(found),
        "seeds",
        value,
        accepted,
    )
    return found


@component
class PlainKeys:
    """The settings that belong to no group."""

    rounds: Annotated[int, Field(ge=1, strict=True)] = 100
    seed: Annotated[int, Field(ge=0, lt=2**63, strict=True)] = 0
    name: str | int | float = ""
    progress: StrictBool | Literal["auto"] = "auto"
    plots: StrictBool = False


def build(
    settings: Settings,
    folder: Path | str | None = None,
    progress: bool | Literal["auto"] | None = None,
) -> Simulation:
    """The simulation that the settings describe. folder: where it records; progress: in place of
    the setting. Raises ConfigError, its key being the setting's ("aggregator.cutoff")."""
    from fedsim.simulation.simulation import Simulation

    config = settings.config
    known = [*GROUPS, METRICS, *settings_of(PlainKeys)]
    for key, value in config.items():
        require(key in known, key, value, f"unknown key; {suggest(key, known)}")
    try:
        plain = PlainKeys(**{key: config[key] for key in settings_of(PlainKeys) if key in config})
    except ConfigError as error:
        raise ConfigError(
            error.key.removeprefix("PlainKeys."), error.value, error.accepted
        ) from None
    parts = {group: _part(group, config.get(group)) for group in GROUPS}
    logger = parts.pop("logger")
    chosen = config.get(METRICS) or {}
    # Recorded by a run built from objects
    if isinstance(chosen, list) and all(isinstance(node, Mapping) for node in chosen):
        chosen = {str(number): node for number, node in enumerate(chosen)}
    require(
        isinstance(chosen, Mapping),
        METRICS,
        chosen,
        f"accepted is a list of options, {METRICS}=[objective]; fedsim list {METRICS}",
    )
    return Simulation(
        **parts,
        metrics=[_part(f"{METRICS}.{name}", node) for name, node in chosen.items()],
        rounds=plain.rounds,
        seed=plain.seed,
        name=str(plain.name),
        progress=plain.progress if progress is None else progress,
        plots=plain.plots,
        folder=folder,
        loggers=[logger],
        config=settings.recorded,
        overrides=settings.overrides,
    )


def in_settings(error: ConfigError, settings: Settings) -> ConfigError:
    """The same error with the key of the setting where it names a component's class ("MLP.hidden"
    -> "model.hidden")."""
    name = error.key.split(".")[0]
    for group in GROUPS:
        part = settings.config.get(group)
        if isinstance(part, Mapping) and str(part.get("_target_")).rpartition(".")[2] == name:
            return error.under(group)
    return error


def _part(group: str, node: Any) -> Any:
    """The object that a group's settings describe; None for an optional group without any."""
    if not node and group in OPTIONAL:
        return None
    require(
        bool(node),
        group,
        node,
        f"an option must be chosen: {group}=OPTION; fedsim list {group} shows what there is",
    )
    require(
        isinstance(node, Mapping),
        group,
        node,
        f"accepted are an option's name and settings ({group}.SETTING=VALUE)",
    )
    settings = {str(key): value for key, value in node.items() if key != "_target_"}
    if "_target_" not in node:
        name = next(iter(settings))
        raise ConfigError(
            f"{group}.{name}",
            settings[name],
            f"no {group} is chosen that it could belong to; choose one with {group}=OPTION",
        )
    target, key = locate(node["_target_"], f"{group}._target_"), f"{group}._target_"
    require(callable(target), key, node["_target_"], "is no class or function")
    known = defaults_of(target)
    for name, value in settings.items():
        if known is not None and name not in known and not (group == "model" and name in FROM_DATA):
            raise ConfigError(
                f"{group}.{name}",
                value,
                f"unknown setting of {target.__name__}; {suggest(name, known)}",
            )
    if group == "model":
        check_model_target(target, key, node["_target_"])
        return functools.partial(target, **settings)
    base = GROUPS.get(group) or "fedsim.evaluation.Metric"
    # Settings may come with somebody else's run folder
    fits = isinstance(target, type) and issubclass(target, locate(base, key))
    require(fits, key, node["_target_"], f"accepted is a subclass of {base}")
    try:
        return target(**settings)
    except ConfigError as error:
        raise error.under(group) from None
    except (TypeError, ValueError) as error:  # of a user's class that is no component
        raise ConfigError(
            key, node["_target_"], f"could not be built ({type(error).__name__}: {error})"
        ) from error


def locate(path: Any, key: str) -> Any:
    """The object at a dotted path ("my_module.MyRule"), its module imported. Raises
    ConfigError(key, path, ...)."""
    whole = (
        isinstance(path, str)
        and all(part.isidentifier() for part in path.split("."))
        and "." in path
    )
    require(
        whole,
        key,
        path,
        "accepted is the dotted path of a class or function, such as my_module.MyRule",
    )
    module, names = _import(canonical_name(path), key)
    found: Any = module
    for name in names:
        if not hasattr(found, name):
            where = getattr(found, "__name__", type(found).__name__)
            near = difflib.get_close_matches(name, dir(found), 1)
            raise ConfigError(
                key, path, f"{where} has no {name}" + (f"; did you mean {near[0]}?" if near else "")
            )
        found = getattr(found, name)
    return found


def _import(path: str, key: str) -> tuple[Any, list[str]]:
    """The longest part of the path that is a module, and the names that follow it."""
    parts = path.split(".")
    for count in range(len(parts) - 1, 0, -1):
        name = ".".join(parts[:count])
        try:
            return importlib.import_module(name), parts[count:]
        except Exception as error:
            absent = (
                isinstance(error, ModuleNotFoundError)
                and error.name is not None
                and (name + ".").startswith(error.name + ".")
            )
            if not absent:
                raise ConfigError(
                    key, path, f"{name} cannot be imported ({type(error).__name__}: {error})"
                ) from error
    raise ConfigError(
        key,
        path,
        f"there is no module {parts[0]}; accepted is the dotted path of a class that can be"
        " imported from here",
    )


def suggest(name: str, known: Iterable[str]) -> str:
    """What is accepted instead of `name`: "did you mean cutoff? accepted are cutoff, rate"."""
    accepted = list(known)
    near = difflib.get_close_matches(str(name), accepted, 1)
    return (f"did you mean {near[0]}? " if near else "") + (
        f"accepted are {', '.join(accepted)}" if accepted else "it has none"
    )
