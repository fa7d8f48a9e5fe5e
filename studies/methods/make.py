"""The table and the figure of all methods, of what ``train.py`` has trained so far.

    python studies/methods/make.py [--out reports/methods]

Memory and FLOPs are those of one step at the size of the trainings (112 px, batch 32, fp32, AdamW, fused attention),
predicted; seconds are CPU seconds of a whole training with its evaluation, measured. Two fronts: of accuracy over peak
memory, and over seconds.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, median, stdev

from matplotlib import pyplot as plt

sys.path.insert(0, str(Path(__file__).parents[2]))  # a script: the benchmarks' helpers stand in the root

from benchmarks.rows import read_rows
from bsr_explorer import Config, pareto, predict
from bsr_explorer.cli.console import out, say_written, table
from bsr_explorer.report import style
from bsr_explorer.report.figures.axes import plain_ticks
from bsr_explorer.report.figures.labels import Label, place
from bsr_explorer.store.records import write_text
from bsr_explorer.units import in_mb, in_mib
from studies.methods.train import (
    BATCH,
    EPOCHS,
    IMAGES,
    SAME,
    SIZE,
    TRAININGS,
    VALIDATION,
    chosen_rate,
    missing,
)

COLUMNS = (
    "method",
    "learning rate",
    "rates tried",
    "seeds",
    "accuracy (%)",
    "peak (MB)",
    "peak (MiB)",
    "saved (MB)",
    "GFLOPs a step",
    "CPU seconds",
    "front",
)


@dataclass(frozen=True)
class Line:
    """A method at its best learning rate.

    Attributes:
        accuracies: in [0, 1], one a seed.
        tried: learning rates that were tried.
        peak, saved: bytes of a step.
        flops: of a step.
        seconds: median CPU seconds of a training; None: it was not trained.
        as_of: the method whose accuracies these are; None: its own.
    """

    method: str
    rate: str
    tried: int
    accuracies: tuple[float, ...]
    peak: int
    saved: int
    flops: int
    seconds: float | None
    as_of: str | None = None

    @property
    def accuracy(self) -> float:
        """Mean, in points."""
        return 100 * fmean(self.accuracies)

    @property
    def deviation(self) -> float:
        """Standard deviation over the seeds, in points; 0 of one."""
        return 100 * stdev(self.accuracies) if len(self.accuracies) > 1 else 0.0


def lines(rows: Sequence[dict[str, str]]) -> list[Line]:
    """A line a method, in the order of peak memory. (One that has not been trained to the end is left out: with one
    learning rate it would be wronged.)"""
    found = {}
    for method in dict.fromkeys(row["method"] for row in rows):
        if next(missing([method], rows), None) is not None:
            continue
        of = [row for row in rows if row["method"] == method]
        rate = chosen_rate(method, rows)
        best = tuple(float(row["accuracy"]) for row in of if row["lr"] == rate)
        tried = sum(row["seed"] == "0" for row in of)
        # A median, for the first training of all makes what is cached for the others.
        seconds = median(float(row["seconds"]) for row in of)
        found[method] = Line(method, rate, tried, best, *costs(method), seconds)
    for method, other in SAME.items():
        if other in found:
            peak, saved, flops = costs(method)
            found[method] = replace(
                found[other],
                method=method,
                peak=peak,
                saved=saved,
                flops=flops,
                seconds=None,
                as_of=other,
            )
    return sorted(found.values(), key=lambda line: line.peak)


def costs(method: str) -> tuple[int, int, int]:
    """Peak and saved bytes, and FLOPs, of a step at the size of the trainings."""
    cost = predict(Config("deit_s", SIZE, batch_size=BATCH, method=method))
    return cost.peak_bytes, cost.saved_bytes, cost.train_flops


def fronts(of: Sequence[Line]) -> dict[str, set[str]]:
    """The methods that no other beats in accuracy and peak memory, and in accuracy and seconds."""
    timed = [line for line in of if line.seconds is not None]
    accuracy, theirs = [-line.accuracy for line in of], [-line.accuracy for line in timed]
    return {
        "memory": {of[n].method for n in pareto.front([line.peak for line in of], accuracy)},
        "time": {timed[n].method for n in pareto.front([line.seconds for line in timed], theirs)},
    }


def cells(of: Sequence[Line]) -> list[list[str]]:
    """The table's."""
    ahead = fronts(of)
    return [
        [
            line.method,
            line.rate,
            str(line.tried),
            str(len(line.accuracies)),
            f"{line.accuracy:.1f} ± {line.deviation:.1f}"
            if len(line.accuracies) > 1
            else f"{line.accuracy:.1f}",
            f"{in_mb(line.peak):,.1f}",
            f"{in_mib(line.peak):,.1f}",
            f"{in_mb(line.saved):,.1f}",
            f"{line.flops / 1e9:,.1f}",
            f"as {line.as_of}" if line.seconds is None else f"{line.seconds:.1f}",
            ", ".join(word for word, members in ahead.items() if line.method in members),
        ]
        for line in of
    ]


def page(of: Sequence[Line]) -> str:
    """The table as Markdown."""
    rows = [
        COLUMNS,
        ("---",) * len(COLUMNS),
        *([f"`{method}`", *rest] for method, *rest in cells(of)),
    ]
    head = (
        f"deit_s, offline weights, Fashion-MNIST at {SIZE} px, {IMAGES} training images, {EPOCHS} epochs, batch "
        f"{BATCH}, recipe short, {VALIDATION} validation images. Memory and FLOPs of a step at this size, predicted."
    )
    return f"# All methods\n\n{head}\n\n" + "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


def draw(of: Sequence[Line], folder: Path) -> list[Path]:
    """Accuracy over peak memory, and over seconds of a training; both fronts as step lines, their members named."""
    timed = [line for line in of if line.seconds is not None]
    planes = (
        ("memory", of, [in_mb(line.peak) for line in of], "peak memory of a step (MB)"),
        ("time", timed, [line.seconds or 0.0 for line in timed], "CPU seconds of a training"),
    )
    with style.figure(8.4, 5.6, ncols=2, sharey=True) as (fig, panels):
        named = []
        for axes, (name, some, sizes, title) in zip(panels, planes, strict=True):
            members = fronts(of)[name]
            ahead = [(x, line) for x, line in zip(sizes, some, strict=True) if line.method in members]
            ahead.sort(key=lambda pair: pair[0])
            axes.step(
                [*(x for x, _ in ahead), max(sizes)],
                [*(line.accuracy for _, line in ahead), ahead[-1][1].accuracy],
                where="post",
                color="0.6",
                lw=1,
                zorder=1,
            )
            for x, line in zip(sizes, some, strict=True):
                colour, marker = style.look(line.method)
                axes.errorbar(
                    x,
                    line.accuracy,
                    yerr=line.deviation or None,
                    c=colour,
                    marker=marker,
                    ms=4,
                    lw=0.8,
                    capsize=1.5,
                    zorder=3 if line.method in members else 2,
                )
            axes.set(xscale="log", xlabel=title)
            axes.set_xlim(min(sizes) / 1.6, max(sizes) * 1.6)
            axes.grid(alpha=0.25, lw=0.5)
            plain_ticks(axes)
            named.append([Label(x, line.accuracy, label(line.method), line.deviation) for x, line in ahead])
        families = sorted({style.family(line.method) for line in of}, key=style.order)
        looks = [(name, *style.look(name)) for name in families]
        marks = [
            plt.Line2D([], [], c=colour, marker=marker, ls="", ms=4, label=name)
            for name, colour, marker in looks
        ]
        fig.legend(handles=marks, loc="outside lower center", ncols=5, frameon=False)
        panels[0].set_ylabel("validation accuracy (%)")
        for axes, labels in zip(panels, named, strict=True):
            place(fig, axes, labels)
        return style.save(fig, folder, "methods")


def label(method: str) -> str:
    """An expression, a line a part."""
    return method.replace("bsr(blocks=(9, 10, 11), keep={9: 0.7})", "bsr(9–11, 0.7 at 9)").replace("+", "\n+")


def main() -> None:
    """Write what there is."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("reports/methods"))
    options = parser.parse_args()
    found = lines(read_rows(options.out / TRAININGS))
    if not found:
        out.print(
            f"{options.out / TRAININGS} holds nothing yet; python studies/methods/train.py trains",
            markup=False,
        )
        return
    out.print(table(COLUMNS, cells(found), left=(0,), fold=range(len(COLUMNS))))
    write_text(options.out / "methods.md", page(found))
    say_written([options.out / "methods.md", *draw(found, options.out)])


if __name__ == "__main__":
    main()
