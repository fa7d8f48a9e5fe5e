"""Real accuracies of many configurations, on which samplers can be compared without training anything.

    python studies/accuracy_table/make.py [--task clothes]

A small vision transformer of 12 blocks (``small_vit.py``) is pretrained and then fine-tuned in every configuration of
the table, several times each, every time from another head and in another order of images. The task ``digits`` is
pretrained on Fashion-MNIST and fine-tuned on digits; ``clothes`` is pretrained on Fashion-MNIST's shoes, bags and
trousers, and fine-tuned on what is worn above. Each training appends one line to the table; stopped or killed, the
same command goes on where it was. About 45 minutes on one CPU core with ``OMP_NUM_THREADS=1``; the README says what
came out.

Columns: ``method`` (the expression), ``replica``, ``accuracy`` (on validation, in [0, 1]), ``images_trained``,
``seconds`` (evaluation included), ``history`` (the accuracies after each epoch, separated by spaces).
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).parents[2]))  # for `studies`, where this file is run as a script

from benchmarks.rows import append_row, read_rows
from bsr_explorer import Config, build
from bsr_explorer.cost.entries import Schedule, schedule
from bsr_explorer.cost.grid import all_masks, grid
from bsr_explorer.data.loader import loader
from bsr_explorer.data.places import default_data_dir
from bsr_explorer.data.pool import Arrays
from bsr_explorer.data.sources import load_named
from bsr_explorer.data.splits import Splits, load_splits
from bsr_explorer.finetune.build import make_step
from bsr_explorer.methods import Bsr, Last, Method, parse_method
from bsr_explorer.prediction import geometry_of
from bsr_explorer.search.laid import runs_of
from bsr_explorer.train.loop import Outcome, fit
from bsr_explorer.train.recipes import HALF, RECIPES, Augment, MeanStd, Recipe
from studies.accuracy_table import small_vit

HERE = Path(__file__).parent
TABLE = HERE / "table.csv"
BATCH = 32


@dataclass(frozen=True)
class Task:
    """What is pretrained on, and what the pretrained model is fine-tuned on.

    Attributes:
        table: the file of its outcomes.
        weights: the file of the pretrained weights.
        configurations: how many, if no number is asked for.
        seed: of the configurations.
        before, then: classes of Fashion-MNIST to pretrain and to fine-tune on. None: all of them, and digits.
    """

    table: Path
    weights: Path
    configurations: int
    seed: int
    before: tuple[int, ...] = ()
    then: tuple[int, ...] = ()


TASKS = {
    "digits": Task(TABLE, HERE / "small_vit.safetensors", 720, 0),
    "clothes": Task(
        HERE / "clothes.csv",
        HERE / "small_vit_clothes.safetensors",
        300,
        seed=1,
        before=(1, 5, 7, 8, 9),
        then=(0, 2, 3, 4, 6),
    ),
}
IMAGES_A_CLASS = 600
"""That ``clothes`` is fine-tuned, validated and tested on."""

PRETRAINING = Recipe(
    name="pretraining",
    source="ours: a small transformer from random weights",
    optimizer="adamw",
    lr=1e-3,
    weight_decay=0.05,
    epochs=6,
    batch_size=128,
    clip=1.0,
    augment="flip",
)
FINE_TUNING = replace(RECIPES["short"], lr=4e-3, epochs=4)
"""``short``, with the higher rate that so narrow a model takes."""

NAMED = (
    "linear",
    "full",
    "bitfit",
    "bsr(faithful=False)",
    "bsr(blocks=(3, 7, 11), keep={})",
    "checkpoint",
    "mesa",
    "mesa(faithful=False)",
    "backrazor(faithful=False)",
    "bitfit+mesa(faithful=False)",
    "bitfit+checkpoint",
    "bsr(faithful=False)+checkpoint",
    "bsr(faithful=False)+mesa",
    "bsr(faithful=False)+mesa(faithful=False)",
    "bsr(faithful=False)+backrazor(faithful=False)",
)
"""What every comparison names, beside ``last(k)`` for every k. Tokens are fused by BSR's cheaper variant throughout."""

STORING = (
    "mesa",
    "mesa(faithful=False)",
    "mesa(bits=4)",
    "mesa(bits=4, faithful=False)",
    "mesa(bits=2, faithful=False)",
    "backrazor(ratio=0.9, faithful=False)",
    "backrazor(ratio=0.8, faithful=False)",
    "checkpoint",
)
"""What is composed with a choice of blocks."""

TOP_ONLY = ("backrazor(ratio=0.9)", "backrazor(ratio=0.8)")
"""As published it is so slow on a CPU that only the last two blocks pack their tensors with it."""


def main() -> None:
    """Make what the table lacks."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--task", choices=TASKS, default="digits")
    parser.add_argument("--out", type=Path, help="the task's own table, if not said")
    parser.add_argument("--weights", type=Path, help="made if missing; the task's own, if not said")
    parser.add_argument("--configurations", type=int, help="the task's own number, if not said")
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=FINE_TUNING.epochs)
    parser.add_argument("--train-size", type=int, default=256, help="images to train on")
    parser.add_argument("--val-size", type=int, default=600, help="images to validate on")
    parser.add_argument("--pretrain-size", type=int, help="images of Fashion-MNIST; all if not said")
    parser.add_argument("--pretrain-epochs", type=int, default=PRETRAINING.epochs)
    parser.add_argument("--limit", type=int, help="end after so many trainings")
    options = parser.parse_args()

    task = TASKS[options.task]
    weights, table = options.weights or task.weights, options.out or task.table
    config = Config(model="small_vit", image_size=small_vit.IMAGE_SIZE, batch_size=BATCH)
    with tempfile.TemporaryDirectory() as folder:
        before, then = data_of(task, Path(folder))
        if not weights.exists():
            pretrain(config, weights, options.pretrain_size, options.pretrain_epochs, before)
        splits = load(then, config.image_size, options.train_size, options.val_size)
        splits.train[0]  # all images of a part are read at once, and kept
        splits.validation[0]
    methods = configurations(config, options.configurations or task.configurations, task.seed)
    wanted = list(itertools.product(range(options.replicas), methods))
    done = {(row["method"], int(row["replica"])) for row in read_rows(table)}
    missing = [(replica, method) for replica, method in wanted if (str(method), replica) not in done]
    started = time.perf_counter()
    for number, (replica, method) in enumerate(missing[: options.limit], start=1):
        outcome = train(config.with_method(method), weights, splits, options.epochs, replica)
        append_row(table, row_of(method, replica, outcome))
        left = (time.perf_counter() - started) / number * (len(missing) - number)
        say(
            f"{len(wanted) - len(missing) + number} of {len(wanted)}: {outcome.scores[-1]:.3f} in "
            f"{outcome.seconds:.1f} s, replica {replica} of {method}; {left / 60:.0f} min left"
        )


def say(text: str) -> None:
    """A line of progress, at once."""
    print(text, file=sys.stderr, flush=True)


# --- training -------------------------------------------------------------------------------------------


def data_of(task: Task, folder: Path) -> tuple[str, str]:
    """What to pretrain and to fine-tune on, as ``load`` takes it; some classes are written below ``folder``."""
    if not task.then:
        return "fashion_mnist", "digits"
    images, labels = _fashion_mnist()
    for name, classes, most in (("before", task.before, None), ("then", task.then, IMAGES_A_CLASS)):
        for label in classes:
            (folder / name / str(label)).mkdir(parents=True)
            for number in np.flatnonzero(labels == label)[:most]:
                Image.fromarray(images[number]).save(folder / name / str(label) / f"{number:05d}.png")
    return str(folder / "before"), str(folder / "then")


def _fashion_mnist() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    given = load_named("fashion_mnist", default_data_dir()).train
    assert isinstance(given.images, Arrays)
    return given.images.pixels, given.labels


def load(
    data: str,
    image_size: int,
    train_size: int | None = None,
    val_size: int | None = None,
    augment: Augment = "none",
    mean_std: MeanStd = HALF,
) -> Splits:
    """The parts of a data set; their pixels stay in memory."""
    return load_splits(
        data,
        image_size=image_size,
        data_dir=default_data_dir(),
        mean=mean_std[0],
        std=mean_std[1],
        augment=augment,
        train_size=train_size,
        val_size=val_size,
    )


def pretrain(
    config: Config, weights: Path, train_size: int | None, epochs: int, data: str = "fashion_mnist"
) -> float:
    """Train the whole model and write its weights but the head's, which digits must find anew.

    Returns:
        The accuracy on the validation images, in [0, 1].
    """
    splits = load(data, config.image_size, train_size, augment=PRETRAINING.augment)
    step = make_step(build(config.with_method("full")), replace(config, batch_size=128), PRETRAINING)
    torch.manual_seed(0)
    outcome = fit(
        step,
        loader(splits.train, PRETRAINING.batch_size, shuffle=True, seed=0, drop_last=True),
        loader(splits.validation, 250, shuffle=False, seed=0, drop_last=False),
        PRETRAINING,
        epochs,
        _every(100, lambda done, steps, loss: say(f"pretraining: step {done} of {steps}, loss {loss:.3f}")),
    )
    say(f"pretrained on {splits.description}: {outcome.scores[-1]:.4f} in {outcome.seconds:.0f} s")
    state = {name: w for name, w in step.model.state_dict().items() if not name.startswith("head.")}
    beside = weights.with_suffix(".part")
    save_file(state, beside)
    beside.replace(weights)
    return outcome.scores[-1]


def _every(count: int, progress: Callable[[int, int, float], None]) -> Callable[[int, int, float], None]:
    def sometimes(done: int, steps: int, loss: float) -> None:
        if done % count == 0:
            progress(done, steps, loss)

    return sometimes


def train(
    config: Config,
    weights: str | Path,
    splits: Splits,
    epochs: int,
    replica: int,
    recipe: Recipe = FINE_TUNING,
    every_epoch: bool = True,
) -> Outcome:
    """Fine-tune one configuration once, evaluated after every epoch, or at the end alone. Its seed follows from the
    method and the replica."""
    seed = int(hashlib.sha256(f"{config.method} {replica}".encode()).hexdigest()[:8], 16)
    step = make_step(build(config, weights=str(weights), seed=seed), config, recipe)
    torch.manual_seed(seed)
    return fit(
        step,
        loader(splits.train, config.batch_size, shuffle=True, seed=seed, drop_last=True),
        loader(splits.validation, 200, shuffle=False, seed=0, drop_last=False),
        recipe,
        epochs,
        every=1 if every_epoch else None,
    )


# --- the table ------------------------------------------------------------------------------------------


def row_of(method: Method, replica: int, outcome: Outcome) -> dict[str, object]:
    """What the table says of a training."""
    history = [f"{accuracy:.4f}" for accuracy in outcome.scores]
    return {
        "method": str(method),
        "replica": replica,
        "accuracy": history[-1],
        "images_trained": outcome.images,
        "seconds": f"{outcome.seconds:.2f}",
        "history": " ".join(history),
    }


# --- which configurations -------------------------------------------------------------------------------


def configurations(config: Config, count: int, seed: int = 0) -> list[Method]:
    """Methods that are no two the same experiment, in random order: those with a name, a fifth that store
    their tensors otherwise, and for the rest choices of blocks and drops, as many of each number of trained
    blocks, spread evenly over memory."""
    generator = np.random.default_rng(seed)
    depth = geometry_of(config).depth
    chosen = {method.canonical(depth): method for method in named(depth)}
    plain = spread(config, generator)
    for method in itertools.islice(_storing(plain, depth, generator), count // 5):
        chosen.setdefault(method.canonical(depth), method)
    for method in plain:
        if len(chosen) >= count:
            break
        chosen.setdefault(method.canonical(depth), method)
    methods = list(chosen.values())[:count]
    return [methods[place] for place in generator.permutation(len(methods))]


def named(depth: int) -> list[Method]:
    """Those with a name, for a model of so many blocks."""
    return [*map(parse_method, NAMED), *(Last(k) for k in range(1, depth + 1))]


def spread(config: Config, generator: np.random.Generator) -> Iterator[Bsr]:
    """Choices of blocks and drops without end: numbers of trained blocks in turn, and of each number one
    random choice between two neighbouring quantiles of memory, in an order that fills the gaps."""
    geometry = geometry_of(config)
    masks = all_masks(geometry.depth)
    schedules = _schedules(geometry.depth)
    laid = grid(geometry, masks, schedules, [config.batch_size], runs_of(config))
    sizes, trained = laid.peak_bytes[0], masks.sum(axis=1)
    by_number = []
    for number in range(geometry.depth + 1):
        flat = np.flatnonzero(np.broadcast_to(trained == number, sizes.shape))
        by_number.append(flat[np.argsort(sizes.ravel()[flat], kind="stable")])
    for turn in itertools.count():
        place = (
            turn * 0.6180339887
        ) % 1  # the golden ratio's multiples: evenly spread however many are taken
        for ordered in by_number:
            nearby = place + generator.uniform(0, 0.02)
            pick = ordered[int(nearby % 1 * len(ordered))]
            drops, mask = np.unravel_index(pick, sizes.shape)
            keep, fuse = schedules[int(drops)]
            blocks = tuple(map(int, np.flatnonzero(masks[mask])))
            yield Bsr(blocks, dict(keep), fuse, faithful=not fuse)


def _schedules(depth: int) -> list[Schedule]:
    drop_at = list(Bsr.stretched(depth).keep)
    rates = itertools.product((1.0, 0.7, 0.5), repeat=len(drop_at))
    keeps = [dict(zip(drop_at, choice, strict=True)) for choice in rates]
    return list(dict.fromkeys(schedule(keep, fuse) for keep in keeps for fuse in (True, False)))


def _storing(plain: Iterator[Bsr], depth: int, generator: np.random.Generator) -> Iterator[Method]:
    """Each way to store in turn, with a choice of blocks, every third time the last k."""
    for turn, how in enumerate(itertools.cycle((*STORING, *TOP_ONLY))):
        if how in TOP_ONLY:
            keep, fuse = _schedules(depth)[int(generator.integers(len(_schedules(depth))))]
            top = ((depth - 1,), (depth - 2, depth - 1))[int(generator.integers(2))]
            base: Method = Bsr(top, dict(keep), fuse, faithful=not fuse)
        elif turn % 3 == 0:
            base = Last(int(generator.integers(1, depth)))
        else:
            base = next(bsr for bsr in plain if bsr.blocks)
        yield base + parse_method(how)


if __name__ == "__main__":
    main()
