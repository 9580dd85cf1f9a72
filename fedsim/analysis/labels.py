"""Which method and which panel a run belongs to, from the settings in which the runs differ."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fedsim.errors import ConfigError
from fedsim.recording.metric_rows import COLUMNS

if TYPE_CHECKING:
    import pandas as pd

# On what is learned
WITHOUT_EFFECT = (
    "engine",
    "logger",
    "choices.engine",
    "choices.logger",
    "name",
    "plots",
    "progress",
)


def settings_of_runs(table: pd.DataFrame) -> list[str]:
    """The columns of a table of runs that are settings with an effect on the result, seed left
    out."""
    names = [name for name in table.columns if name not in ("run", "status", "seed", *COLUMNS)]
    return [
        name
        for name in names
        if not any(name == free or name.startswith(f"{free}.") for free in WITHOUT_EFFECT)
    ]


def place_runs(
    table: pd.DataFrame, by: str | Sequence[str] = "auto", panel: str | None = "participation"
) -> pd.DataFrame:
    """One row for each run: run, status, seed (the run's name if it has none: no pairs then),
    method, panel, and its settings.

    by: the columns that tell methods apart. "auto": the algorithm, and every other setting that
    differs between runs of one algorithm and panel; a setting that those before it determine is
    left out, so the label stays short. panel: the column that tells panels apart, None for one
    panel. Raises ConfigError for a column that is not there.
    """
    import pandas as pd

    settings = settings_of_runs(table)
    described = [name for name in table.columns if name not in COLUMNS]
    runs = table[described].drop_duplicates("run").reset_index(drop=True)
    if "seed" not in runs:
        runs["seed"] = None
    runs["seed"] = [
        run if seed is None or seed != seed else int(seed)
        for run, seed in zip(runs["run"], runs["seed"], strict=True)
    ]
    if panel == "participation" and panel not in runs:
        panel = None
    columns = [by] if isinstance(by, str) else list(by)
    for key, name in [("panel", panel), *(("by", column) for column in columns if by != "auto")]:
        if name is not None and name not in described:
            raise ConfigError(
                key,
                name,
                f"a column in which the runs differ: {', '.join(described[2:]) or 'there is none'}",
            )
    if by == "auto":
        columns = telling_settings(runs, settings, panel)
    places = {"method": _texts(runs, columns), "panel": _texts(runs, [panel] if panel else [])}
    return pd.concat(
        [runs[["run", "status", "seed"]], pd.DataFrame(places), runs[settings]], axis=1
    )


def telling_settings(runs: pd.DataFrame, settings: Sequence[str], panel: str | None) -> list[str]:
    """A short list of settings that together with `panel` tell all settings of a run: options of
    groups are tried before single values."""
    choices = [name for name in settings if name.startswith("choices.")]
    picked = [name for name in ("algorithm",) if name in settings and name != panel]
    others = [name for name in settings if name not in choices]
    for name in [*choices, *others]:
        if name in (*picked, panel, "choices.participation" if panel == "participation" else None):
            continue
        known = [column for column in (panel, *picked) if column is not None]
        groups = (
            runs.groupby(known, dropna=False, sort=False)[name] if known else [(None, runs[name])]
        )
        if any(values.nunique(dropna=False) > 1 for _, values in groups):
            picked.append(name)
    return picked


def _texts(runs: pd.DataFrame, columns: Sequence[str]) -> list[str]:
    """One label for each run: "fedau, cutoff=10". A setting that a run lacks is left out."""
    names = {column: _short(column) for column in columns}
    names = {
        column: name if list(names.values()).count(name) == 1 else column
        for column, name in names.items()
    }
    labels = []
    for values in runs[list(columns)].itertuples(index=False, name=None):
        parts = [
            (
                _text(value)
                if column in ("algorithm", "participation")
                else f"{names[column]}={_text(value)}"
            )
            for column, value in zip(columns, values, strict=True)
            if value is not None and value == value
        ]
        labels.append(", ".join(parts) or "all")
    return labels


def _short(column: str) -> str:
    parts = column.split(".")
    return parts[-2] if parts[-1] == "_target_" and len(parts) > 1 else parts[-1]


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return (
        str(value).rsplit(".", 1)[-1]
        if isinstance(value, str) and value.startswith("fedsim.")
        else str(value)
    )
