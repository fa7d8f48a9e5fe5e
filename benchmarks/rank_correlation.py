"""Does a short fine-tune rank configurations as a long one does, and which rungs of a ladder are safe?

    python benchmarks/rank_correlation.py                  # small_vit: 15 minutes, beside other work
    python benchmarks/rank_correlation.py --table studies/accuracy_table/table.csv --orders 10     # a minute

Configurations of the table in studies/accuracy_table are trained long, twice, with every epoch evaluated (what the
table holds of it is read from there), and by shorter fidelities: fewer epochs, seen within the long training (what a
rung sees) and as a training with a schedule of its own; fewer images; smaller images. Each fidelity is correlated
(Spearman, Kendall) with long trainings of another seed; the ceiling is how well a long training with another seed does
that itself. ``--model deit_s`` does so with the offline weights on Fashion-MNIST at 64 px, and ``--epochs`` with longer
ones; ``--within-only`` trains the long ones alone.

Then ladders are replayed on the long trainings, in random orders: a trial stops at a rung if those before it that need
no more memory beat it there beyond noise (``search.rungs``). What is asked is what that saves, and how often it stops
a configuration of the final front, or one that is within a standard error of it. Beside it: the same rule where all
trials reach the rung before any goes on, and the usual one, which stops below the median and knows nothing of memory.

Each training appends one line to a CSV in ``--out``; killed, the same command goes on. Expected: half of the epochs
rank nearly as well as another seed does, a quarter clearly worse; by memory nothing of the front is lost at any rung,
by the median much of it.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau, spearmanr

sys.path.insert(0, str(Path(__file__).parents[1]))  # for `studies`, where this file is run as a script

from benchmarks.rows import append_row, read_rows
from bsr_explorer import Config, Fidelity, predict
from bsr_explorer.cli.console import out, table
from bsr_explorer.methods import Method, parse_method
from bsr_explorer.prediction import geometry_of
from bsr_explorer.report import style
from bsr_explorer.search.rungs import Seen, bars
from bsr_explorer.store.records import write_text
from bsr_explorer.train.recipes import HALF, IMAGENET, RECIPES, MeanStd, Recipe
from studies.accuracy_table import make, small_vit

Histories = Mapping[str, Mapping[int, Sequence[float]]]
"""Accuracies after each epoch, by method and replica."""

Runs = dict[Fidelity, Histories]


@dataclass(frozen=True)
class Setting:
    """What is trained, and how long a long training is."""

    config: Config
    data: str
    weights: str
    recipe: Recipe
    mean_std: MeanStd
    long: Fidelity


SETTINGS = {
    "small_vit": Setting(
        Config("small_vit", small_vit.IMAGE_SIZE, batch_size=make.BATCH),
        "digits",
        str(make.HERE / "small_vit.safetensors"),
        make.FINE_TUNING,
        HALF,
        Fidelity(small_vit.IMAGE_SIZE, train_size=256, val_size=600, epochs=4),  # as in the table
    ),
    "deit_s": Setting(
        Config("deit_s", 64, batch_size=32),
        "fashion_mnist",
        "offline",
        RECIPES["short"],
        IMAGENET,
        Fidelity(64, train_size=192, val_size=250, epochs=3),
    ),
}


def main() -> None:
    """Train what is missing, and say what it means."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=SETTINGS, default="small_vit")
    parser.add_argument(
        "--table", type=Path, help="no training: the trainings of this table are the long ones"
    )
    parser.add_argument("--out", type=Path, default=Path("reports/rank_correlation"))
    parser.add_argument("--weights", help="a file, instead of what the model has here")
    parser.add_argument("--configurations", type=int, default=64)
    parser.add_argument("--replicas", type=int, default=2, help="of the long trainings")
    parser.add_argument("--epochs", type=int, help="of the long trainings")
    parser.add_argument("--train-size", type=int, help="images of the long trainings")
    parser.add_argument("--val-size", type=int)
    parser.add_argument("--within-only", action="store_true", help="train no shorter ones beside the long")
    parser.add_argument("--orders", type=int, default=100, help="random orders in which ladders are replayed")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    setting = SETTINGS[options.model]
    changed = {key: getattr(options, key) for key in ("epochs", "train_size", "val_size")}
    long = replace(setting.long, **{key: value for key, value in changed.items() if value is not None})
    setting = replace(setting, long=long, weights=options.weights or setting.weights)
    options.out.mkdir(parents=True, exist_ok=True)
    if options.table:
        name, runs = "table", from_table(options.table)
        (long,) = runs
        setting = replace(SETTINGS["small_vit"], long=long)
    else:
        name = options.model + (f"-{long.epochs}-epochs" if options.epochs else "")
        methods = chosen(options.configurations)
        known = from_table(make.TABLE) if options.model == "small_vit" and not options.weights else {}
        shorts = [short for short in shorter(setting) if short in known or not options.within_only]
        runs = train(setting, methods, shorts, options.replicas, options.out / f"{name}.csv", known)
    methods_of = {method: parse_method(method) for method in runs[long]}
    costs = {method: cost(setting, how) for method, how in methods_of.items()}
    rows = correlations(setting, runs, methods_of)
    ladders = replay(runs[long], costs, setting.long, options.orders)
    head = describe(setting, runs, name)
    write_text(options.out / f"{name}.md", page(head, rows, ladders))
    figure(rows, ladders, options.out, name)
    if options.json:
        print(json.dumps({"of": head, "fidelities": rows, "ladders": ladders}))
    else:
        show(head, rows, ladders)


# --- training -------------------------------------------------------------------------------------------


def shorter(setting: Setting) -> tuple[Fidelity, ...]:
    """Cheaper than the long training in one respect each: epochs with a schedule of their own, images, pixels."""
    long, patch = setting.long, geometry_of(setting.config).patch
    assert long.epochs and long.train_size and long.image_size
    steps = setting.config.batch_size
    epochs = sorted({max(1, long.epochs // part) for part in (12, 3, 2)} - {long.epochs})
    images = sorted({max(steps, long.train_size // part // steps * steps) for part in (4, 2)})
    sizes = sorted({max(patch, round(long.image_size * part / patch) * patch) for part in (0.5, 0.75)})
    return (
        *(replace(long, epochs=few) for few in epochs),
        *(replace(long, train_size=few) for few in images if few < long.train_size),
        *(replace(long, image_size=small) for small in sizes if small < long.image_size),
    )


def chosen(count: int) -> list[Method]:
    """Configurations of the committed table: those with a name, and random others."""
    named = {str(method) for method in make.named(small_vit.DEPTH)}
    methods = dict.fromkeys(row["method"] for row in read_rows(make.TABLE))
    return [parse_method(method) for method in sorted(methods, key=lambda it: it not in named)[:count]]


def train(
    setting: Setting,
    methods: Sequence[Method],
    shorts: Iterable[Fidelity],
    replicas: int,
    file: Path,
    known: Runs,
) -> Runs:
    """All trainings: long ones, and one of each shorter fidelity. Those that are known are not trained, and those
    that a file holds are read from it."""
    longs = [(setting.long, replica) for replica in range(replicas)]
    fidelities = [*longs, *((short, 0) for short in shorts)]
    wanted = [(*of, method) for of in fidelities if of[0] not in known for method in methods]
    done = {(row["fidelity"], row["replica"], row["method"]) for row in read_rows(file)}
    missing = [task for task in wanted if key(*task) not in done]
    started = time.perf_counter()
    for number, (fidelity, replica, method) in enumerate(missing, start=1):
        splits = make.load(
            setting.data,
            fidelity.at(setting.config).image_size,
            fidelity.train_size,
            fidelity.val_size,
            mean_std=setting.mean_std,
        )
        outcome = make.train(
            fidelity.at(setting.config).with_method(method),
            setting.weights,
            splits,
            fidelity.epochs or 1,
            replica,
            setting.recipe,
            every_epoch=fidelity == setting.long,
        )
        append_row(file, {"fidelity": name_of(fidelity), **make.row_of(method, replica, outcome)})
        left = (time.perf_counter() - started) / number * (len(missing) - number)
        make.say(
            f"{len(wanted) - len(missing) + number} of {len(wanted)}: {outcome.scores[-1]:.3f} in "
            f"{outcome.seconds:.1f} s, {name_of(fidelity)}, {method}; {left / 60:.0f} min left"
        )
    rows = {(row["fidelity"], row["replica"], row["method"]): row["history"] for row in read_rows(file)}
    runs: dict[Fidelity, dict[str, dict[int, list[float]]]] = defaultdict(lambda: defaultdict(dict))
    for task in wanted:
        fidelity, replica, method = task
        runs[fidelity][str(method)][replica] = [float(accuracy) for accuracy in rows[key(*task)].split()]
    free = {fidelity for fidelity, _ in fidelities} & set(known)
    return {**runs, **{fidelity: {str(it): known[fidelity][str(it)] for it in methods} for fidelity in free}}


def key(fidelity: Fidelity, replica: int, method: Method) -> tuple[str, str, str]:
    """Of a training, as text."""
    return name_of(fidelity), str(replica), str(method)


def name_of(fidelity: Fidelity) -> str:
    """In words."""
    return f"{fidelity.epochs} epochs of {fidelity.train_size} images at {fidelity.image_size} px"


def from_table(file: Path) -> Runs:
    """The trainings of a table with histories."""
    runs: dict[str, dict[int, list[float]]] = defaultdict(dict)
    rows = read_rows(file)
    for row in rows:
        runs[row["method"]][int(row["replica"])] = [float(part) for part in row["history"].split()]
    replicas = max(len(of) for of in runs.values())
    whole = {method: of for method, of in runs.items() if len(of) == replicas}
    epochs = len(next(iter(next(iter(whole.values())).values())))
    return {
        Fidelity(
            small_vit.IMAGE_SIZE,
            train_size=int(rows[0]["images_trained"]) // epochs,
            val_size=SETTINGS["small_vit"].long.val_size,
            epochs=epochs,
        ): whole
    }


def cost(setting: Setting, method: Method) -> int:
    """Peak bytes of a step."""
    return predict(setting.config.with_method(method)).peak_bytes


def describe(setting: Setting, runs: Runs, name: str) -> str:
    """What was trained, in a line."""
    first = next(iter(runs[setting.long].values()))
    of = "the table" if name == "table" else f"`{setting.config.model}` on {setting.data}"
    against = "" if len(first) > 1 else "; correlations are with the end of the same training"
    return (
        f"{len(runs[setting.long])} configurations of {of}, long trainings of each: {len(first)}; "
        f"{name_of(setting.long)}, {setting.long.val_size} validation images, peak learning rate "
        f"{setting.recipe.lr:g}{against}"
    )


# --- correlation ----------------------------------------------------------------------------------------


def correlations(setting: Setting, runs: Runs, methods: Mapping[str, Method]) -> list[dict[str, Any]]:
    """One row a fidelity: its share of a long training's FLOPs, and how well it ranks."""
    long = setting.long
    histories = runs[long]
    names = list(histories)
    assert long.epochs is not None
    rows = [
        row(
            "within the long training",
            f"epoch {epoch} of {long.epochs}",
            epoch / long.epochs,
            names,
            histories,
            histories,
            epoch - 1,
        )
        for epoch in range(1, long.epochs)
    ]
    if min(len(of) for of in histories.values()) > 1:
        rows.append(
            row("the long training", "another seed: the ceiling", 1.0, names, histories, histories, -1)
        )
    for short in runs:
        if short != long:
            differs = next(
                f for f in ("epochs", "train_size", "image_size") if getattr(short, f) != getattr(long, f)
            )
            kind, unit = KINDS[differs]
            share = mean_share(setting, short, methods.values())
            rows.append(
                row(kind, f"{getattr(short, differs)} {unit}", share, names, runs[short], histories, -1)
            )
    return rows


KINDS = {
    "epochs": ("fewer epochs, own schedule", "epochs"),
    "train_size": ("fewer images", "images"),
    "image_size": ("smaller images", "px"),
}


def row(
    kind: str, what: str, share: float, names: Sequence[str], short: Histories, long: Histories, epoch: int
) -> dict[str, Any]:
    """Correlation of the accuracies after an epoch (0-based) of one fidelity with the last ones of another, over
    all pairs of different seeds (or the same, if there is but one)."""
    replicas = sorted({r for of in long.values() for r in of})
    seen = sorted({r for of in short.values() for r in of})
    pairs = [(a, b) for a in seen for b in replicas if a != b or len(replicas) == 1]
    left = np.array([[short[name][a][epoch] for a, _ in pairs] for name in names])
    right = np.array([[long[name][b][-1] for _, b in pairs] for name in names])
    rng = np.random.default_rng(0)
    again = [
        spearman(left[i], right[i]) for i in (rng.integers(len(names), size=len(names)) for _ in range(200))
    ]
    return {
        "kind": kind,
        "what": what,
        "share": share,
        "spearman": spearman(left, right),
        "error": float(np.std(again)),
        "kendall": float(np.mean([kendalltau(a, b).statistic for a, b in zip(left.T, right.T, strict=True)])),
        "mean_accuracy": float(left.mean()),
    }


def spearman(left: NDArray[np.float64], right: NDArray[np.float64]) -> float:
    """Mean over the columns."""
    return float(np.mean([spearmanr(a, b).statistic for a, b in zip(left.T, right.T, strict=True)]))


def mean_share(setting: Setting, short: Fidelity, methods: Iterable[Method]) -> float:
    """Training FLOPs of a fidelity, of those of the long one."""

    def flops(fidelity: Fidelity, method: Method) -> int:
        assert fidelity.epochs and fidelity.train_size
        step = predict(fidelity.at(setting.config).with_method(method)).train_flops
        return step * fidelity.epochs * (fidelity.train_size // setting.config.batch_size)

    return float(np.mean([flops(short, method) / flops(setting.long, method) for method in methods]))


# --- ladders --------------------------------------------------------------------------------------------


def replay(
    long: Histories, sizes: Mapping[str, int], fidelity: Fidelity, orders: int
) -> list[dict[str, Any]]:
    """One row a ladder: what it saves, and what it loses (the least accuracy of all, where nothing is left)."""
    epochs, images = fidelity.epochs, fidelity.val_size
    assert epochs and images
    names = sorted(long)
    final = np.array([[of[-1] for of in long[name].values()] for name in names])
    truth = final.mean(axis=1)
    error = float(np.sqrt(final.var(axis=1, ddof=1).mean() / final.shape[1])) if final.shape[1] > 1 else 0.0
    size = np.array([sizes[name] for name in names])
    best = np.array([truth[size <= own].max() for own in size])
    front, near = truth >= best, truth >= best - error
    rows = []
    for rule, rungs in ladders_of(epochs):
        rng = np.random.default_rng(0)
        found = []
        for order in range(orders):
            replica = order % final.shape[1]
            histories = [list(long[name].values())[replica] for name in names]
            ran = climb(rng.permutation(len(names)), histories, size, rule, rungs, images)
            whole = ran == epochs
            reached = np.array([truth[whole & (size <= own)].max(initial=truth.min()) for own in size[front]])
            found.append(
                {
                    "epochs": ran.sum() / (epochs * len(names)),
                    "stopped": 1 - whole.mean(),
                    "front_stopped": 1 - whole[front].mean(),
                    "near_stopped": 1 - whole[near].mean(),
                    "regret": float((truth[front] - reached).mean()),
                    "worst_regret": float((truth[front] - reached).max()),
                }
            )
        mean = {column: float(np.mean([of[column] for of in found])) for column in found[0]}
        counts = {"front": int(front.sum()), "near": int(near.sum())}
        rows.append({"rule": rule, "rungs": list(rungs), **counts, **mean})
    return rows


OURS, BRIEFLY, MEDIAN = "no more memory", "the same, all briefly first", "median of all"
"""Rules by which a trial stops: ``search.rungs``; the same where all trials wait at the rung for each other; and
the usual one, to be below the median of what was seen there, which knows nothing of memory."""


def ladders_of(epochs: int) -> list[tuple[str, tuple[int, ...]]]:
    """What is compared: one rung after each part of the epochs, by each rule, and geometric ladders of ours."""
    single = sorted({round(epochs * part) for part in (1 / 12, 1 / 6, 1 / 4, 1 / 3, 1 / 2, 2 / 3, 3 / 4)})
    single = [rung for rung in single if 0 < rung < epochs]
    double = [(low, 2 * low) for low in single if 2 * low in single]
    triple = [(low, 2 * low, 4 * low) for low in single if 2 * low in single and 4 * low < epochs]
    ours = [(OURS, rungs) for rungs in (*((rung,) for rung in single), *double, *triple)]
    return [*ours, *((rule, (rung,)) for rule in (BRIEFLY, MEDIAN) for rung in single)]


def climb(
    order: Iterable[int],
    histories: Sequence[Sequence[float]],
    sizes: NDArray[np.int64],
    rule: str,
    rungs: Sequence[int],
    images: int,
) -> NDArray[np.int64]:
    """Epochs that each trial runs when they start in this order, each after the end of those before it."""
    whole = len(histories[0])
    ran = np.full(len(histories), whole)
    looks = [{rung: history[rung - 1] for rung in rungs} for history in histories]
    everyone = [Seen(int(size), look) for size, look in zip(sizes, looks, strict=True)]
    seen = everyone if rule == BRIEFLY else []
    for trial in order:
        look = looks[trial]
        if rule == MEDIAN:
            least = {rung: _median([of.history[rung] for of in seen if rung in of.history]) for rung in rungs}
        else:
            least = bars(rungs, int(sizes[trial]), seen, images)
        ran[trial] = next((rung for rung in rungs if look[rung] < least[rung]), whole)
        if rule != BRIEFLY:
            reached = {rung: value for rung, value in look.items() if rung <= ran[trial]}
            seen.append(Seen(int(sizes[trial]), reached))
    return ran


def _median(values: Sequence[float]) -> float:
    return float(np.median(values)) if len(values) > 4 else -np.inf


# --- what is shown --------------------------------------------------------------------------------------


FIDELITY_COLUMNS: dict[str, Callable[[dict[str, Any]], str]] = {
    "fidelity": lambda row: f"{row['kind']}: {row['what']}",
    "training FLOPs": lambda row: f"{row['share']:.0%}",
    "Spearman": lambda row: f"{row['spearman']:.3f} ± {row['error']:.3f}",
    "Kendall": lambda row: f"{row['kendall']:.3f}",
    "mean accuracy %": lambda row: f"{100 * row['mean_accuracy']:.1f}",
}

LADDER_COLUMNS: dict[str, Callable[[dict[str, Any]], str]] = {
    "stops below": lambda row: row["rule"],
    "rungs": lambda row: ", ".join(map(str, row["rungs"])),
    "trained": lambda row: f"{row['epochs']:.0%}",
    "stopped": lambda row: f"{row['stopped']:.0%}",
    "of the front": lambda row: f"{row['front_stopped']:.1%} of {row['front']}",
    "within 1 s.e. of it": lambda row: f"{row['near_stopped']:.1%} of {row['near']}",
    "points lost": lambda row: f"{100 * row['regret']:.2f}",
    "at worst": lambda row: f"{100 * row['worst_regret']:.2f}",
}


def page(head: str, rows: list[dict[str, Any]], ladders: list[dict[str, Any]]) -> str:
    """Both tables as Markdown."""
    return "\n".join(
        [head, "", *markdown(FIDELITY_COLUMNS, rows), "", *markdown(LADDER_COLUMNS, ladders), ""]
    )


def markdown(columns: Mapping[str, Callable[[dict[str, Any]], str]], rows: list[dict[str, Any]]) -> list[str]:
    """A table, line by line."""
    lines = [list(columns), ["---"] * len(columns)]
    lines += [[column(row) for column in columns.values()] for row in rows]
    return [f"| {' | '.join(line)} |" for line in lines]


def show(head: str, rows: list[dict[str, Any]], ladders: list[dict[str, Any]]) -> None:
    """Both tables in the terminal."""
    out.print(head)
    for columns, of in ((FIDELITY_COLUMNS, rows), (LADDER_COLUMNS, ladders)):
        out.print(table(list(columns), [[column(row) for column in columns.values()] for row in of]))


LOOKS = {
    "within the long training": (style.BLUE, "o"),
    "fewer epochs, own schedule": (style.ORANGE, "s"),
    "fewer images": (style.GREEN, "^"),
    "smaller images": (style.VERMILION, "D"),
}


LADDER_LOOKS: dict[str, tuple[str, str, Callable[[dict[str, Any]], bool]]] = {
    "no more memory, one rung": (style.BLUE, "o", lambda row: row["rule"] == OURS and len(row["rungs"]) == 1),
    "several": (style.ORANGE, "s", lambda row: len(row["rungs"]) > 1),
    "all briefly first": (style.GREEN, "^", lambda row: row["rule"] == BRIEFLY),
    "median of all": (style.VERMILION, "D", lambda row: row["rule"] == MEDIAN),
}


def figure(rows: list[dict[str, Any]], ladders: list[dict[str, Any]], folder: Path, name: str) -> None:
    """Rank correlation against cost, and what ladders save against what they lose."""
    with style.figure(6.6, 2.7, ncols=2) as (fig, (left, right)):
        for ceiling in (row for row in rows if row["share"] == 1):
            left.axhline(ceiling["spearman"], color=style.GREY, linestyle="--", linewidth=1)
            left.axhspan(
                ceiling["spearman"] - ceiling["error"],
                ceiling["spearman"] + ceiling["error"],
                color=style.GREY,
                alpha=0.2,
                linewidth=0,
            )
            left.annotate(
                "another seed",
                (0.02, ceiling["spearman"]),
                xycoords=("axes fraction", "data"),
                xytext=(0, 2),
                textcoords="offset points",
                fontsize=7,
            )
        for kind, (colour, marker) in LOOKS.items():
            of = sorted((row for row in rows if row["kind"] == kind), key=lambda row: float(row["share"]))
            if of:
                left.errorbar(
                    [row["share"] for row in of],
                    [row["spearman"] for row in of],
                    [row["error"] for row in of],
                    color=colour,
                    marker=marker,
                    markersize=4,
                    linewidth=1,
                    elinewidth=0.7,
                    label=kind,
                )
        left.set_xlabel("training FLOPs, of a long training's")
        left.set_ylabel("rank correlation (Spearman)")
        left.legend(frameon=False, loc="lower right")
        for label, (colour, marker, belongs) in LADDER_LOOKS.items():
            of = [row for row in ladders if belongs(row)]
            across, up = [row["epochs"] for row in of], [100 * row["regret"] for row in of]
            right.plot(across, up, marker, color=colour, label=label, clip_on=False, markersize=4)
            for row, *place in zip(of, across, up, strict=True):
                right.annotate(
                    ", ".join(map(str, row["rungs"])),
                    place,
                    xytext=(3, 3),
                    textcoords="offset points",
                    fontsize=6,
                    color=colour,
                )
        right.set_xlabel("epochs trained, of all")
        right.set_ylabel("accuracy lost along the front (points)")
        right.set_ylim(bottom=0)
        right.legend(frameon=False)
        style.save(fig, folder, name)


if __name__ == "__main__":
    main()
