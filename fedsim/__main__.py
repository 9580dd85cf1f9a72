"""`python -m fedsim` is `fedsim`."""

import os
import sys


def _forget_current_folder() -> None:
    """Python puts the current folder first for -m, where any file in it, one that was sent too,
    would stand for a library. The commands that may import from there add it as the last."""
    first = sys.path[0] if sys.path and not sys.flags.safe_path else None
    if first is not None and os.path.realpath(first) == os.path.realpath(os.curdir):
        del sys.path[0]


if __name__ == "__main__":
    _forget_current_folder()

    from fedsim.cli.main import main

    sys.exit(main())
