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
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median, stdev

sys.path.insert(0, str(Path(__file__).parents[2]))  # a script: the benchmarks' helpers stand in the root

from benchmarks.rows import read_rows
from bsr_explorer import Config, pareto, predict
from bsr_explorer.cli.console import out, say_written, table
from bsr_explorer.methods import parse_method
from bsr_explorer.report import style
from bsr_explorer.report.figures.axes import plain_ticks
from bsr_explorer.report.figures.labels import Label, place
from bsr_explorer.store.records import write_text
from bsr_explorer.units import in_mb, in_mib
from studies.methods.train import BATCH, EPOCHS, IMAGES, SIZE, TRAININGS, VALIDATION, chosen_rate

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
        seconds: median CPU seconds of a training.
    """

    method: str
    rate: str
    tried: int
    accuracies: tuple[float, ...]
    peak: int
    saved: int
    flops: int
    seconds: float

    @property
    def accuracy(self) -> float:
        """Mean, in points."""
        return 100 * fmean(self.accuracies)

    @property
    def deviation(self) -> float:
        """Standard deviation over the seeds, in points; 0 of one."""
        return 100 * stdev(self.accuracies) if len(self.accuracies) > 1 else 0.0


def lines(rows: Sequence[dict[str, str]]) -> list[Line]:
    """A line a method, in the order of peak memory."""
    found = []
    for method in dict.fromkeys(row["method"] for row in rows):
        of = [row for row in rows if row["method"] == method]
        rate = chosen_rate(method, rows)
        best = [row for row in of if row["lr"] == rate]
        cost = predict(Config("deit_s", SIZE, batch_size=BATCH, method=method))
        found.append(
            Line(
                method,
                rate,
                sum(row["seed"] == "0" for row in of),
                tuple(float(row["accuracy"]) for row in best),
                cost.peak_bytes,
                cost.saved_bytes,
                cost.train_flops,
                # The first training of all also makes what is cached for the others.
                median(float(row["seconds"]) for row in of),
            )
        )
    return sorted(found, key=lambda line: line.peak)


def fronts(of: Sequence[Line]) -> dict[str, set[str]]:
    """The methods that no other beats in accuracy and peak memory, and in accuracy and seconds."""
    accuracy = [-line.accuracy for line in of]
    return {
        "memory": {of[n].method for n in pareto.front([line.peak for line in of], accuracy)},
        "time": {of[n].method for n in pareto.front([line.seconds for line in of], accuracy)},
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
            f"{line.seconds:.1f}",
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
    """Accuracy over peak memory, and over seconds of a training; both fronts as step lines."""
    with style.figure(7.2, 4.0, ncols=2, sharey=True) as (fig, panels):
        for axes, name, size, title in (
            (panels[0], "memory", lambda line: in_mb(line.peak), "peak memory of a step (MB)"),
            (panels[1], "time", lambda line: line.seconds, "CPU seconds of a training"),
        ):
            ahead = sorted((line for line in of if line.method in fronts(of)[name]), key=size)
            axes.step(
                [size(line) for line in ahead],
                [line.accuracy for line in ahead],
                where="post",
                color="0.6",
                lw=1,
                zorder=1,
            )
            for line in of:
                colour, marker = style.look(line.method)
                spread = {"yerr": line.deviation or None, "capsize": 2, "lw": 0.8}
                axes.errorbar(size(line), line.accuracy, c=colour, marker=marker, ms=5, **spread)
            axes.set(xscale="log", xlabel=title)
            axes.set_xlim(min(map(size, of)) / 1.5, max(map(size, of)) * 1.8)
            axes.grid(alpha=0.25, lw=0.5)
            plain_ticks(axes)
        panels[0].set_ylabel("validation accuracy (%)")
        for axes, name, size in (
            (panels[0], "memory", lambda line: in_mb(line.peak)),
            (panels[1], "time", lambda line: line.seconds),
        ):
            ahead = [line for line in of if line.method in fronts(of)[name]]
            place(
                fig,
                axes,
                [Label(size(line), line.accuracy, short(line.method), line.deviation) for line in ahead],
            )
        return style.save(fig, folder, "methods")


def short(method: str) -> str:
    """An expression as a label: arguments that are its default are left out, a line a part."""
    return "\n+ ".join(str(parse_method(method)).split("+")) if len(method) > 24 else method


def main() -> None:
    """Write what there is."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("reports/methods"))
    options = parser.parse_args()
    found = lines(read_rows(options.out / TRAININGS, "torch"))
    if not found:
        out.print(
            f"{options.out / TRAININGS} holds nothing yet; python studies/methods/train.py trains",
            markup=False,
        )
        return
    out.print(table(COLUMNS, cells(found), left=(0,)))
    write_text(options.out / "methods.md", page(found))
    say_written([options.out / "methods.md", *draw(found, options.out)])


if __name__ == "__main__":
    main()
