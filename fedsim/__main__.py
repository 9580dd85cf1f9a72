"""`python -m fedsim` is `fedsim`."""

import gc
import sys

from fedsim.cli import main


def command() -> int:
    """The command line; its exit code, with which the process is to end."""
    code = main()
    gc.freeze()  # Python would look for garbage among all that was imported once more, which takes half a second
    return code


if __name__ == "__main__":
    sys.exit(command())
