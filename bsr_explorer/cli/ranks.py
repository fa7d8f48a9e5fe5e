"""``bsr-explore ranks``: ranks for ``asi`` or ``wasi``, layer by layer, under a budget or by what they explain."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bsr_explorer.cli import options
from bsr_explorer.cli.console import out, table
from bsr_explorer.cli.progress import loading
from bsr_explorer.config import Config
from bsr_explorer.data.places import classes_of, default_data_dir
from bsr_explorer.errors import UserError, unknown
from bsr_explorer.methods import Asi, Wasi
from bsr_explorer.methods.adding import LAYERS
from bsr_explorer.models.weights import check_weights
from bsr_explorer.prediction import predict
from bsr_explorer.units import format_bytes, format_mb, format_mib, parse_bytes

if TYPE_CHECKING:
    from torch import Tensor

    from bsr_explorer.data.images import ImageSplit
    from bsr_explorer.data.text import Sequences
    from bsr_explorer.finetune.ranks import Choice

STORING: dict[str, Any] = {method.name: method for method in (Asi, Wasi)}
"""The methods that have ranks."""

DEFAULT_BUDGET, DEFAULT_SHARE = "100MB", 0.8


def ranks(
    budget: Annotated[
        str | None,
        typer.Option(
            help="Memory that the chosen layers may hold of their inputs, with its unit: 500MB, 64MiB, … "
            f"{DEFAULT_BUDGET}, if --explained is not given."
        ),
    ] = None,
    explained: Annotated[
        float | None,
        typer.Option(
            help="In place of a budget: the least ranks that explain this share of the variance, above 0 and at most "
            f"1. With --of wasi {DEFAULT_SHARE}, if left out."
        ),
    ] = None,
    of: Annotated[
        str,
        typer.Option(help="Whose ranks: asi (of inputs), or wasi (of weights and inputs, by --explained)."),
    ] = "asi",
    model: options.Model = "deit_s",
    method: Annotated[
        str,
        typer.Option(
            help="What trains: a method expression without asi or wasi, such as full or 'last(k=3)'."
        ),
    ] = "full",
    on: Annotated[
        str | None,
        typer.Option(
            help=f"Layers that are decomposed, of {', '.join(LAYERS)}. If left out, {','.join(Asi.on)} of asi and "
            f"{','.join(Wasi.on)} of wasi."
        ),
    ] = None,
    data: options.Data = "digits",
    batch_size: Annotated[
        int, typer.Option(help="Images that pass at once in the training. Ranks belong to their number.")
    ] = 32,
    image_size: options.ImageSize = 224,
    precision: options.Precision = "fp32",
    attention: options.Attention = "fused",
    weights: options.Weights = "auto",
    seed: options.Seed = 0,
    data_dir: options.DataDir = None,
    as_json: options.Json = False,
) -> None:
    """Choose ranks of asi or wasi for each layer, from one batch. Nothing is trained.

    With a budget, each layer may have the least ranks that explain 40, 50, … 90% of the variance of its input. Those
    are chosen whose errors of the weights' gradients add up to the least, among all that fit. With --explained, each
    layer gets the least ranks that explain so much of its input and, with --of wasi, of its weight.

    Examples:

      bsr-explore ranks --model deit_s --data digits --budget 100MB

      bsr-explore ranks --method "last(k=3)" --image-size 112 --batch-size 8 --budget 600KB

      bsr-explore ranks --method "last(k=3)" --image-size 112 --batch-size 8 --of wasi --explained 0.8
    """
    most, share = _limit(budget, explained, of)
    where = data_dir or default_data_dir()
    check_weights(weights)
    options.check_model_data(data, where, model)
    config = Config(
        model,
        image_size,
        batch_size=batch_size,
        precision=precision,
        attention=attention,
    ).with_classes(classes_of(data))
    methods = options.following(method, config)
    if len(methods) > 1:
        raise UserError(f"--method: {method} is a list; ranks are chosen for one method")
    storing = STORING[of]
    layers = tuple(part.strip() for part in on.split(",")) if on else storing.on
    config = config.with_method(methods[0])
    predict(config.with_method(config.how + storing(on=layers)))  # which refuses what does not go together

    import torch

    from bsr_explorer.finetune.build import build_with
    from bsr_explorer.finetune.job import Job, load_data
    from bsr_explorer.finetune.ranks import EXPLAINED, chosen_ranks, weight_ranks
    from bsr_explorer.train.step import image_dtype, in_precision

    with loading("looking at each layer…", "looking at each layer") as told:
        net, used = build_with(config, weights, seed)
        in_precision(net, precision)
        splits = load_data(config, Job(data, weights=used.source, seed=seed, data_dir=where))
        images, labels = _batch(splits.train, batch_size, seed)
        images = images if images.dtype == torch.int64 else images.to(image_dtype(precision))
        shares = EXPLAINED if share is None else (share,)
        found = chosen_ranks(net, images, labels, most, layers, shares, precision, told)
        rank = weight_ranks(net, found, share) if of == Wasi.name and share is not None else {}
    given: dict[str, object] = {"ranks": {name: choice.ranks for name, choice in found.items()}}
    if rank:
        given["rank"] = rank
    expression = f"{config.how}+{storing(**given)}"
    limit = None if most is None else f"{budget or DEFAULT_BUDGET} = {format_bytes(most)}"
    if as_json:
        print(json.dumps(_answer(found, rank, most, share, expression)))
    else:
        _show(found, rank, config, expression, storing.name, limit)


def _limit(budget: str | None, explained: float | None, of: str) -> tuple[int | None, float | None]:
    """The most bytes, or the share that is to be explained.

    Raises:
        UserError: there is no such method, or both or neither of them can be meant.
    """
    if of not in STORING:
        raise unknown("--of", of, STORING)
    if budget is not None and of == Wasi.name:
        raise UserError(
            f"--budget: ranks of weights cannot be chosen by {budget} of inputs; with --of wasi, give --explained"
        )
    if budget is not None and explained is not None:
        raise UserError("--explained: there is a --budget, too; give one of them")
    if explained is not None and not 0 < explained <= 1:
        raise UserError(f"--explained: {explained} must be above 0 and at most 1, such as {DEFAULT_SHARE}")
    if explained is None and of == Wasi.name:
        explained = DEFAULT_SHARE
    return (parse_bytes(budget or DEFAULT_BUDGET) if explained is None else None), explained


def _batch(part: ImageSplit | Sequences, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Training images (B, 3, S, S) in which each class has its share, and their labels (B,); of text, the first
    sequences (B, T), and the next tokens."""
    import torch

    from bsr_explorer.data.splits import stratified_order
    from bsr_explorer.data.text import Sequences

    if len(part) < count:
        raise UserError(
            f"--batch-size: {count} is more than the {len(part)} there are; choose at most {len(part)}"
        )
    if isinstance(part, Sequences):
        rows = part.rows[:count].long()
        return rows[:, :-1], rows[:, 1:]
    pairs = part.few([int(item) for item in stratified_order(part.labels, seed)[:count]])
    return torch.stack([image for image, _ in pairs]), torch.tensor([label for _, label in pairs])


def _answer(
    found: dict[str, Choice], rank: dict[str, int], budget: int | None, share: float | None, expression: str
) -> dict[str, object]:
    layers = [
        {
            "block": int(name.partition(".")[0]),
            "layer": name.partition(".")[2],
            **({"rank": rank[name]} if rank else {}),
            "ranks": choice.ranks,
            "bytes": choice.bytes,
            "whole_bytes": choice.whole,
            "explained": choice.explained,
            "error": choice.error,
        }
        for name, choice in found.items()
    ]
    held = sum(choice.bytes for choice in found.values())
    return {"budget_bytes": budget, "explained": share, "bytes": held, "method": expression, "layers": layers}


def _show(
    found: dict[str, Choice],
    rank: dict[str, int],
    config: Config,
    expression: str,
    storing: str,
    budget: str | None,
) -> None:
    rows = [
        (
            *name.split("."),
            *([str(rank[name])] if rank else []),
            *map(str, choice.ranks),
            f"{choice.explained:.0%}",
            format_mb(choice.bytes, 2),
            format_mib(choice.bytes, 2),
            f"{choice.whole / choice.bytes:.1f}x less",
        )
        for name, choice in found.items()
    ]
    weight = ["of the weight"] if rank else []
    columns = [
        "block",
        "layer",
        *weight,
        "images",
        "tokens",
        "channels",
        "explained",
        "MB",
        "MiB",
        "than the input",
    ]
    out.print(table(columns, rows, left=(0, 1)))
    held, whole = (sum(getattr(each, key) for each in found.values()) for key in ("bytes", "whole"))
    limit = f" of {budget}" if budget else ""
    out.print(f"\n{format_bytes(held)}{limit}; the inputs themselves {format_bytes(whole)}", markup=False)
    plain, with_ranks = predict(config), predict(config.with_method(expression))
    for what, before, after in (
        ("saved for backward", plain.saved_bytes, with_ranks.saved_bytes),
        ("peak", plain.peak_bytes, with_ranks.peak_bytes),
    ):
        out.print(
            f"{what}: {format_bytes(after)}, without {storing} {format_bytes(before)}",
            markup=False,
            soft_wrap=True,
        )
    out.print(f'\n--method "{expression}"', markup=False, soft_wrap=True)
