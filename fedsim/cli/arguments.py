"""What the commands have in common: a parser that says what is wrong in one line, and
--config-dir."""

from __future__ import annotations

import argparse
from typing import NoReturn

from fedsim.errors import cut, one_line, require


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(
            2,
            f"{self.prog}: {cut(one_line(message), 1000)}; {self.prog} --help shows what is"
            " accepted\n",
        )


def take_config_dir(given: list[str]) -> tuple[str | None, list[str]]:
    """The folder of --config-dir, and the other arguments. It is taken from Hydra, which would put
    it behind fedsim's own options."""
    rest, found = [], None
    arguments = iter(given)
    for argument in arguments:
        flag, equals, value = argument.partition("=")
        if flag not in ("--config-dir", "-cd"):
            rest.append(argument)
            continue
        found = value if equals else next(arguments, "")
        require(bool(found), flag, found, "needs a folder")
    return found, rest
