from .failures import Failures as Failures
from .jobs import Task as Task
from .round import (
    RoundReport as RoundReport,
    Rounds as Rounds,
)
from .screening import Diverged as Diverged
from .worker import Worker as Worker
