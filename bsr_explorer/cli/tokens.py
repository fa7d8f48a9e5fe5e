"""``bsr-explore tokens``: which patches of a few images live on in a model that drops or merges tokens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bsr_explorer.cli import options
from bsr_explorer.cli.console import out, say_written
from bsr_explorer.cli.progress import loading
from bsr_explorer.config import Config, Fidelity
from bsr_explorer.data.places import check_data, classes_of, default_data_dir
from bsr_explorer.errors import UserError, unknown, unwritable
from bsr_explorer.models.weights import check_weights
from bsr_explorer.store.experiment import Experiment
from bsr_explorer.store.folder import TRAINING

if TYPE_CHECKING:
    from bsr_explorer.models.base import Followed
    from bsr_explorer.report.figures.tokens import Row

KINDS = ("png", "pdf", "svg")
"""Endings of ``--out``."""


MOST_ROWS = 6
"""Blocks that are shown of one model at most."""


def tokens(
    context: typer.Context,
    what: Annotated[
        Path | None,
        typer.Argument(
            metavar="[TRAINING|CONFIG.toml]",
            help="Folder of a `train`, whose weights are taken, or configuration file (see `export`).",
        ),
    ] = None,
    model: options.Model = "deit_s",
    method: options.Method = "bsr",
    image_size: options.ImageSize = 224,
    data: options.Data = "digits",
    weights: options.Weights = "auto",
    seed: options.Seed = 0,
    images: Annotated[
        int, typer.Option(help="How many validation images, of different classes as far as there are.")
    ] = 5,
    control: Annotated[
        bool, typer.Option("--control", help="Below them, the same with tokens that are dropped by chance.")
    ] = False,
    accuracy: Annotated[
        bool,
        typer.Option(
            "--accuracy",
            help="Of a training, also say the accuracy on validation, as it is and with all tokens kept.",
        ),
    ] = False,
    file: Annotated[
        Path, typer.Option("--out", help=f"File to write: {', '.join(KINDS)} by its ending.")
    ] = Path("tokens.png"),
    data_dir: options.DataDir = None,
    as_json: options.Json = False,
) -> None:
    """Draw which patches of a few images live on, after each block that drops or merges tokens.

    What was dropped is grey, and the patches of tokens that were merged have one colour. Of a training's folder the
    trained model is shown, otherwise the pretrained one, as it begins.

    Examples:

      bsr-explore tokens --method bsr --data digits --control --out strip.png

      bsr-explore tokens runs/clothes --images 4 --accuracy
    """
    if file.suffix[1:] not in KINDS:
        raise unknown("--out", file.suffix[1:] or str(file), KINDS)
    experiment, folder = _asked(context, what, model, method, image_size, data, weights, seed)
    if accuracy and folder is None:
        raise UserError("--accuracy: nothing is trained yet; give the folder of a `train`, or leave it out")
    where = data_dir or default_data_dir()
    if folder is None:
        check_weights(experiment.weights)
    check_data(experiment.data, where)
    from bsr_explorer.report.figures.tokens import draw
    from bsr_explorer.trained.followed import strip_of

    with loading("loading weights and data…"):
        strip = strip_of(experiment, folder, where, images, control, accuracy)
    rows = [*rows_of(strip.followed), *rows_of(strip.control)]
    try:
        draw(strip.images, rows, str(strip.config.method), file)
    except OSError as error:
        raise UserError(f"--out: {unwritable(error, file)}; choose another --out") from None
    accuracies = dict(zip(("as_it_is", "all_tokens"), strip.accuracies or (), strict=False))
    if as_json:
        said = {"file": str(file), "classes": strip.classes, "rows": [row.label.splitlines() for row in rows]}
        print(json.dumps({**said, "accuracies": accuracies}))
        return
    for name, value in accuracies.items():
        out.print(f"accuracy on validation, {name.replace('_', ' ')}: {100 * value:.1f}%", markup=False)
    say_written([file])


def _asked(
    context: typer.Context,
    what: Path | None,
    model: str,
    method: str,
    image_size: int,
    data: str,
    weights: str,
    seed: int,
) -> tuple[Experiment, Path | None]:
    """What is shown, and the folder of its training, if there is one."""
    if what is not None:
        options.refuse_flags(
            context, {"what", "images", "control", "accuracy", "file", "data_dir", "as_json"}
        )
        folder = what if what.is_dir() else None
        return Experiment.from_toml(what if folder is None else folder / TRAINING), folder
    config = Config(model, image_size, batch_size=1).with_classes(classes_of(data))
    methods = options.following(method, config)
    if len(methods) > 1:
        raise UserError(f"--method: {method} is a list; a strip shows one method")
    return Experiment("tokens", config.with_method(methods[0]), data, weights, Fidelity(), seed), None


def rows_of(followed: list[Followed]) -> list[Row]:
    """A row a block, or every second or third of many, with what its tokens were chosen by."""
    from bsr_explorer.report.figures.tokens import Row

    every, rows = -(-len(followed) // MOST_ROWS), []
    for after in followed[::-1][:: every or 1][::-1]:
        count, patches = after.places.shape
        side = round(patches**0.5)
        places: Any = after.places.view(count, side, side).numpy()
        left = [len(set(image.ravel().tolist()) - {-1}) for image in places]
        same = str(left[0]) if len(set(left)) == 1 else f"{min(left)} to {max(left)}"
        by = "alike merged" if after.by is None else f"by {after.by}"
        rows.append(Row(f"block {after.block}\n{by}\n{same} of {patches}", places))
    return rows
