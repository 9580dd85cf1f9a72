"""Errors a user can mend: one line that names the key, the value and what is accepted."""

from __future__ import annotations

from typing import Any


class ConfigError(Exception):
    """A setting or an input file that cannot be used.

    key: dotted name of the setting ("partition.alpha") or of the component ("Dirichlet.alpha");
    value: what was given; accepted: what would be accepted.
    The command line prints the message alone and ends with exit code 2.
    """

    def __init__(self, key: str, value: Any, accepted: str) -> None:
        super().__init__(key, value, accepted)
        self.key, self.value, self.accepted = key, value, accepted

    def __str__(self) -> str:
        shown = repr(self.value)
        if len(shown) > 120:
            shown = shown[:117] + "..."
        return " ".join(f"{self.key}={shown}: {self.accepted}".split())

    def under(self, group: str) -> ConfigError:
        """The same error with its key's component replaced by, or put below, the configuration group `group`."""
        name = self.key.rsplit(".", 1)[-1] if self.key[:1].isupper() else self.key
        key = group if name[:1].isupper() else name if name.startswith(group + ".") else f"{group}.{name}"
        return ConfigError(key, self.value, self.accepted)


def require(condition: bool, key: str, value: Any, accepted: str) -> None:
    """Raise ConfigError(key, value, accepted) unless `condition` holds."""
    if not condition:
        raise ConfigError(key, value, accepted)
