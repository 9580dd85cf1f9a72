"""Many run folders as one tidy table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedsim.recording.find_runs import find_runs
from fedsim.recording.metric_rows import COLUMNS, read_table

if TYPE_CHECKING:
    import pandas as pd

# Groups an algorithm sets and a user may set beyond it
CROSSED = ("client", "aggregator", "correction", "protocol")
_ABSENT = object()


def load_runs(runs: str | Path | Iterable[str | Path]) -> pd.DataFrame:
    """All runs in one or more folders, searched in depth, as one tidy table.

    Columns: run (path relative to the folder given), status (running, done, diverged, failed),
    algorithm (`label_of`), participation, seed, every other configuration key that differs between
    the runs (dotted, "aggregator.cutoff"; missing where a run lacks it), then round, clock, scope,
    node, metric, value. A run that failed or was killed is there with the rows it had; those that
    had none are in `attrs["without_rows"]`. Raises ConfigError if there is no run, or one cannot be
    read.
    """
    import numpy as np
    import pandas as pd

    found = find_runs(runs)
    tables = [read_table(run.folder) for run in found]
    owner = np.repeat(np.arange(len(found)), [len(table) for table in tables])
    columns = {
        "run": [run.name for run in found],
        "status": [run.status for run in found],
        **_settings([run.config for run in found]),
    }
    described = {
        name: pd.Series(values).take(owner).reset_index(drop=True)
        for name, values in columns.items()
    }
    whole = pd.concat([pd.DataFrame(described), pd.concat(tables, ignore_index=True)], axis=1)
    whole.attrs["without_rows"] = [
        (run.name, run.status) for run, table in zip(found, tables, strict=True) if table.empty
    ]
    return whole


def failed_runs(runs: str | Path | Iterable[str | Path]) -> pd.DataFrame:
    """The runs that are not done: run, status, reason. A run whose status is "running" may be at
    work still, or was killed. Raises ConfigError as `load_runs`."""
    import pandas as pd

    bad = [run for run in find_runs(runs) if run.status != "done"]
    return pd.DataFrame(
        [(run.name, run.status, run.reason) for run in bad],
        columns=["run", "status", "reason"],
        dtype="str",
    )


def label_of(config: Mapping[str, Any]) -> str:
    """A run's method: the option of `algorithm`, then "+group=option" for each of client,
    aggregator, correction and protocol that the user typed beside it ("fedavg+client=fedspeed").

    config: a run's, with "choices" (group: option) and "overrides" (what was typed). Without a
    choice of algorithm (a run built from objects) the classes of client and aggregator name it.
    """
    choices = config.get("choices") or {}
    typed = dict(_split(override) for override in config.get("overrides") or [])
    if "algorithm" in choices:
        name = str(choices["algorithm"])
        return name + "".join(
            f"+{group}={choices.get(group, typed[group])}" for group in CROSSED if group in typed
        )
    classes = [_class(config, group) for group in ("client", "aggregator", "correction")]
    return "+".join(part for part in classes if part) or str(config.get("name") or "run")


def _split(override: str) -> tuple[str, str]:
    key, _, value = str(override).partition("=")
    return key.lstrip("+~"), value


def _class(config: Mapping[str, Any], group: str) -> str:
    part = config.get(group)
    return str(part.get("_target_", "")).rsplit(".", 1)[-1] if isinstance(part, Mapping) else ""


def _choice(config: Mapping[str, Any], group: str) -> str | None:
    return (config.get("choices") or {}).get(group) or _class(config, group) or None


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted key; a list becomes its text, so that values can be compared and
    grouped by."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = str(value) if isinstance(value, list | Mapping) else value
    return flat


def _settings(configs: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """The columns that describe the runs: name -> one value for each run."""
    flat = [
        flatten({key: part for key, part in config.items() if key != "overrides"})
        for config in configs
    ]
    columns: dict[str, list[Any]] = {
        "algorithm": [label_of(config) for config in configs],
        "participation": [_choice(config, "participation") for config in configs],
        "seed": [each.get("seed") for each in flat],
    }
    columns = {
        name: values
        for name, values in columns.items()
        if any(value is not None for value in values)
    }
    taken = {"run", "status", "choices.algorithm", "choices.participation", *columns, *COLUMNS}
    for key in dict.fromkeys(key for each in flat for key in each):
        values = [each.get(key, _ABSENT) for each in flat]
        if key not in taken and any(value != values[0] for value in values):
            columns[key] = [None if value is _ABSENT else value for value in values]
    return columns
