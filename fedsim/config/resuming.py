"""Going on with a run that was interrupted, from what its folder says."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedsim.config.building import Settings
from fedsim.config.composition import compose
from fedsim.config.running import ending, run_one
from fedsim.config.sweeps import state_of
from fedsim.errors import ConfigError, require
from fedsim.recording.files import read_json, read_yaml, shown
from fedsim.result import FINISHED

CHANGEABLE = ("engine", "progress", "logger", "checkpoint")  # what may differ when a run goes on


def take_folder(given: Sequence[str]) -> tuple[Path | None, list[str]]:
    """The folder of resume=FOLDER, and the other arguments. Raises ConfigError."""
    found = [argument.removeprefix("resume=") for argument in given if argument.startswith("resume=")]
    require(len(found) <= 1, "resume", found, "accepted is one folder")
    require(found != [""], "resume", "", "accepted is the folder of a run")
    return (Path(found[0]).expanduser() if found else None), [argument for argument in given if not argument.startswith("resume=")]


def resume(folder: Path, overrides: Sequence[str], config_dir: Path | str | None = None) -> None:
    """Go on with the run in `folder` and say how it ended, as `fedsim run` does. overrides: of the engine and what is seen alone.
    Raises ConfigError."""
    settings = recorded_settings(folder, overrides, config_dir)
    if (state := state_of(folder)) in FINISHED:
        print(ending(read_json(folder / "summary.json"), f"{state} before", folder.absolute(), settings), flush=True)
    else:
        run_one(settings, folder.absolute(), resume=True)


def recorded_settings(folder: Path, overrides: Sequence[str] = (), config_dir: Path | str | None = None) -> Settings:
    """The settings that a run folder has recorded, with `overrides`. Raises ConfigError."""
    for override in overrides:
        key, _, value = override.lstrip("+~").partition("=")
        allowed = not override.startswith(("-", "~")) and key.split(".")[0] in CHANGEABLE
        accepted = f"a run goes on with its own settings; beside resume accepted are {', '.join(CHANGEABLE)} and --config-dir"
        require(allowed, key or override, value, accepted)
    accepted = "accepted is the folder of a run, with its config.yaml"
    sweep = os.path.isfile(folder / "multirun.yaml")  # False also for a name that is too long for one
    accepted = "a sweep goes on when its command is given again; accepted is the folder of a run" if sweep else accepted
    require(os.path.isfile(folder / "config.yaml"), "resume", str(folder), accepted)
    try:
        recorded = read_yaml(folder / "config.yaml")
        typed = read_yaml(folder / "overrides.yaml") if (folder / "overrides.yaml").is_file() else []
    except ConfigError as error:
        raise ConfigError("resume", str(folder), f"accepted is {error.accepted}") from None
    whole = isinstance(recorded, dict) and "rounds" in recorded and isinstance(typed, list)
    require(whole, "resume", shown(folder.absolute()), "its config.yaml has no settings of a run; it was refused before it began")
    config: dict[str, Any] = {key: value for key, value in recorded.items() if key != "choices"}
    choices = recorded.get("choices") or {}
    for group in CHANGEABLE:
        mine = [override.lstrip("+") for override in overrides if override.lstrip("+").split("=")[0].split(".")[0] == group]
        if group in config and not mine:
            continue
        target = config.get(group, {}).get("_target_") if isinstance(config.get(group), dict) else None
        chosen = target is None or any(override.startswith(f"{group}=") for override in mine)
        found = compose(mine if chosen else [f"{group}._target_={target}", *mine], config_dir)
        if group in found.config:
            config[group] = found.config[group] if chosen else {**config[group], **found.config[group]}
            choices = {**choices, group: found.choices[group]} if chosen and group in found.choices else choices
    return Settings(config, choices, [str(override) for override in typed])
