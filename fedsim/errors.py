"""Errors a user can mend: one line that names the key, the value and what is accepted."""

from __future__ import annotations

import contextlib
import errno
import sys
from collections.abc import Iterator
from typing import Any


class ConfigError(Exception):
    """A setting or an input file that cannot be used.

    key: dotted name of the setting ("partition.alpha") or of the component ("Dirichlet.alpha");
    value: what was given; accepted: what would be accepted.
    The command line prints the message alone and ends with exit code 2.
    """

    def __init__(self, key: str, value: Any, accepted: str) -> None:
        super().__init__(key, value, accepted)
        self.key, self.value, self.accepted = str(key), value, accepted

    def __str__(self) -> str:
        return (
            f"{cut(one_line(self.key))}={cut(one_line(repr(self.value)))}:"
            f" {cut(one_line(self.accepted), 1000)}"
        )

    def under(self, group: str) -> ConfigError:
        """The same error with its key's component replaced by, or put below, the configuration
        group `group`."""
        name = self.key.rsplit(".", 1)[-1] if self.key[:1].isupper() else self.key
        key = (
            group
            if name[:1].isupper()
            else name
            if name.startswith(group + ".")
            else f"{group}.{name}"
        )
        return ConfigError(key, self.value, self.accepted)


def one_line(text: str) -> str:
    """`text` in one line, without characters that a terminal would obey."""
    return "".join(
        each if each.isprintable() else repr(each)[1:-1] for each in " ".join(text.split())
    )


def cut(text: str, most: int = 120) -> str:
    """`text`, or the beginning of it: at most so many characters."""
    return text if len(text) <= most else text[: most - 3] + "..."


def reason(error: BaseException) -> str:
    """What a library says is wrong, as a clause: its message, or its kind where it has none."""
    return cut(
        one_line(getattr(error, "strerror", None) or str(error)) or type(error).__name__, 200
    )


def wants_memory(error: BaseException) -> bool:
    """Whether an allocation failed, which Python, NumPy and torch each say in their own way."""
    if isinstance(error, MemoryError):
        return True
    torch = sys.modules.get("torch")  # not imported for this: without it, it is not torch's error
    if torch is not None and isinstance(error, torch.OutOfMemoryError):
        return True
    # Torch on CPU has no type of its own
    return isinstance(error, RuntimeError) and "allocate memory" in str(error)


@contextlib.contextmanager
def within_memory() -> Iterator[None]:
    """Turns want of memory into ConfigError; also a decorator, `@within_memory()`."""
    try:
        yield
    except (MemoryError, OSError) as error:
        if isinstance(error, OSError) and error.errno != errno.ENOMEM:
            raise
        accepted = (
            "these settings need more than there is; take fewer clients, samples or parameters"
        )
        raise ConfigError("memory", reason(error), accepted) from None


def require(condition: bool, key: str, value: Any, accepted: str) -> None:
    """Raise ConfigError(key, value, accepted) unless `condition` holds."""
    if not condition:
        raise ConfigError(key, value, accepted)
