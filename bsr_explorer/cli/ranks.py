"""``bsr-explore ranks``: ranks for ``asi``, layer by layer, under a budget of bytes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from bsr_explorer.cli import options
from bsr_explorer.cli.console import out, table
from bsr_explorer.cli.progress import loading
from bsr_explorer.config import Config
from bsr_explorer.data.places import check_data, count_classes, default_data_dir
from bsr_explorer.errors import UserError
from bsr_explorer.methods import Asi
from bsr_explorer.methods.adding import LAYERS
from bsr_explorer.models.weights import check_weights
from bsr_explorer.prediction import predict
from bsr_explorer.units import format_bytes, format_mb, format_mib, parse_bytes

if TYPE_CHECKING:
    from torch import Tensor

    from bsr_explorer.data.images import ImageSplit
    from bsr_explorer.finetune.ranks import Choice


def ranks(
    budget: Annotated[
        str,
        typer.Option(
            help="Memory that the chosen layers may hold of their inputs, with its unit: 500MB, 64MiB, …"
        ),
    ] = "100MB",
    model: options.Model = "deit_s",
    method: Annotated[
        str, typer.Option(help="What trains: a method expression without asi, such as full or 'last(k=3)'.")
    ] = "full",
    on: Annotated[
        str, typer.Option(help=f"Layers whose inputs are decomposed: {', '.join(LAYERS)}.")
    ] = "qkv,fc2",
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
    """Choose ranks of asi for each layer, from one batch and a budget.

    Each layer may have the least ranks that explain 40, 50, … 90% of the variance of its input. Those are chosen whose
    errors of the weights' gradients add up to the least, among all that fit the budget. Nothing is trained.

    Examples:

      bsr-explore ranks --model deit_s --data digits --budget 100MB

      bsr-explore ranks --method "last(k=3)" --image-size 112 --batch-size 8 --budget 600KB
    """
    most, where = parse_bytes(budget), data_dir or default_data_dir()
    check_weights(weights)
    check_data(data, where)
    config = Config(
        model,
        image_size,
        count_classes(data),
        batch_size,
        precision=precision,
        attention=attention,
    )
    methods = options.following(method, config)
    if len(methods) > 1:
        raise UserError(f"--method: {method} is a list; ranks are chosen for one method")
    layers = tuple(part.strip() for part in on.split(","))
    config = config.with_method(methods[0])
    predict(config.with_method(config.how + Asi(layers)))  # which refuses what does not go together

    from bsr_explorer.finetune.build import build_with
    from bsr_explorer.finetune.job import Job, load_data
    from bsr_explorer.finetune.ranks import chosen_ranks
    from bsr_explorer.train.step import image_dtype, in_precision

    with loading("looking at each layer…", "looking at each layer") as told:
        net, used = build_with(config, weights, seed)
        in_precision(net, precision)
        splits = load_data(config, Job(data, weights=used.source, seed=seed, data_dir=where))
        images, labels = _batch(splits.train, batch_size, seed)
        images = images.to(image_dtype(precision))
        found = chosen_ranks(net, images, labels, most, layers, precision=precision, told=told)
    expression = f"{config.how}+{Asi(layers, {name: choice.ranks for name, choice in found.items()})}"
    if as_json:
        print(json.dumps(_answer(found, most, expression)))
    else:
        _show(found, config, expression, f"{budget} = {format_bytes(most)}")


def _batch(images: ImageSplit, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Training images (B, 3, S, S) in which each class has its share, and their labels (B,)."""
    import torch

    from bsr_explorer.data.splits import stratified_order

    if len(images) < count:
        raise UserError(
            f"--batch-size: {count} is more than the {len(images)} images; choose at most {len(images)}"
        )
    pairs = images.few([int(item) for item in stratified_order(images.labels, seed)[:count]])
    return torch.stack([image for image, _ in pairs]), torch.tensor([label for _, label in pairs])


def _answer(found: dict[str, Choice], budget: int, expression: str) -> dict[str, object]:
    layers = [
        {
            "block": int(name.partition(".")[0]),
            "layer": name.partition(".")[2],
            "ranks": choice.ranks,
            "bytes": choice.bytes,
            "whole_bytes": choice.whole,
            "explained": choice.explained,
            "error": choice.error,
        }
        for name, choice in found.items()
    ]
    held = sum(choice.bytes for choice in found.values())
    return {"budget_bytes": budget, "bytes": held, "method": expression, "layers": layers}


def _show(found: dict[str, Choice], config: Config, expression: str, budget: str) -> None:
    rows = [
        (
            *name.split("."),
            *map(str, choice.ranks),
            f"{choice.explained:.0%}",
            format_mb(choice.bytes, 2),
            format_mib(choice.bytes, 2),
            f"{choice.whole / choice.bytes:.1f}x less",
        )
        for name, choice in found.items()
    ]
    columns = ["block", "layer", "images", "tokens", "channels", "explained", "MB", "MiB", "than the input"]
    out.print(table(columns, rows, left=(0, 1)))
    held, whole = (sum(getattr(each, key) for each in found.values()) for key in ("bytes", "whole"))
    out.print(
        f"\n{format_bytes(held)} of {budget}; the inputs themselves {format_bytes(whole)}", markup=False
    )
    plain, with_ranks = predict(config), predict(config.with_method(expression))
    for what, before, after in (
        ("saved for backward", plain.saved_bytes, with_ranks.saved_bytes),
        ("peak", plain.peak_bytes, with_ranks.peak_bytes),
    ):
        out.print(
            f"{what}: {format_bytes(after)}, without asi {format_bytes(before)}", markup=False, soft_wrap=True
        )
    out.print(f'\n--method "{expression}"', markup=False, soft_wrap=True)
