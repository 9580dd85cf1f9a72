"""Hydra: options of YAML groups and what was typed, composed into plain settings. Only this file
and `launching` import Hydra.

Settings of a group need no `+`, also those that its YAML does not list: the option's class says
what it accepts, not the YAML.
"""

from __future__ import annotations

import contextlib
import posixpath
import re
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import hydra
from hydra.core.config_search_path import ConfigSearchPath, SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    MissingMandatoryValue,
    OmegaConfBaseException,
)
from yaml import YAMLError

from fedsim.component import settings_of
from fedsim.config.building import (
    GROUPS,
    METRICS,
    PRESETS,
    PlainKeys,
    Settings,
    parse_seeds,
    suggest,
)
from fedsim.config.options import OPTIONS, user_folders
from fedsim.errors import ConfigError, require

# Of the user's own options, the first wins
_folders: ContextVar[Sequence[Path]] = ContextVar("_folders", default=())
VERSION = "1.3"
# "local.rate=0.1", "model={hidden: [3]}"
_SETTING = re.compile(rf"({'|'.join([*GROUPS, METRICS])})(\.|=\s*\{{)")
_OPTION = re.compile(rf"\+(?=({'|'.join([*GROUPS, METRICS, *PRESETS])})=)")  # "+experiment=digits"


class UserFolders(SearchPathPlugin):
    """Puts the user's folders of options before fedsim's own."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        for folder in _folders.get():
            search_path.prepend("user", f"file://{folder}", SearchPathQuery(provider="main"))


def compose(overrides: Sequence[str], config_dir: Path | str | None = None) -> Settings:
    """The settings that `overrides` (Hydra's grammar) give. config_dir: the user's own options.
    Raises ConfigError."""
    with hydra_state(), searching(config_dir), explaining(overrides):
        settings = composed(overrides)
    require(
        not settings.seeds, "seeds", settings.seeds, "is of fedsim run; here each run has one seed"
    )
    return settings


def composed(overrides: Sequence[str]) -> Settings:
    """As `compose`, within its three contexts."""
    with hydra.initialize_config_dir(str(OPTIONS), job_name="fedsim", version_base=VERSION):
        cfg = hydra.compose(
            "config", [opened(override) for override in overrides], return_hydra_config=True
        )
        HydraConfig.instance().cfg = cfg
        return settings_in(cfg)


def settings_in(cfg: DictConfig) -> Settings:
    """A composed configuration, without what belongs to Hydra and to a sweep, as plain values."""
    known = HydraConfig.get()
    kept = OmegaConf.masked_copy(cfg, [key for key in cfg if key not in ("hydra", "sweep")])
    config: Any = OmegaConf.to_container(kept, resolve=True, throw_on_missing=True)
    seeds = parse_seeds(config.pop("seeds", None))
    choices = {
        group: known.runtime.choices[group]
        for group in (*GROUPS, *PRESETS)
        if group in known.runtime.choices
    }
    overrides = overrides_in(known)
    typed = dict(override.lstrip("+").partition("=")[::2] for override in overrides)
    require(
        not seeds or "seed" not in typed,
        "seed",
        typed.get("seed"),
        "of seed and seeds one can be given",
    )
    for group in GROUPS:
        require(
            group in choices or not config.get(group),
            group,
            typed.get(group),
            "accepted is one option",
        )
        # A class of the user's own in place of an option, whose settings go with it
        if f"{group}._target_" in typed:
            config[group] = {
                name: value for name, value in config[group].items() if f"{group}.{name}" in typed
            }
            choices[group] = typed[f"{group}._target_"].rpartition(".")[2]
    return Settings(config, choices, overrides, seeds)


def overrides_in(known: Any) -> list[str]:
    """The overrides as the user gave them."""
    return [
        str(override).removeprefix("++")
        for override in OmegaConf.to_container(known.overrides.task, resolve=False)
    ]


def opened(argument: str) -> str:
    """An override that may add what it sets: a setting that the option's YAML does not list, a
    group without an option."""
    bare = argument.lstrip("+")
    return f"++{bare}" if _SETTING.match(bare) else _OPTION.sub("", argument, count=1)


@contextlib.contextmanager
def hydra_state() -> Iterator[None]:
    """Hydra's global state set aside, so that fedsim can be used inside another Hydra program, a
    notebook, or a job."""
    before, config = GlobalHydra.instance().hydra, HydraConfig.instance().cfg
    GlobalHydra.instance().clear()
    try:
        yield
    finally:
        GlobalHydra.instance().hydra, HydraConfig.instance().cfg = before, config


@contextlib.contextmanager
def searching(config_dir: Path | str | None) -> Iterator[None]:
    Plugins.instance().register(UserFolders)
    token = _folders.set(user_folders(config_dir))
    try:
        yield
    finally:
        _folders.reset(token)


@contextlib.contextmanager
def explaining(overrides: Sequence[str]) -> Iterator[None]:
    """Turns what Hydra and OmegaConf raise into ConfigError."""
    try:
        yield
    except (
        HydraException,
        OmegaConfBaseException,
        YAMLError,
        OSError,
        ValueError,
        TypeError,
        RecursionError,
    ) as error:
        raise _explain(error, overrides) from None


def _explain(error: Exception, overrides: Sequence[str]) -> ConfigError:
    text, typed = (
        " ".join(str(error).split()),
        dict(override.lstrip("+~").partition("=")[::2] for override in overrides),
    )
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error
    if isinstance(error, MissingConfigException):
        group, _, option = str(error.missing_cfg_file).rpartition("/")
        if error.options is None and group:
            return ConfigError(
                posixpath.normpath(group),
                option,
                "there is no such file, which the defaults of another option name",
            )
        if error.options is None:
            return ConfigError(
                "--config-name",
                option,
                "there is no such configuration; accepted is config, and what --config-dir adds",
            )
        return ConfigError(group, option, f"unknown option; {suggest(option, error.options)}")
    if isinstance(error, OverrideParseException):
        key, _, value = error.override.lstrip("+~").partition("=")
        reason = next(
            line for line in reversed(str(error).splitlines()) if not line.startswith("See ")
        )
        return ConfigError(
            key,
            value,
            f"cannot be read ({reason}); accepted is key=value, special characters in quotes, a"
            " list as [1,2]",
        )
    if isinstance(cause, OmegaConfBaseException) and (cause.full_key or "nterpolation" in text):
        return _explain_key(cause, typed)
    if "multirun" in text and (found := re.search(r"'([^'=]+)=([^']*)'", text)):
        return ConfigError(
            found[1],
            found[2],
            "several values need -m, which makes one run for each; a list is written [1,2]",
        )
    if isinstance(error, YAMLError) and (mark := getattr(error, "problem_mark", None)):
        return ConfigError(
            "config",
            f"{mark.name}:{mark.line + 1}",
            f"accepted is YAML ({getattr(error, 'problem', text)})",
        )
    groups = [key for key in typed if key in (*GROUPS, METRICS, *PRESETS) or "/" in key]
    odd = [key for key in groups if typed[key] == "null" or not typed[key][:1].isalpha()]
    if odd and (text.startswith("Config group override must be") or isinstance(error, TypeError)):
        group = odd[0]
        return ConfigError(
            group,
            typed[group],
            f"accepted is the name of an option; fedsim list {group} shows them",
        )
    return ConfigError("arguments", " ".join(overrides), text)


def _explain_key(error: OmegaConfBaseException, typed: dict[str, str]) -> ConfigError:
    key, reason = str(error.full_key), str(error).splitlines()[0]
    if isinstance(error, MissingMandatoryValue):
        return ConfigError(key, "???", f"must be given: {key}=VALUE")
    if not isinstance(error, ConfigAttributeError | ConfigKeyError) or "nterpolation" in reason:
        # Where it is written, not where it is used
        key = next((name for name, value in typed.items() if "${" in value), key)
        return ConfigError(key, typed.get(key), reason)
    key = next((name for name in typed if name.startswith(f"{key}.")), key)
    name, value = key.partition(".")[0], typed.get(key)
    if name == "hydra":
        return ConfigError(
            key, value, "unknown key of Hydra; fedsim run --cfg hydra shows them all"
        )
    if name in PRESETS and name != key:
        return ConfigError(
            key,
            value,
            f"{name} chooses options of other groups and has no settings; accepted are"
            f" {', '.join(GROUPS)}",
        )
    plain = settings_of(PlainKeys)
    if name in plain:
        return ConfigError(key, value, f"{name} is a plain value, without settings of its own")
    return ConfigError(
        key, value, f"unknown key; {suggest(name, [*GROUPS, METRICS, *PRESETS, *plain])}"
    )
