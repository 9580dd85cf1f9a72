"""Label heat map: which labels each client holds, and how much, in one picture."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fedsim.errors import ConfigError, require
from fedsim.recording.files import write_atomic

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Up to here clients stand in the order of their numbers; beyond it they are ordered by their main
# label
IN_ORDER = 50
COLUMNS = 500  # more clients than this are averaged in groups of neighbours
CELLS_WITH_NUMBERS = 300
TICKS = 25


def label_heatmap(
    counts: np.ndarray, path: str | Path, label_names: Sequence[str] | None = None
) -> None:
    """Draw the share of each label in each client's samples, with the clients' sizes above, and
    write it to `path` (png, pdf, svg).

    counts: integers [N, classes], samples of each class at each client (Shards.label_counts);
    label_names: [classes]. Clients are columns. Up to 50 stand in the order of their numbers, with
    the counts written in the cells where there is room; more are ordered by their main label and
    its share, those without samples last; more than 500 are averaged in groups of neighbours.
    Columns without samples are grey. Raises ConfigError for counts or names of another shape and
    for a path that cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    counts = np.asarray(counts)
    require(
        counts.ndim == 2 and counts.size > 0,
        "counts",
        counts.shape,
        "an array of shape [clients, classes], neither of them 0",
    )
    clients, classes = counts.shape
    names = (
        [str(i) for i in range(classes)]
        if label_names is None
        else [_short(str(name)) for name in label_names]
    )
    require(
        len(names) == classes, "label_names", len(names), f"{classes} names, one for each class"
    )

    order = np.arange(clients) if clients <= IN_ORDER else _by_main_label(counts)
    groups = np.array_split(order, min(clients, COLUMNS))
    sizes = [counts[group].sum(axis=1) for group in groups]
    # [classes, columns]
    shares = np.stack([_mean_share(counts[group]) for group in groups], axis=1)

    figure = Figure(
        figsize=(float(np.clip(clients * 0.3, 6, 11)), float(np.clip(classes * 0.24, 2, 8)) + 2),
        layout="constrained",
    )
    FigureCanvasAgg(figure)
    top, main = figure.subplots(
        2, 1, sharex=True, height_ratios=(1, max(2.0, float(np.clip(classes * 0.24, 2, 8))))
    )
    _draw_sizes(top, sizes)
    main.set_facecolor("0.8")
    image = main.imshow(
        np.ma.masked_invalid(shares), aspect="auto", cmap="Blues", vmin=0, interpolation="nearest"
    )
    figure.colorbar(image, ax=main, label="share of the client's samples", pad=0.015, fraction=0.05)
    rows = np.arange(0, classes, -(-classes // 40))
    main.set_yticks(rows, [names[row] for row in rows], fontsize=8)
    main.set_ylabel("label")
    main.set_xlabel(_column_label(clients, len(groups)))
    if clients <= IN_ORDER:
        main.set_xticks(np.arange(0, clients, -(-clients // TICKS)))
        if counts.size <= CELLS_WITH_NUMBERS:
            _write_numbers(main, counts, shares)
    else:
        at = np.linspace(0, len(groups), 6)
        main.set_xticks(at - 0.5, [f"{round(t * clients / len(groups)):,}" for t in at])
    picture, target = io.BytesIO(), Path(path) if Path(path).suffix else Path(f"{path}.png")
    try:
        figure.savefig(picture, dpi=130, format=target.suffix.removeprefix("."))
        write_atomic(target, picture.getvalue())  # a link of that name is replaced, not followed
    except (OSError, ValueError) as error:  # ValueError: a suffix that is no picture format
        raise ConfigError(
            "path",
            str(path),
            f"a picture file (png, pdf, svg) in a folder that can be written: {error}",
        ) from None


def _by_main_label(counts: np.ndarray) -> np.ndarray:
    """Clients by main label, the purest first, then by second label; clients without samples last:
    int64 [N]."""
    ranked = np.argsort(-counts, axis=1, kind="stable")
    size = counts.sum(axis=1)
    purity = counts.max(axis=1) / np.maximum(size, 1)
    return np.lexsort(
        (-size, ranked[:, min(1, counts.shape[1] - 1)], -purity, ranked[:, 0], size == 0)
    )


def _mean_share(counts: np.ndarray) -> np.ndarray:
    """Mean label distribution of the clients that have samples: float64 [classes]; NaN if none has.
    counts: [clients, classes]."""
    counts = counts[counts.sum(axis=1) > 0]
    if len(counts) == 0:
        return np.full(counts.shape[1], np.nan)
    return (counts / counts.sum(axis=1, keepdims=True)).mean(axis=0)


def _draw_sizes(axes: Axes, sizes: list[np.ndarray]) -> None:
    """Samples per client above the map: bars, or the mean and range of each column where a column
    is several clients."""
    position = np.arange(len(sizes))
    mean = np.array([group.mean() for group in sizes])
    low, high = (
        np.array([group.min() for group in sizes]),
        np.array([group.max() for group in sizes]),
    )
    if any(len(group) > 1 for group in sizes):
        axes.fill_between(position, low, high, step="mid", color="0.75", linewidth=0, label="range")
        axes.step(position, mean, where="mid", color="C0", linewidth=1, label="mean")
        axes.legend(
            fontsize=7,
            ncols=2,
            frameon=False,
            loc="lower right",
            bbox_to_anchor=(1, 0.96),
            borderaxespad=0,
        )
    else:
        axes.bar(position, mean, width=0.9 if len(sizes) <= IN_ORDER else 1.0, color="C0")
    axes.set_ylim(0, max(1.0, float(high.max()) * 1.1))
    axes.locator_params(axis="y", integer=True, nbins=5)
    # A few giants would leave the others invisible
    if high.max() > 50 * max(1.0, float(np.median(np.concatenate(sizes)))):
        axes.set_yscale("symlog", linthresh=1)
        axes.set_ylim(0, float(high.max()) * 2)
    axes.set_ylabel("samples")
    axes.tick_params(axis="x", bottom=False, labelbottom=False)
    axes.tick_params(axis="y", labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)


def _write_numbers(axes: Axes, counts: np.ndarray, shares: np.ndarray) -> None:
    """The number of samples in each cell that has any, in a colour that is seen on the cell's."""
    half = np.nanmax(shares) / 2 if np.isfinite(shares).any() else 0.0
    for client, label in zip(*np.nonzero(counts), strict=True):
        colour = "white" if shares[label, client] > half else "black"
        axes.text(
            client,
            label,
            f"{counts[client, label]}",
            ha="center",
            va="center",
            fontsize=6,
            color=colour,
        )


def _column_label(clients: int, columns: int) -> str:
    if clients <= IN_ORDER:
        return "client"
    if columns == clients:
        return f"{clients:,} clients, ordered by main label"
    return f"{clients:,} clients, ordered by main label, about {round(clients / columns)} a column"


def _short(name: str) -> str:
    return name if len(name) <= 16 else name[:15] + "\N{HORIZONTAL ELLIPSIS}"
