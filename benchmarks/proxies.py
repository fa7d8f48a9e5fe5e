"""Which cheap trainings rank configurations as the target does?

    python benchmarks/proxies.py --minutes 60       # trains what is missing, the reference first; killed, it goes on
    python benchmarks/proxies.py                    # trains nothing: the table and the figure of what is there

24 configurations of DeiT-S (four choices of blocks × six drop schedules: none, mild, the paper's, harsh, early, late)
are really trained on Fashion-MNIST from the offline weights, at image sizes 64 to 224 px × 128 to 1,024 training images
× epochs (below 224 px each epoch of a training is looked at). Three more proxies keep what may matter: at a smaller
image the drops held in *tokens that remain* instead of rates; 224 px with fewer images; 16-bit autocast. Each training
appends one line to a CSV, with its seconds: of CPU time on a CPU, so that other work beside it does not count (outputs
of frozen blocks are computed once, as a search does it).

The reference is the highest fidelity at which 8 configurations or more have been trained, which the table says. Of each
other fidelity: Spearman and Kendall to it, over all configurations, and within those that drop tokens and those that
do not; its bias against drops (mean accuracy with them less without, less the same of the reference); seconds of a
training.
An error is a bootstrap's, over configurations.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau, spearmanr

sys.path.insert(0, str(Path(__file__).parents[1]))  # the benchmarks share a module, run as scripts or not

from benchmarks.rows import append_row, read_rows
from bsr_explorer import Config, Fidelity, fine_tune
from bsr_explorer.cli.console import out, table
from bsr_explorer.methods import Bsr
from bsr_explorer.prediction import geometry_of
from bsr_explorer.prefix.cache import Cache
from bsr_explorer.report.figures.axes import plain_ticks
from bsr_explorer.report.style import figure, save
from bsr_explorer.store.records import write_text

MODEL, TARGET, BATCH = "deit_s", 224, 32

BLOCKS: dict[str, tuple[int, ...]] = {
    "last": (11,),
    "late": (9, 10, 11),
    "spread": (3, 7, 11),
    "half": (1, 3, 5, 7, 9, 11),
}

DROPS: dict[str, dict[int, float]] = {
    "none": {},
    "mild": {9: 0.7},
    "paper": {3: 0.5, 6: 0.5, 9: 0.5},
    "harsh": {3: 0.3, 6: 0.5},
    "early": {0: 0.5},
    "late": {6: 0.7, 9: 0.5},
}

IMAGES, EPOCHS, VALIDATION = (128, 256, 512, 1024), 3, 500


@dataclass(frozen=True)
class Proxy:
    """How configurations are trained.

    Attributes:
        size: side of an image, pixels.
        images: training images.
        precision: key of ``models.lowering.PRECISIONS``.
        held: whether drops leave the tokens that they leave at the target, where there are as many.
    """

    size: int
    images: int
    precision: str = "fp32"
    held: bool = False

    def __str__(self) -> str:
        more = (", tokens held" if self.held else "") + (
            f", {self.precision}" if self.precision != "fp32" else ""
        )
        return f"{self.images} images at {self.size} px{more}"

    @property
    def short(self) -> str:
        """As ``--only`` takes it."""
        return (
            f"{self.size}x{self.images}"
            + "-held" * self.held
            + f"-{self.precision}" * (self.precision != "fp32")
        )


PROXIES = (
    *(Proxy(224, images) for images in IMAGES),
    *(Proxy(size, images) for size in (64, 112, 160) for images in IMAGES),
    *(Proxy(size, images, held=True) for size in (64, 112) for images in (256, 512)),
    *(Proxy(224, images, "amp_bf16") for images in (128, 256)),
)


def main() -> None:
    """Train what is missing in the time that is given, and say what it means."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("reports/proxies"))
    parser.add_argument("--minutes", type=float, default=0.0, help="time to train; 0: nothing is trained")
    parser.add_argument(
        "--only",
        action="append",
        help="such as 224x256, 112x256-held or 224x256-amp_bf16; may be given several times",
    )
    parser.add_argument("--blocks", action="append", choices=BLOCKS, help="train these alone")
    parser.add_argument("--drops", action="append", choices=DROPS, help="train these alone")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cache", type=Path, default=Path(os.environ.get("TMPDIR", "/tmp")) / "proxies")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / "proxies.csv"
    wanted = [p for p in PROXIES if not options.only or p.short in options.only]
    if options.minutes:
        places = [(b, d) for d in options.drops or DROPS for b in options.blocks or BLOCKS]
        train(wanted, places, file, options.minutes * 60, options.seed, options.cache, options.device)
    rows = read_rows(file)
    answer = judged(rows)
    write_text(options.out / "proxies.md", page(answer))
    draw(answer, options.out)
    if options.json:
        print(json.dumps(answer))
        return
    out.print(f"reference: {answer['reference']}")
    out.print(table([*COLUMNS.values()], [shown(line) for line in answer["proxies"]], left=(0,)))


# --- what is trained ------------------------------------------------------------------------------------


def configuration(blocks: str, drops: str, proxy: Proxy) -> Config:
    """A configuration as a proxy trains it."""
    base = Config(MODEL, proxy.size, batch_size=BATCH, precision=proxy.precision)
    keep = DROPS[drops]
    if proxy.held:
        keep = held(
            keep, geometry_of(replace(base, image_size=TARGET)).tokens - 1, geometry_of(base).tokens - 1
        )
    return base.with_method(Bsr(BLOCKS[blocks], keep, fuse=True))


def held(keep: dict[int, float], target: int, tokens: int) -> dict[int, float]:
    """Keep rates that leave as many of these tokens as the given ones leave at the target, or all where there are no
    more."""
    found, there = {}, tokens
    for block, rate in sorted(keep.items()):
        target = round(target * rate)
        left = min(there, target)
        if left < there:
            found[block] = round(left / there, 4)
        there = left
    return found


def train(
    proxies: Sequence[Proxy],
    places: Sequence[tuple[str, str]],
    file: Path,
    seconds: float,
    seed: int,
    cache: Path,
    device: str,
) -> None:
    """Train what a file does not hold yet, one proxy after the other, until the time is over.

    Args:
        places: keys of ``BLOCKS`` and ``DROPS``.
    """
    began = time.monotonic()
    done = {(row["proxy"], row["blocks"], row["drops"], row["seed"]) for row in read_rows(file)}
    for proxy in proxies:
        for blocks, drops in places:
            if (str(proxy), blocks, drops, str(seed)) in done:
                continue
            if time.monotonic() - began > seconds:
                return
            config = replace(configuration(blocks, drops, proxy), device=device)
            worked = time.process_time()
            record = fine_tune(
                config,
                data="fashion_mnist",
                fidelity=Fidelity(proxy.size, proxy.images, VALIDATION, EPOCHS),
                weights="offline",
                seed=seed,
                every_epoch=proxy.size < TARGET,  # where looking takes as long as an epoch
                cache=Cache(cache, 20 * 10**9),
            )
            worked = time.process_time() - worked
            seconds_taken = worked if device == "cpu" else record.seconds
            append_row(
                file,
                {
                    "proxy": str(proxy),
                    "blocks": blocks,
                    "drops": drops,
                    "seed": seed,
                    "method": record.config["method"],
                    "status": record.status,
                    "history": " ".join(f"{value:.4f}" for value in record.history),
                    "seconds": f"{seconds_taken:.2f}",
                    "torch": record.provenance.get("torch", ""),
                },
            )
            out.print(f"{proxy}: {blocks} {drops} {record.accuracy} in {seconds_taken:.1f} s", markup=False)


# --- what it means --------------------------------------------------------------------------------------

COLUMNS = {
    "proxy": "proxy",
    "epoch": "epoch",
    "configurations": "configurations",
    "spearman": "Spearman",
    "error": "±",
    "kendall": "Kendall",
    "within_drops": "with drops",
    "within_none": "without",
    "bias": "bias of drops",
    "seconds": "seconds",
}


def judged(rows: Iterable[dict[str, str]]) -> dict[str, Any]:
    """The reference, and how well each fidelity ranks as it does."""
    histories: dict[str, dict[tuple[str, str], list[list[float]]]] = defaultdict(lambda: defaultdict(list))
    seconds: dict[str, dict[tuple[str, str], float]] = defaultdict(dict)
    for row in rows:
        if row["status"] == "finished":
            place = row["blocks"], row["drops"]
            histories[row["proxy"]][place].append([float(value) for value in row["history"].split()])
            seconds[row["proxy"]][place] = float(row["seconds"])
    whole = [p for p in PROXIES if len(histories[str(p)]) >= LEAST]
    if not whole:
        return {"reference": None, "proxies": []}
    best = max(whole, key=lambda p: (p.size, p.images, p.precision == "fp32"))
    truth = {place: float(np.mean([h[-1] for h in of])) for place, of in histories[str(best)].items()}
    lines = [
        line(str(p), epoch, histories[str(p)], truth, seconds[str(p)])
        for p in PROXIES
        if len(histories[str(p)]) >= LEAST
        for epoch in range(1 if p.size < TARGET else EPOCHS, EPOCHS + 1)
        if (p, epoch) != (best, EPOCHS) and len(truth.keys() & histories[str(p)]) >= LEAST
    ]
    return {"reference": f"{best}, {EPOCHS} epochs", "images": VALIDATION, "proxies": lines}


LEAST = 8
"""Configurations of which a correlation is told."""


def line(
    proxy: str,
    epoch: int,
    histories: dict[tuple[str, str], list[list[float]]],
    truth: dict[tuple[str, str], float],
    seconds: dict[tuple[str, str], float],
) -> dict[str, Any]:
    """How well the accuracies after so many epochs rank, and what they take, on average of what is compared."""
    places = [place for place in truth if place in histories]
    mine = np.array(
        [np.mean([history[epoch - 1 - EPOCHS] for history in histories[place]]) for place in places]
    )
    theirs = np.array([truth[place] for place in places])
    dropped = np.array([place[1] != "none" for place in places])
    generator = np.random.default_rng(0)
    again = [
        correlation(mine[chosen], theirs[chosen], spearmanr)
        for chosen in (generator.integers(len(places), size=len(places)) for _ in range(300))
    ]

    def gap(of: NDArray[np.float64]) -> float:
        return float(of[dropped].mean() - of[~dropped].mean())

    return {
        "proxy": proxy,
        "epoch": epoch,
        "configurations": len(places),
        "spearman": correlation(mine, theirs, spearmanr),
        "error": float(np.nanstd(again)),
        "kendall": correlation(mine, theirs, kendalltau),
        "within_drops": correlation(mine[dropped], theirs[dropped], spearmanr),
        "within_none": correlation(mine[~dropped], theirs[~dropped], spearmanr),
        "bias": 100 * (gap(mine) - gap(theirs)),
        "accuracy": float(mine.mean()),
        "seconds": float(np.mean([seconds[place] for place in places])) * epoch / EPOCHS,
    }


def correlation(left: NDArray[np.float64], right: NDArray[np.float64], how: Callable[..., Any]) -> float:
    """Of two rows of numbers; not a number where one says nothing."""
    if len(left) < 3 or np.ptp(left) == 0 or np.ptp(right) == 0:
        return float("nan")
    return float(how(left, right).statistic)


def shown(of: dict[str, Any]) -> list[str]:
    """A line of the table."""
    numbers = {
        key: f"{of[key]:.2f}" for key in ("spearman", "error", "kendall", "within_drops", "within_none")
    }
    texts = {**{key: str(of[key]) for key in COLUMNS}, **numbers}
    return [*{**texts, "bias": f"{of['bias']:+.1f}", "seconds": f"{of['seconds']:.1f}"}.values()]


def page(answer: dict[str, Any]) -> str:
    """The table as Markdown."""
    head = (
        f"Reference: {answer['reference']}, {VALIDATION} validation images.\n\n" if answer["proxies"] else ""
    )
    rows = [list(COLUMNS.values()), ["---"] * len(COLUMNS), *(shown(each) for each in answer["proxies"])]
    return "# Proxies of the target\n\n" + head + "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


def draw(answer: dict[str, Any], folder: Path) -> None:
    """Correlation against seconds: of each proxy a line, from epoch to epoch."""
    by_proxy: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for each in answer["proxies"]:
        by_proxy[each["proxy"]].append(each)
    if not by_proxy:
        return
    with figure(5.0, 3.4) as (fig, axes):
        for number, (proxy, lines) in enumerate(by_proxy.items()):
            lines = sorted(lines, key=lambda each: each["epoch"])
            axes.errorbar(
                [each["seconds"] for each in lines],
                [each["spearman"] for each in lines],
                yerr=[each["error"] for each in lines],
                marker="os^vDP*X"[number % 8],
                linewidth=1,
                capsize=2,
                label=proxy,
            )
        axes.set(
            xscale="log",
            xlabel="CPU seconds of a training, after each epoch",
            ylabel="Spearman to the reference",
            ylim=(None, 1.02),
        )
        plain_ticks(axes)
        axes.legend(frameon=False, loc="lower right")
        save(fig, folder, "proxies")
    plt.close("all")


if __name__ == "__main__":
    main()
