"""Tables and pictures of what was measured, and the README's: python tables.py [--results FOLDER]
[--readme]

Between `<!-- NAME -->` and `<!-- end -->` the README holds what is made here; --readme writes it
anew. No number there is typed by hand.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from pathlib import Path

from competitors import ALL, BASE
from lines_of import read
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter
from statistics_of import Median, ratios
from workloads import WORKLOADS

HERE = Path(__file__).parent
BOUNDS = ("seconds", "single_seconds")
ORDER = [system.name for system in ALL]


class Comparison:
    """The launches of one workload."""

    def __init__(self, name: str, lines: list[dict], bound: dict) -> None:
        self.name, self.bound = name, bound
        mine = [line for line in lines if line["workload"] == name]
        self.lines = {
            system: [line for line in mine if line["system"] == system and "error" not in line]
            for system in ORDER
        }
        self.failed = {line["system"] for line in mine if "error" in line}

    def seconds(self, system: str) -> list[float]:
        return [line["per_round"] for line in self.lines[system]]

    def ratio(self, system: str) -> Median | None:
        """To fedsim on Ray, over repeats; None unless both did the same work as the plain loop in
        every launch."""
        both = [self.lines[system], self.lines[BASE]]
        if not all(lines and all(line["same"] for line in lines) for lines in both):
            return None
        by_repeat = [{line["repeat"]: line["per_round"] for line in lines} for lines in both]
        shared = sorted(by_repeat[0].keys() & by_repeat[1].keys())
        return (
            ratios(*([found[repeat] for repeat in shared] for found in by_repeat))
            if shared
            else None
        )

    def row(self, system: str) -> str:
        if system in self.failed or not self.lines[system]:
            return f"| {system} | failed |" + " |" * 8
        lines, seconds = self.lines[system], Median.of(self.seconds(system))
        rounds = [1000 * second for line in lines for second in line["seconds"]]
        first = Median.of([line["first"] for line in lines])
        memory = max(lines, key=lambda line: line["pss"])
        evaluation = Median.of([line.get("evaluation", 0.0) / 10 for line in lines]).value
        ratio = self.ratio(system)
        share = (
            "{:.0f} % ({:.0f} %)".format(*(100 * self.bound[b] / seconds.value for b in BOUNDS))
            if self.bound
            else "-"
        )
        scaled = Median(
            *(1000 * value for value in (seconds.value, seconds.low, seconds.high)),
            seconds.coverage,
        )
        cells = [
            system,
            f"{scaled.value:.3g} ({scaled.low:.3g} to {scaled.high:.3g})",
            f"{min(rounds):.3g} to {max(rounds):.3g}",
            f"{1000 * evaluation:.2g}" if evaluation else "",
            f"{lines[0]['steps'] / seconds.value:,.0f}",
            share,
            f"{first.value:.1f}",
            f"{memory['pss']:.0f} ({memory['rss']:.0f}), {memory['processes']}",
            (
                f"{Median.of([line['accuracy'] for line in lines]).value:.4f},"
                f" {max(line['last_difference'] for line in lines):.0e}"
            ),
            f"{ratio:.2f}" if ratio else "not the same work",
        ]
        return "| " + " | ".join(cells) + " |"

    def table(self) -> str:
        counts = {len(lines) for lines in self.lines.values() if lines}
        coverage = 100 * Median.of([0.0] * max(counts)).coverage
        head = [
            (
                f"**{self.name}**: {WORKLOADS[self.name].steps} local steps a round;"
                f" {'/'.join(map(str, sorted(counts)))} launches of each; intervals of the median"
                f" cover {coverage:.0f} %"
            ),
            "",
            (
                "| system | ms a round (interval) | single rounds | of it evaluation | steps/s |"
                " share of the kernel bound (one client at a time) | first round done, s |"
                " MB (RSS), processes | accuracy, difference | time, fedsim on Ray = 1 |"
            ),
            "|---|---|---|---|---|---|---|---|---|---|",
        ]
        shown = [system for system in ORDER if self.lines[system] or system in self.failed]
        return "\n".join([*head, *map(self.row, shown), ""])


def comparisons(results: Path) -> list[Comparison]:
    lines = read(results / "launches.jsonl")
    bounds = {line["workload"]: line for line in read(results / "roofline.jsonl")}
    return [
        Comparison(name, lines, bounds.get(name, {}))
        for name in WORKLOADS
        if any(line["workload"] == name for line in lines)
    ]


def roofline_table(results: Path) -> str:
    rows = [
        (
            "| | GFLOP a round | GFLOP/s of each layer, both cores | bound, ms a round (one client"
            " at a time) | of it mixing |"
        ),
        "|---|---|---|---|---|",
    ]
    for line in read(results / "roofline.jsonl"):
        rates = ", ".join(
            f"{shape[0]} {shape[1]} to {shape[2]}: {rate:.0f}"
            for shape, rate in zip(line["layers"], line["gflops"], strict=True)
        )
        mixing = f"{1000 * line['mixing']:.2g}" if line["mixing"] else ""
        bounds = "{:.3g} ({:.3g})".format(*(1000 * line[which] for which in BOUNDS))
        rows.append(f"| {line['workload']} | {line['gflop']:.3g} | {rates} | {bounds} | {mixing} |")
    return "\n".join([*rows, ""])


def draw(found: list[Comparison], path: Path) -> None:
    """A panel for each workload: seconds a round, and the kernel bound as a line."""
    figure = Figure(figsize=(11, 1.1 + 1.9 * ((len(found) + 1) // 2)), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots((len(found) + 1) // 2, 2, squeeze=False).ravel()
    for axes, each in zip(panels, found, strict=False):
        shown = [system for system in ORDER if each.lines[system]][::-1]
        medians = [Median.of(each.seconds(system)) for system in shown]
        values = [1000 * median.value for median in medians]
        spread = [
            [1000 * (m.value - m.low) for m in medians],
            [1000 * (m.high - m.value) for m in medians],
        ]
        for at, (value, low, high, system) in enumerate(zip(values, *spread, shown, strict=True)):
            color = "C0" if system.startswith("fedsim") else "0.4"
            axes.errorbar(
                value,
                at,
                xerr=[[low], [high]],
                fmt="o",
                color=color,
                markersize=4,
                elinewidth=1,
                capsize=2,
            )
        axes.set_yticks(range(len(shown)), shown)
        axes.set_ylim(-0.6, len(shown) - 0.4)
        axes.grid(axis="x", which="both", linewidth=0.3)
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
        if each.bound:
            axes.axvline(1000 * each.bound["seconds"], color="C3", linewidth=1, linestyle="--")
            axes.set_xlim(left=500 * each.bound["seconds"])
        axes.set_title(each.name, fontsize=9, loc="left")
        axes.tick_params(labelsize=7)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_xlabel("ms a round; dashed: kernel bound", fontsize=7)
    for axes in panels[len(found) :]:
        axes.set_visible(False)
    figure.savefig(path, dpi=90)


def fill(readme: Path, name: str, text: str) -> None:
    """Put text between the marks of that name."""
    marks = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end -->)", re.DOTALL)
    before = readme.read_text()
    if not marks.search(before):
        raise SystemExit(f"{readme} has no marks of {name}")
    readme.write_text(marks.sub(lambda found: f"{found[1]}{text}\n{found[2]}", before))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results", type=Path, default=HERE / "results")
    parser.add_argument("--readme", action="store_true")
    options = parser.parse_args()
    import cohorts
    import growth
    import variants

    found = comparisons(options.results)
    makers: dict[str, tuple[str, Callable[[Path], str]]] = {
        "comparison": ("launches.jsonl", lambda results: "\n".join(each.table() for each in found)),
        "roofline": ("roofline.jsonl", roofline_table),
        "variants": ("variants.jsonl", variants.table),
        "growth": ("growth.jsonl", growth.table),
        "cohorts": ("cohorts.jsonl", cohorts.table),
    }
    for name, (file, make) in makers.items():
        if (options.results / file).is_file():
            text = make(options.results)
            print(text)
            if options.readme:
                fill(HERE / "README.md", name, text)
    if found:
        draw(found, options.results / "comparison.png")
    if (options.results / "growth.jsonl").is_file():
        growth.draw(options.results)
    if (options.results / "cohorts.jsonl").is_file():
        cohorts.draw(options.results)


if __name__ == "__main__":
    main()
