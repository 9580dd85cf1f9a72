from .checkpoints import (
    Checkpoint as Checkpoint,
    Checkpoints as Checkpoints,
)
from .descriptions import describe as describe
from .files import write_atomic as write_atomic
from .loggers import (
    Logger as Logger,
    NoLogger as NoLogger,
    TensorBoard as TensorBoard,
)
from .metric_rows import (
    COLUMNS as COLUMNS,
    Rows as Rows,
    read_table as read_table,
)
from .progress import RoundProgress as RoundProgress
from .recorder import (
    Recorder as Recorder,
    versions as versions,
)
