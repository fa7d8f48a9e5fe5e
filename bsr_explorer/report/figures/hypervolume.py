"""Hypervolume of the front against what it cost to find."""

from __future__ import annotations

from pathlib import Path

from bsr_explorer.report import style
from bsr_explorer.report.figures.axes import SMALL, plain_ticks
from bsr_explorer.report.front import covered
from bsr_explorer.report.study.findings import Findings
from bsr_explorer.store.trials import replica
from bsr_explorer.units import format_number


def draw(found: Findings, folder: Path) -> list[Path]:
    """After each training of the search, by the images trained so far; it ends at the report's own hypervolume.

    Accuracies are those of the report: the means over fresh seeds, where there are any. (What those took to train is no
    cost of finding the front.)
    """
    images, volumes, families = [0], [0.0], []
    for number, record in sorted(found.records.items()):
        if replica(record):
            continue
        images.append(images[-1] + record.images_trained)
        volumes.append(covered((point for point in found.points if point.number <= number), found.budget))
        families.append(style.family(record.method))
    with style.figure(5.2, 2.4) as (fig, axes):
        axes.step(images, volumes, where="post", color="0.55", lw=1, zorder=1)
        for name in sorted(set(families), key=style.order):
            places = [place for place, family in enumerate(families, start=1) if family == name]
            colour, marker = style.look(name)
            drawn = [images[place] for place in places], [volumes[place] for place in places]
            axes.scatter(*drawn, c=colour, marker=marker, s=20, label=name, zorder=3)
        axes.set_xlabel("images trained, in the order of the trials")
        axes.annotate(
            format_number(found.hypervolume, 4),
            (images[-1], volumes[-1]),
            xytext=(0, 4),
            textcoords="offset points",
            ha="right",
            va="bottom",
            fontsize=SMALL,
        )
        axes.margins(y=0.12)
        axes.set_ylabel("hypervolume (of 1)" + (",\nby means over fresh seeds" if found.seeds > 1 else ""))
        axes.set_ylim(bottom=0)
        plain_ticks(axes)
        axes.grid(alpha=0.25, lw=0.5)
        fig.legend(loc="outside right upper", frameon=False)
        return style.save(fig, folder, "hypervolume")
