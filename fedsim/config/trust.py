"""What the settings of a recorded folder may name, and what is imported from the current folder.

A folder that somebody sent is data, never code. Of its settings nothing is imported before each
`_target_` in them, at any depth, was accepted as a string, and nothing is used before the object it
leads to was accepted too:

* a class that was defined in fedsim: `fedsim.models.MLP`, but not `fedsim.cli.main.os.system`,
  which fedsim only imports, nor a function of fedsim's, some of which write files or run commands;
* what was defined in a module that the user names on the command line: `--trust my_module`;
* anything in a run of the user's own on this machine: see `fedsim.recording.signature`.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any

from fedsim.errors import ConfigError, require

OWN = "fedsim"
_SENT = "it comes from a folder not made by you on this machine"
_ACCEPTED = "accepted: --trust MODULE, if you trust that module"


def take_trusted(given: Sequence[str]) -> tuple[list[str], list[str]]:
    """The modules of --trust MODULE, and the other arguments. Raises ConfigError."""
    trusted, rest, arguments = [], [], iter(given)
    for argument in arguments:
        flag, equals, value = argument.partition("=")
        if flag != "--trust":
            rest.append(argument)
            continue
        value = value if equals else next(arguments, "")
        require(_is_path(value), flag, value, "accepted is the name of a module: --trust my_module")
        trusted.append(value)
    return trusted, rest


def check_targets(config: Any, trusted: Sequence[str] = ()) -> None:
    """Raise ConfigError unless every `_target_` in the settings of a sent folder is accepted. All
    are looked at as strings before the first module is imported."""
    found = list(targets_in(config))
    for key, path in found:
        known = _is_path(path) and _within(path, [OWN, *trusted])
        require(known, key, path, f"{_SENT} and is not a part of fedsim; {_ACCEPTED}")
    for key, path in found:
        if _within(path, trusted) and not _within(path, [OWN]):
            _check_trusted(key, path, trusted)
        else:
            reason = f"{_SENT} and is not a class defined in fedsim; {_ACCEPTED}"
            require(own_class(path) is not None, key, path, reason)


def targets_in(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of every `_target_`, in mappings and lists at any depth."""
    if isinstance(config, Mapping):
        parts = list(config.items())
    else:
        parts = list(enumerate(config)) if isinstance(config, list | tuple) else []
    for name, part in parts:
        if name == "_target_":
            yield f"{prefix}{name}", part
        else:
            yield from targets_in(part, f"{prefix}{name}.")


def own_class(path: str) -> type | None:
    """The class at a dotted path if it was defined in fedsim, else None. No module but fedsim's is
    imported or walked through, none of a private name (`fedsim.__main__` runs the command line),
    and nothing is called."""
    first, *names = path.split(".")
    if first != OWN or any(name.startswith("_") for name in names):
        return None
    found: Any = importlib.import_module(OWN)
    for name in names:
        found = vars(found).get(name) if isinstance(found, type) else _member(found, name)
        home = found.__name__ if isinstance(found, ModuleType) else OWN
        if not isinstance(found, ModuleType | type) or not _within(home, [OWN]):
            return None
    return found if isinstance(found, type) and _within(found.__module__, [OWN]) else None


def import_from_here() -> None:
    """Let modules of the current folder be found: the user's own classes. It comes last, so that no
    file in it stands for a library."""
    with contextlib.suppress(OSError):  # the folder is gone
        if os.getcwd() not in sys.path and "" not in sys.path:
            sys.path.append(os.getcwd())


@contextlib.contextmanager
def path_kept() -> Iterator[None]:
    """Take back what `import_from_here` adds meanwhile."""
    before, here = list(sys.path), ""
    with contextlib.suppress(OSError):
        here = os.getcwd()
    try:
        yield
    finally:
        if here in sys.path and here not in before:
            sys.path.remove(here)


def _check_trusted(key: str, path: str, trusted: Sequence[str]) -> None:
    """A trusted module may import others that are not: `my_module.os.system`."""
    from fedsim.config.building import locate

    found = locate(path, key)
    found = found.func if isinstance(found, functools.partial) else found
    home = str(getattr(found, "__module__", None))
    if not _within(home, [OWN, *trusted]):
        reason = f"{_SENT}, and {home}, where it was defined, is not trusted; {_ACCEPTED}"
        raise ConfigError(key, path, reason)


def _member(module: ModuleType, name: str) -> Any:
    """What a module of fedsim's has under a name: one that it exports, which is imported now, or a
    module of the package included."""
    if name in getattr(module, "__all__", ()):
        return getattr(module, name)
    if name in vars(module) or not hasattr(module, "__path__"):
        return vars(module).get(name)
    with contextlib.suppress(ImportError):  # also of an extra that is not installed
        return importlib.import_module(f"{module.__name__}.{name}")
    return None


def _within(path: str, modules: Sequence[str]) -> bool:
    return any(path == module or path.startswith(f"{module}.") for module in modules)


def _is_path(value: Any) -> bool:
    return isinstance(value, str) and all(part.isidentifier() for part in value.split("."))
