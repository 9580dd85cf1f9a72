"""What a run leaves behind: its folder, metric rows, loggers and the progress bar."""

from fedsim.recording.files import write_atomic
from fedsim.recording.loggers import Logger, NoLogger, TensorBoard
from fedsim.recording.progress import RoundProgress
from fedsim.recording.recorder import Recorder, versions
from fedsim.recording.rows import COLUMNS, Rows, read_table

__all__ = [
    "COLUMNS",
    "Logger",
    "NoLogger",
    "Recorder",
    "RoundProgress",
    "Rows",
    "TensorBoard",
    "read_table",
    "versions",
    "write_atomic",
]
