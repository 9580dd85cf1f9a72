"""What there is to choose from: the options of every group, fedsim's and the user's own."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from fedsim.component import defaults_of
from fedsim.config.building import GROUPS, PRESETS, locate
from fedsim.errors import ConfigError, require

_PACKAGE = Path(__file__).resolve().parents[1]
# Within the package where it was installed from a wheel, beside it in a checkout; by path and never
# by import, so that a module named conf of the user's is nothing to it
OPTIONS = next(
    (at for at in (_PACKAGE / "conf", _PACKAGE.parent / "conf") if (at / "config.yaml").is_file()),
    _PACKAGE / "conf",
)
VARIABLE = "FEDSIM_CONFIG_DIR"


@dataclass(frozen=True)
class Option:
    """One YAML file: group=name. text: its first comment; own: it is the user's."""

    group: str
    name: str
    text: str
    path: Path
    own: bool


def user_folders(config_dir: Path | str | None = None) -> list[Path]:
    """The folders of the user's own options: `config_dir`, then those in the environment variable
    FEDSIM_CONFIG_DIR. Raises ConfigError."""
    given = [("--config-dir", config_dir)] if config_dir is not None else []
    given += [(VARIABLE, part) for part in os.environ.get(VARIABLE, "").split(os.pathsep) if part]
    for key, folder in given:
        require(
            os.path.isdir(Path(folder).expanduser()),
            key,
            str(folder),
            "accepted is an existing folder, with a folder for each group",
        )
    return [Path(folder).expanduser().resolve() for _, folder in given]


def find_options(config_dir: Path | str | None = None) -> dict[str, list[Option]]:
    """All options by group; a user's option hides fedsim's of the same name. Raises ConfigError."""
    found: dict[str, dict[str, Option]] = {group: {} for group in (*PRESETS, *GROUPS)}
    for folder in (OPTIONS, *reversed(user_folders(config_dir))):
        for path in sorted(folder.glob("*/*.yaml")):
            group, name = path.parent.name, path.stem
            if group != "hydra":
                found.setdefault(group, {})[name] = Option(
                    group, name, first_comment(path), path, folder != OPTIONS
                )
    return {
        group: sorted(options.values(), key=lambda option: option.name)
        for group, options in found.items()
    }


def first_comment(path: Path) -> str:
    """The first comment at the head of a YAML file that is no instruction to Hydra (`# @package
    ...`); "" if there is none."""
    try:
        lines: Iterable[str] = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            path.parent.name, str(path), f"a YAML file that can be read ({error})"
        ) from None
    for line in filter(None, map(str.strip, lines)):
        if not line.startswith("#"):
            return ""
        text = line.lstrip("#").strip()
        if text and not text.startswith("@"):
            return text
    return ""


def settings_line(option: Option) -> str:
    """The option's settings, "cutoff=null rate=1.0": all that its class takes, with the values of
    the YAML or else the class's own; of a preset, what it chooses. Raises ConfigError."""
    try:
        node = yaml.safe_load(option.path.read_bytes()) or {}
    except (yaml.YAMLError, OSError) as error:
        raise ConfigError(
            option.group, str(option.path), f"accepted is YAML that can be read ({error})"
        ) from None
    if not isinstance(node, dict):
        return ""
    chosen = {
        key.split("/")[-1]: name
        for entry in node.pop("defaults", [])
        if isinstance(entry, dict)
        for key, name in entry.items()
    }
    if option.group in PRESETS:
        return " ".join(f"{key}={_text(value)}" for key, value in {**chosen, **_flat(node)}.items())
    node = node.get(option.group, node) or {}
    if "_target_" not in node or "???" in str(node["_target_"]):
        return " ".join(f"{key}={_text(value)}" for key, value in _flat(node).items())
    target = locate(node.pop("_target_"), f"{option.group}._target_")
    return " ".join(
        f"{key}={_text(value)}" for key, value in {**(defaults_of(target) or {}), **node}.items()
    )


def _flat(node: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in node.items():
        flat |= (
            _flat(value, f"{prefix}{key}.")
            if isinstance(value, dict)
            else {f"{prefix}{key}": value}
        )
    return flat


def _text(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return text if len(text) <= 60 else "..."
