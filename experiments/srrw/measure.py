"""Mean squared error of the tokens against repellence, beside what the linearised walk says: python
measure.py FOLDER [PICTURE]

Reads all runs below FOLDER (made with metrics=[token_errors]; one folder for each graph), prints
tables as Markdown, draws the gain over the base chain.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from theory import Problem

import fedsim
from fedsim.config.building import Settings, build
from fedsim.recording.find_runs import find_runs

FITTED = 2000  # first round of the fits
REGIMES = {0.6: "beta = o(gamma)", 0.8: "beta = gamma", 1.0: "gamma = o(beta)"}  # by a, for b = 0.8


def read(folder: str) -> list[dict]:
    """One entry for each run: settings, rounds, mse, error (standard, over tokens), theory at the
    same rounds and at infinity."""
    problems, found = {}, []
    for run in find_runs(folder):
        config = run.config
        rows = fedsim.load_runs(run.folder).pivot_table(
            index="round", columns="metric", values="value"
        )
        rows = rows[rows["standard_error"].notna()].iloc[1:]  # round 0 is the start
        walk, b, rate = (
            config["protocol"],
            config["schedule"]["exponent"],
            config["local"]["rate"] / (1 - config["local"]["momentum"]),
        )
        graph = run.name.split("/")[0]
        if graph not in problems:
            problems[graph] = Problem(
                build(
                    Settings(
                        {
                            key: part
                            for key, part in config.items()
                            if key not in ("choices", "overrides", "metrics")
                        }
                    )
                )
            )
        problem, rounds = problems[graph], rows.index.to_numpy()
        alpha, a, kernel = walk["alpha"], walk["exponent"], walk["kernel"]
        entry = {
            "graph": graph,
            "alpha": alpha,
            "a": a,
            "b": b,
            "kernel": kernel,
            "rounds": rounds,
            "status": run.status,
        }
        entry |= {
            "mse": rows["distance_to_optimum"].to_numpy(),
            "error": rows["standard_error"].to_numpy(),
        }
        entry |= {
            "theory": problem.errors(rounds.tolist(), alpha, a, b, rate, kernel),
            "momentum": config["local"]["momentum"],
        }
        entry |= {
            "limit": problem.limit(alpha, a, b, kernel) / problem.limit(0.0, a, b),
            "independent": problem.independent,
        }
        found.append(entry)
    return found


def base_of(runs: list[dict], run: dict) -> dict:
    return next(
        each
        for each in runs
        if not each["alpha"] and all(each[key] == run[key] for key in ("graph", "momentum"))
    )


def slope(x: np.ndarray, y: np.ndarray) -> float:
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def main_table(runs: list[dict]) -> list[str]:
    """Mean squared error at the last round and the gain over the base chain, measured and by
    theory, and the fitted rates."""
    lines = [
        "| graph | walk | regime | alpha | error x 1e4 | theory | share of base | theory | in the"
        " limit | decay | theory |"
    ]
    lines += ["|" + "---|" * 11]
    for run in sorted(
        runs,
        key=lambda each: (
            each["graph"],
            each["momentum"],
            each["kernel"] != "repellent",
            each["a"],
            each["alpha"],
        ),
    ):
        base, late = base_of(runs, run), run["rounds"] >= FITTED
        share = run["mse"][-1] / base["mse"][-1]
        spread = share * np.hypot(
            run["error"][-1] / run["mse"][-1], base["error"][-1] / base["mse"][-1]
        )
        kernel = run["kernel"].replace("_", " ") + (", heavy ball" if run["momentum"] else "")
        regime = REGIMES[run["a"]] if run["alpha"] else "base chain"
        cells = [
            run["graph"],
            kernel,
            regime,
            f"{run['alpha']:g}",
            f"{run['mse'][-1] * 1e4:.3f} ± {run['error'][-1] * 1e4:.3f}",
        ]
        cells += [
            f"{run['theory'][-1] * 1e4:.3f}",
            f"{share:.3f} ± {spread:.3f}" if run["alpha"] else "1",
        ]
        cells += [f"{run['theory'][-1] / base['theory'][-1]:.3f}", f"{run['limit']:.3f}"]
        cells += [
            f"{slope(run['rounds'][late], run[name][late]):.2f}" for name in ("mse", "theory")
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def alpha_table(runs: list[dict]) -> list[str]:
    """Exponents of alpha between the least and the greatest repellence measured."""
    lines = [
        "| graph | regime | alphas | measured | theory, same rounds | theory, n to infinity |",
        "|---|---|---|---|---|---|",
    ]
    plain = [
        run for run in runs if run["alpha"] and run["kernel"] == "repellent" and not run["momentum"]
    ]
    for (graph, a), part in pd.DataFrame(plain).sort_values("alpha").groupby(["graph", "a"]):
        if part["alpha"].nunique() < 2:
            continue
        alphas, values = (
            part["alpha"].to_numpy(float),
            [np.stack(part[name])[:, -1] for name in ("mse", "theory")],
        )
        cells = [f"{slope(alphas, value):.2f}" for value in (*values, part["limit"].to_numpy())]
        lines.append(
            f"| {graph} | {REGIMES[a]} | {', '.join(f'{alpha:g}' for alpha in alphas)} |"
            f" {' | '.join(cells)} |"
        )
    return lines


def draw(runs: list[dict], path: Path) -> None:
    """Mean squared error as a share of the base chain's, over rounds: dots measured, lines
    theory."""
    graphs = sorted(
        {
            run["graph"]
            for run in runs
            if {each["a"] for each in runs if each["graph"] == run["graph"]} == set(REGIMES)
        }
    )
    alphas = sorted({run["alpha"] for run in runs if run["alpha"]})
    figure = Figure(figsize=(10, 3.1 * len(graphs)), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(graphs), len(REGIMES), sharex=True, sharey=True, squeeze=False)
    for row, graph in zip(panels, graphs, strict=True):
        for axes, (a, title) in zip(row, REGIMES.items(), strict=True):
            part = [
                run
                for run in runs
                if (run["graph"], run["a"], run["kernel"], run["momentum"])
                == (graph, a, "repellent", 0)
            ]
            for run in sorted(
                (run for run in part if run["alpha"]), key=lambda each: each["alpha"]
            ):
                base, color = base_of(runs, run), f"C{alphas.index(run['alpha'])}"
                axes.plot(run["rounds"], run["theory"] / base["theory"], color=color, linewidth=1)
                axes.plot(
                    run["rounds"],
                    run["mse"] / base["mse"],
                    ".",
                    color=color,
                    markersize=4,
                    label=f"alpha {run['alpha']:g}",
                )
            axes.set(xscale="log", yscale="log", title=f"{graph}: {title}")
            axes.set_yticks([0.01, 0.03, 0.1, 0.3, 1], ["0.01", "0.03", "0.1", "0.3", "1"])
            axes.minorticks_off()
            axes.spines[["top", "right"]].set_visible(False)
        row[0].set_ylabel("error / base chain's error")
        row[0].legend(fontsize=8, frameon=False)
    for axes in panels[-1]:
        axes.set_xlabel("step n")
    figure.savefig(path, dpi=90)


def main() -> None:
    runs = [run for run in read(sys.argv[1]) if run["status"] == "done"]
    print(*main_table(runs), "", *alpha_table(runs), sep="\n")
    for graph in sorted({run["graph"] for run in runs}):
        run = next(each for each in runs if each["graph"] == graph and not each["momentum"])
        n, b, independent = run["rounds"][-1], run["b"], run["independent"]
        print(
            f"\n{graph}: nodes drawn independently would give"
            f" {independent * (n + 1.0) ** -b * 1e4:.3f} (x 1e4) after {n} rounds."
        )
    if len(sys.argv) > 2:
        draw(runs, Path(sys.argv[2]))


if __name__ == "__main__":
    main()
