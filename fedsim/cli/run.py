"""`fedsim run`: one run or many, or going on with one."""

from __future__ import annotations

import sys

from fedsim.cli.arguments import take_config_dir
from fedsim.config.trust import import_from_here, take_trusted
from fedsim.errors import require


def main(given: list[str]) -> int:
    """Hydra's command line, or a run that is gone on with. Returns the exit code."""
    from fedsim.config.resuming import resume, take_folder

    config_dir, given = take_config_dir(given)
    trusted, given = take_trusted(given)
    folder, given = take_folder(given)
    if folder is not None:
        resume(folder, given, config_dir, trusted)
        return 0
    require(
        not trusted,
        "--trust",
        " ".join(trusted),
        "is for resume=FOLDER; the classes that you name yourself are trusted",
    )
    import_from_here()
    from fedsim.config.launching import launch
    from fedsim.recording.files import shown

    sweep = launch(given, config_dir)
    if sweep is None:
        return 0
    where, failed = sweep
    if failed:
        lines = [f"  {folder}: {reason.removeprefix('ConfigError: ')}" for folder, reason in failed]
        print(f"{len(failed)} failed:", *lines, sep="\n", file=sys.stderr, flush=True)
    print(f"all runs: {shown(where)} (fedsim compare {shown(where)})", flush=True)
    return (
        0
        if not failed
        else 2
        if all(reason.startswith("ConfigError") for _, reason in failed)
        else 1
    )
