"""All targets. A new one: an instance of `Target` (harness.py) in the TARGETS of a module of this
folder, and the module in MODULES."""

from __future__ import annotations

import importlib

from tests.fuzz.harness import Target

MODULES = (
    "configurations",
    "command_line",
    "data_files",
    "downloads",
    "tables_and_graphs",
    "run_folders",
    "checkpoints",
)


def all_targets() -> list[Target]:
    """In the order of MODULES."""
    return [
        target
        for name in MODULES
        for target in importlib.import_module(f"tests.fuzz.{name}").TARGETS
    ]
