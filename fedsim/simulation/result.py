"""What a run gives, and the same read back from a run folder."""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fedsim.errors import ConfigError
from fedsim.recording.files import read_json, shown, why
from fedsim.recording.metric_rows import read_table
from fedsim.recording.no_links import Folder

if TYPE_CHECKING:
    import pandas as pd
    import torch

FINISHED = ("done", "diverged")


@dataclass(frozen=True)
class Result:
    """What a run gives. metrics: tidy table (round, clock, scope, node, metric, value); summary:
    final values, see README; model: the server's model or the mean of the nodes' by parameter name;
    models: all receivers' models, float32 [R, P] (None where a finished run over a graph was read
    back: its folder has the mean alone); status: done or diverged; folder: the run folder, if any.
    """

    metrics: pd.DataFrame
    summary: dict[str, Any]
    model: dict[str, torch.Tensor]
    models: np.ndarray | None
    status: str
    folder: Path | None

    @property
    def accuracy(self) -> float:
        """Final accuracy: the server's model, or the mean over nodes; NaN for regression."""
        return self.summary.get("accuracy", float("nan"))


def stored_result(folder: Path) -> Result | None:
    """The result of the finished run in a folder; None if there is none, or a part of it is
    missing."""
    try:
        if (
            not (folder / "status.json").is_file()
            or (status := read_json(folder / "status.json").get("status")) not in FINISHED
        ):
            return None
        summary = {
            key: value
            for key, value in read_json(folder / "summary.json").items()
            if key != "versions"
        }
        model = _read_model(folder / "model.safetensors")
        table = read_table(folder)
        only = np.concatenate([tensor.numpy().ravel() for tensor in model.values()])[None]
    except (ConfigError, AttributeError, ValueError, TypeError) as error:
        print(
            f"fedsim: {shown(folder)} cannot be read as a finished run, and goes on: {error}",
            file=sys.stderr,
            flush=True,
        )
        return None
    same = hashlib.sha256(only.tobytes()).hexdigest() == summary.get("model_sha256")
    return Result(table, summary, model, only if same else None, status, folder)


def _read_model(path: Path) -> dict[str, torch.Tensor]:
    """Tensors by name, in the model's order. Raises ConfigError."""
    from safetensors import SafetensorError, safe_open

    try:
        with (
            Folder(path.parent) as folder,
            folder.mapped(path.name) as place,
            safe_open(place, framework="pt") as file,
        ):
            order = json.loads((file.metadata() or {}).get("order", "[]"))
            return {name: file.get_tensor(name) for name in order or file.keys()}
    except (SafetensorError, OSError, ValueError, TypeError, RecursionError) as error:
        raise ConfigError("model", str(path), f"a whole safetensors file ({why(error)})") from None
