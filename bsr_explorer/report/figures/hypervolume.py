"""Hypervolume of the front against what it cost to find."""

from __future__ import annotations

from pathlib import Path

from bsr_explorer.report import style
from bsr_explorer.report.findings import Findings
from bsr_explorer.report.front import hypervolume, replica


def draw(found: Findings, folder: Path) -> list[Path]:
    """After each training of the search (fresh seeds of a front are not among them), by the images trained so far."""
    images, volumes, families = [0], [0.0], []
    sizes: list[int] = []
    accuracies: list[float] = []
    for _, record in sorted(found.records.items()):
        if replica(record):
            continue
        images.append(images[-1] + record.images_trained)
        if record.status == "finished" and record.accuracy is not None:
            sizes.append(int(record.study["counted_bytes"]))
            accuracies.append(record.accuracy)
        volumes.append(hypervolume(sizes, accuracies, found.budget))
        families.append(style.family(record.method))
    with style.figure(5.2, 2.4) as (fig, axes):
        axes.step(images, volumes, where="post", color="0.55", lw=1, zorder=1)
        for name in sorted(set(families), key=style.order):
            places = [place for place, family in enumerate(families, start=1) if family == name]
            colour, marker = style.look(name)
            drawn = [images[place] for place in places], [volumes[place] for place in places]
            axes.scatter(*drawn, c=colour, marker=marker, s=20, label=name, zorder=3)
        axes.set_xlabel("images trained, in the order of the trials")
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.set_ylabel("hypervolume (of 1)")
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.25, lw=0.5)
        fig.legend(loc="outside right upper", frameon=False)
        return style.save(fig, folder, "hypervolume")
