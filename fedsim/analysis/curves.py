"""Pictures of curves: one run, or many methods with bands over seeds.

Figures are matplotlib Figures made without pyplot, so that no backend is chosen and nothing is kept
open; notebooks show them.
"""

from __future__ import annotations

import io
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fedsim.errors import ConfigError, require
from fedsim.recording.files import write_atomic

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from fedsim.analysis.comparison import Comparison

# Okabe and Ito (2008): told apart under the common colour deficiencies
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ("-", "--", "-.")
UNITS = {
    "accuracy": "accuracy (fraction correct)",
    "loss": "loss (mean per example)",
    "objective": "objective (mean loss over clients)",
    "consensus_distance": "consensus distance (root mean square)",
    "seconds": "time (s)",
    "bytes_up": "sent by clients (bytes)",
    "bytes_down": "received by clients (bytes)",
    "participants": "participants (clients)",
}
MARGIN = 0.02


def plot_comparison(
    comparison: Comparison, path: str | Path | None = None, band: Literal["std", "minmax"] = "std"
) -> Figure:
    """The curves of a comparison. band: "std", one standard deviation over seeds, or "minmax", from
    the least to the greatest; path: also write a picture there. Runs that do not count in the
    tables are thin dotted lines. Raises ConfigError if `path` cannot be written."""
    from matplotlib.lines import Line2D

    require(band in ("std", "minmax"), "band", band, "std or minmax")
    curves = comparison.curves
    panels, methods = list(dict.fromkeys(curves["panel"])), list(dict.fromkeys(curves["method"]))
    columns = 2 if len(panels) in (2, 4) else min(len(panels), 3)
    rows = -(-len(panels) // columns)
    width = max(4.2 * columns + 0.4, 6.4)
    longest = max(len(method) for method in methods)
    legend_columns = max(1, min(len(methods), int(width * 10 / (longest + 8))))
    figure = _figure(width, 3.1 * rows + 0.6 + 0.22 * -(-len(methods) // legend_columns))
    grid = figure.subplots(rows, columns, sharey=True, squeeze=False).ravel()
    looks = {
        method: {
            "color": PALETTE[number % len(PALETTE)],
            "linestyle": DASHES[number // len(PALETTE) % len(DASHES)],
            "linewidth": 1.7,
        }
        for number, method in enumerate(methods)
    }
    for axes, name in zip(grid, panels, strict=False):
        _style(axes, comparison.metric if axes in grid[::columns] else None)
        for method, look in looks.items():
            _draw_method(
                axes, curves[(curves["panel"] == name) & (curves["method"] == method)], look, band
            )
        if comparison.target is not None:
            axes.axhline(
                comparison.target, color="0.35", linewidth=1.0, linestyle=(0, (5, 4)), zorder=1.5
            )
        if len(panels) > 1:
            axes.set_title(
                f"{comparison.panel}: {name}" if comparison.panel == "participation" else name
            )
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    _limit_accuracy(grid[0], comparison.metric)
    figure.legend(
        [Line2D([], [], **look) for look in looks.values()],
        methods,
        loc="outside lower center",
        ncols=legend_columns,
        title=_caption(comparison, band),
        title_fontsize="small",
        frameon=False,
    )
    return _saved(figure, path)


def run_curves(table: pd.DataFrame, path: str | Path | None = None) -> Figure:
    """Accuracy and loss of one run over its rounds. table: its metric rows (round, scope, node,
    metric, value, ...); path: also write a picture there. On a graph: the mean over nodes with a
    band from the worst to the best, and the mean model."""
    whole = table[table["node"] < 0]
    metrics = [
        name for name in ("accuracy", "loss") if whole["metric"].isin((name, f"{name}_mean")).any()
    ]
    figure = _figure(4.6 * max(len(metrics), 1) + 0.4, 3.6)
    for axes, metric in zip(
        figure.subplots(1, max(len(metrics), 1), squeeze=False)[0], metrics or [None], strict=True
    ):
        _style(axes, metric)
        if metric is None:
            axes.text(0.5, 0.5, "no evaluation", ha="center", va="center", transform=axes.transAxes)
            continue
        for scope, name, label, color in (
            ("server", metric, "server's model", PALETTE[0]),
            ("nodes", f"{metric}_mean", "mean over nodes (band: worst to best)", PALETTE[0]),
            ("mean_model", metric, "averaged model", PALETTE[1]),
        ):
            curve = _curve(whole, scope, name)
            if len(curve):
                axes.plot(
                    curve.index,
                    curve,
                    color=color,
                    marker="o" if len(curve) == 1 else None,
                    label=label,
                )
        low, high = _curve(whole, "nodes", f"{metric}_min"), _curve(whole, "nodes", f"{metric}_max")
        if len(low) and len(low) == len(high):
            axes.fill_between(low.index, low, high, color=PALETTE[0], alpha=0.18, linewidth=0)
        _limit_accuracy(axes, metric)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    if len(labels) > 1 or len(_curve(whole, "nodes", "loss_mean")):
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    return _saved(figure, path)


def _curve(table: pd.DataFrame, scope: str, metric: str) -> pd.Series:
    part = table[(table["scope"] == scope) & (table["metric"] == metric)]
    return _drawable(part.set_index("round")["value"])


def _drawable(values: pd.Series) -> pd.Series:
    """Infinities as gaps: they have no place on an axis."""
    return values.where(values.abs() < 1e300)


def _draw_method(axes: Axes, part: pd.DataFrame, look: dict[str, Any], band: str) -> None:
    """Mean and band over the counted runs, the others one by one."""
    for _, run in part[~part["counted"]].groupby("run", sort=False):
        axes.plot(
            run["round"], _drawable(run["value"]), color=look["color"], linestyle=":", linewidth=1.0
        )
    counted = part[part["counted"]]
    if counted.empty:
        return
    by_round = counted.assign(value=_drawable(counted["value"])).groupby("round")["value"]
    mean = by_round.mean()
    axes.plot(mean.index, mean, marker="o" if len(mean) == 1 else None, **look)
    if counted["run"].nunique() > 1:
        spread = by_round.std().fillna(0.0)
        low, high = (
            (mean - spread, mean + spread) if band == "std" else (by_round.min(), by_round.max())
        )
        axes.fill_between(mean.index, low, high, color=look["color"], alpha=0.16, linewidth=0)


def _caption(comparison: Comparison, band: str) -> str:
    counted = comparison.curves[comparison.curves["counted"]]
    seeds = sorted(set(counted.groupby(["panel", "method"])["run"].nunique()))
    parts = []
    if seeds and seeds[-1] > 1:
        number = str(seeds[-1]) if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
        parts = [
            f"line: mean over {number} seeds",
            "band: ± 1 standard deviation" if band == "std" else "band: least to greatest",
        ]
    parts += ["dotted: unfinished run"] if len(counted) < len(comparison.curves) else []
    parts += [f"dashed grey: target {comparison.target:g}"] if comparison.target is not None else []
    return "; ".join(parts) or "one seed each"


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=110, layout="constrained")


def _style(axes: Axes, metric: str | None) -> None:
    axes.set_xlabel("round")
    if metric is not None:
        name = metric.rpartition("/")[2]
        axes.set_ylabel(UNITS.get(name, name.replace("_", " ")))
    axes.grid(color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=MARGIN)
    axes.xaxis.get_major_locator().set_params(integer=True)


def _limit_accuracy(axes: Axes, metric: str | None) -> None:
    """Bands must not suggest an accuracy below 0 or above 1."""
    if metric is not None and "accuracy" in metric:
        low, high = axes.get_ylim()
        axes.set_ylim(max(low, -MARGIN), min(high, 1 + MARGIN))


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _saved(figure: Figure, path: str | Path | None) -> Figure:
    # IPython shows a Figure by itself only where pyplot was imported
    figure._repr_png_ = partial(_png, figure)
    if path is not None:
        kind = Path(path).suffix.lstrip(".").lower() or "png"
        require(
            kind in figure.canvas.get_supported_filetypes(),
            "path",
            str(path),
            "a picture's name, ending in .png, .pdf or .svg",
        )
        buffer = io.BytesIO()
        figure.savefig(buffer, format=kind)
        try:
            write_atomic(path, buffer.getvalue())
        except OSError as error:
            raise ConfigError(
                "path", str(path), f"a file that can be written ({error.strerror})"
            ) from None
    return figure
