"""Going on with a run that was interrupted, from what its folder says.

The folder of a run that this user made on this machine (`fedsim.recording.signature`) is believed.
Any other is data that somebody sent: its targets are judged (`fedsim.config.trust`), and what is of
the machine and not of the run comes from the defaults and the command line, never from the folder:
a logger writes to any folder, an engine joins any cluster. No text of a folder, own or sent, is
ever resolved (`${oc.env:HOME}`): Hydra sees what was typed alone.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedsim.component import defaults_of
from fedsim.config.building import Settings, locate
from fedsim.config.composition import compose
from fedsim.config.running import ending, run_one
from fedsim.config.sweeps import state_of
from fedsim.config.trust import check_targets, import_from_here
from fedsim.errors import ConfigError, cut, one_line, require
from fedsim.recording.files import read_json, read_yaml, shown
from fedsim.recording.identity import with_present_names
from fedsim.recording.signature import is_signed
from fedsim.simulation.result import FINISHED

CHANGEABLE = ("engine", "progress", "logger", "checkpoint")  # what may differ when a run goes on
MACHINE = ("engine", "logger")  # groups that are not taken from a folder that was sent
FILES = ("data.file", "participation.file", "topology.path", "schedule.norms")  # that a run reads
_PLACES = ("data.root", "data.url")  # where data are, and where they are downloaded from
_RECORDED = "recorded"  # stands for a recorded class where Hydra reads settings typed for it


def take_folder(given: Sequence[str]) -> tuple[Path | None, list[str]]:
    """The folder of resume=FOLDER, and the other arguments. Raises ConfigError."""
    found = [
        argument.removeprefix("resume=") for argument in given if argument.startswith("resume=")
    ]
    require(len(found) <= 1, "resume", found, "accepted is one folder")
    require(found != [""], "resume", "", "accepted is the folder of a run")
    return (Path(found[0]).expanduser() if found else None), [
        argument for argument in given if not argument.startswith("resume=")
    ]


def resume(
    folder: Path,
    overrides: Sequence[str],
    config_dir: Path | str | None = None,
    trusted: Sequence[str] = (),
) -> None:
    """Go on with the run in `folder` and say how it ended, as `fedsim run` does.

    overrides: of the engine and what is seen alone; trusted: modules that the folder of somebody
    else may name. Modules beside the user are found for a run of the user's own, and where some
    are trusted; never for another, nor from within the run folder itself, which others may have
    filled since it was signed.
    Raises ConfigError.
    """
    if trusted:
        import_from_here()
    settings, own = _settings_of(folder, overrides, config_dir, trusted)
    inside = Path.cwd().is_relative_to(folder.resolve())
    if own and not inside:
        import_from_here()
    if inside and not trusted:
        _refuse_cluster(settings)
    if (state := state_of(folder)) in FINISHED:
        print(_ending(folder, str(state), settings), flush=True)
    else:
        run_one(settings, folder.absolute(), resume=True)


def recorded_settings(
    folder: Path,
    overrides: Sequence[str] = (),
    config_dir: Path | str | None = None,
    trusted: Sequence[str] = (),
) -> Settings:
    """The settings that a run folder has recorded, with `overrides`; see `resume`. Raises
    ConfigError."""
    return _settings_of(folder, overrides, config_dir, trusted)[0]


def _settings_of(
    folder: Path,
    overrides: Sequence[str],
    config_dir: Path | str | None,
    trusted: Sequence[str],
) -> tuple[Settings, bool]:
    """The settings, and whether the folder is the user's own."""
    _check_overrides(overrides)
    recorded, typed = _read(folder)
    own = is_signed(folder, recorded)
    config = with_present_names({key: value for key, value in recorded.items() if key != "choices"})
    if not own:
        config = _of_somebody(config, _typed(overrides), trusted)
    choices = dict(recorded.get("choices") or {})
    for group in CHANGEABLE:
        mine = _of_group(overrides, group)
        if mine or group not in config:
            config, choices = _changed(config, choices, group, mine, config_dir)
    config = _placed(config, overrides, config_dir)
    if not own:
        _tell(folder, recorded, config, overrides)
    return Settings(config, choices, typed), own


def _check_overrides(overrides: Sequence[str]) -> None:
    for override in overrides:
        key, _, value = override.lstrip("+~").partition("=")
        allowed = key.split(".")[0] in CHANGEABLE or key in _PLACES
        accepted = (
            "a run goes on with its own settings; beside resume accepted are"
            f" {', '.join(CHANGEABLE)}, data.root and --config-dir"
        )
        require(allowed and not override.startswith(("-", "~")), key or override, value, accepted)


def _read(folder: Path) -> tuple[dict[str, Any], list[str]]:
    """What config.yaml and overrides.yaml hold."""
    accepted = "accepted is the folder of a run, with its config.yaml"
    # False also for a name that is too long for one
    sweep = os.path.isfile(folder / "multirun.yaml")
    accepted = (
        "a sweep goes on when its command is given again; accepted is the folder of a run"
        if sweep
        else accepted
    )
    require(os.path.isfile(folder / "config.yaml"), "resume", str(folder), accepted)
    try:
        recorded = read_yaml(folder / "config.yaml")
        typed = (
            read_yaml(folder / "overrides.yaml") if (folder / "overrides.yaml").is_file() else []
        )
    except ConfigError as error:
        raise ConfigError("resume", str(folder), f"accepted is {error.accepted}") from None
    whole = isinstance(recorded, dict) and "rounds" in recorded and isinstance(typed, list)
    whole = whole and isinstance(recorded.get("choices") or {}, dict)
    require(
        whole,
        "resume",
        shown(folder.absolute()),
        "its config.yaml has no settings of a run; it was refused before it began",
    )
    return recorded, [str(override) for override in typed]


def _of_somebody(
    config: dict[str, Any], typed: Mapping[str, str], trusted: Sequence[str]
) -> dict[str, Any]:
    """What is taken of the settings in a folder that was sent. Raises ConfigError."""
    config = {key: part for key, part in config.items() if key not in MACHINE}
    data = config.get("data")
    if isinstance(data, dict):
        config["data"] = {key: part for key, part in data.items() if key != "root"}
    check_targets(config, trusted)
    if isinstance(data, dict) and data.get("url") and "data.url" not in typed:
        known = defaults_of(locate(data.get("_target_"), "data._target_")) or {}
        accepted = (
            "its data would be downloaded from there, as a folder not made by you on this machine"
            " says; "
        )
        accepted += "accepted: the same data.url=[...] given here, if you trust it"
        require(data["url"] == known.get("url"), "data.url", data["url"], accepted)
    return config


def _changed(
    config: dict[str, Any],
    choices: dict[str, str],
    group: str,
    mine: Sequence[str],
    config_dir: Path | str | None,
) -> tuple[dict[str, Any], dict[str, str]]:
    """Settings and choices with what was typed for a group, or with its default."""
    part = config.get(group)
    chosen = not (isinstance(part, dict) and "_target_" in part)
    chosen = chosen or any(override.startswith(f"{group}=") for override in mine)
    found = compose(mine if chosen else [f"{group}._target_={_RECORDED}", *mine], config_dir)
    if group not in found.config:
        return config, choices
    if not chosen:
        new = found.config[group]
        kept = {
            name: value for name, value in new.items() if (name, value) != ("_target_", _RECORDED)
        }
        return {**config, group: {**config[group], **kept}}, choices
    if group in found.choices:
        choices = {**choices, group: found.choices[group]}
    return {**config, group: found.config[group]}, choices


def _placed(
    config: dict[str, Any], overrides: Sequence[str], config_dir: Path | str | None
) -> dict[str, Any]:
    """The settings with the places of the data that were typed."""
    mine = [
        override
        for override in _of_group(overrides, "data")
        if isinstance(config.get("data"), dict)
    ]
    if not mine:
        return config
    found = compose(mine, config_dir).config["data"]
    places = {name: found[name] for name in (key.removeprefix("data.") for key in _typed(mine))}
    return {**config, "data": {**config["data"], **places}}


def _tell(
    folder: Path,
    recorded: Mapping[str, Any],
    config: Mapping[str, Any],
    overrides: Sequence[str],
) -> None:
    """Say what of a folder that was sent is not used, and nothing typed stands for, and which files
    it has the run read."""
    left = [group for group in MACHINE if group in recorded and not _of_group(overrides, group)]
    left = [group for group in left if recorded[group] != config.get(group)]
    data = recorded.get("data")
    rooted = isinstance(data, dict) and data.get("root") is not None
    left += ["data.root"] if rooted and "data.root" not in _typed(overrides) else []
    where = f"{one_line(shown(folder))} was not made by you on this machine"
    if left:
        _say(
            f"{where}: its {', '.join(left)} {'is' if len(left) == 1 else 'are'} not used; what you"
            " want of it, give here"
        )
    for key in FILES:
        group, _, name = key.partition(".")
        value = config[group].get(name) if isinstance(config.get(group), dict) else None
        if isinstance(value, str):
            _say(f"{where}, and has the run read {key}={cut(one_line(repr(value)))}")


def _refuse_cluster(settings: Settings) -> None:
    """A Ray cluster has its workers look for modules in the driver's current folder, and there
    first; a session of fedsim's own does not (`fedsim.engine.ray_private`)."""
    engine = settings.config.get("engine")
    address = engine.get("address") if isinstance(engine, dict) else None
    accepted = (
        "its workers would import what lies in this folder; go on from outside of it: resume=FOLDER"
    )
    require(address is None, "engine.address", address, accepted)


def _ending(folder: Path, state: str, settings: Settings) -> str:
    """How a finished run has ended. Raises ConfigError."""
    try:
        return ending(
            read_json(folder / "summary.json"), f"{state} before", folder.absolute(), settings
        )
    except (LookupError, TypeError, ValueError, AttributeError):  # written by somebody else
        raise ConfigError(
            "resume", str(folder / "summary.json"), "it is no summary of a finished run"
        ) from None


def _typed(overrides: Sequence[str]) -> dict[str, str]:
    return dict(override.lstrip("+").partition("=")[::2] for override in overrides)


def _of_group(overrides: Sequence[str], group: str) -> list[str]:
    bare = [override.lstrip("+") for override in overrides]
    return [override for override in bare if override.partition("=")[0].split(".")[0] == group]


def _say(line: str) -> None:
    print(f"fedsim: {line}", file=sys.stderr, flush=True)
