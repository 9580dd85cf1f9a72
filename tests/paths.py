"""Where things are in the repository."""

import os
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
CONF = REPOSITORY / "conf"
# Real data, where there are any
DATA = Path(os.environ.get("FEDSIM_DATA") or REPOSITORY.parent / "shared" / "data")
