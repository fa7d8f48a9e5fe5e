"""``bsr-explore list``: the models, methods and datasets that there are."""

from __future__ import annotations

from dataclasses import MISSING, fields
from typing import Annotated

import typer

from bsr_explorer.cli.console import out, table
from bsr_explorer.config import PROTOCOLS, Config
from bsr_explorer.data.places import default_data_dir, list_datasets
from bsr_explorer.errors import UserError, unknown
from bsr_explorer.ledger import Ledger
from bsr_explorer.methods import METHODS
from bsr_explorer.methods.base import PARAMETERS
from bsr_explorer.models.architecture import ARCHITECTURES
from bsr_explorer.models.names import ALIASES
from bsr_explorer.prediction import predict
from bsr_explorer.train.recipes import RECIPES, Recipe


def listing(
    what: Annotated[str, typer.Argument(help="models, methods, datasets, recipes or protocols")],
) -> None:
    """List the possible values of --model, --method, --data, --recipe or --protocol.

    Examples:

      bsr-explore list methods
    """
    kinds = {
        "models": _models,
        "methods": _methods,
        "datasets": _datasets,
        "recipes": _recipes,
        "protocols": _protocols,
    }
    if what not in kinds:
        raise unknown("list", what, kinds)
    kinds[what]()


def _models() -> None:
    out.print(table(["alias", "timm model"], list(ALIASES.items()), left=(0, 1)))
    out.print("\nAny other plain vision transformer goes by its timm name (DeiT, ViT, AugReg, DINOv2, …).")
    for architecture in ARCHITECTURES.values():
        out.print(f"{architecture.name}: {architecture.summary}", markup=False)


EXAMPLE = Config("deit_s", batch_size=32)
"""The step that methods are listed with what they save of."""


def _methods() -> None:
    full = predict(EXAMPLE.with_method("full"))
    rows = []
    for name, method in METHODS.items():
        takes = [
            f.name
            if f.default is MISSING and f.default_factory is MISSING
            else f"{f.name}={getattr(method(), f.name)!r}"
            for f in fields(method)
        ]
        decides = "; ".join(method.chooses) or "what is computed again, or moved"
        saves = _saves(name, full)
        rows.append((name, method.summary, decides, *saves, ", ".join(takes) or "–", method.citation))
    out.print(
        table(
            ["method", "what it does", "decides", "saved", "peak", "arguments and defaults", "source"],
            rows,
            left=(0, 1, 2, 5, 6),
            fold=(1, 2, 5, 6),
        )
    )
    out.print(
        f"\nSaved, peak: activations saved for backward and peak memory of a step of {EXAMPLE.model} (batch "
        f"{EXAMPLE.batch_size}, {EXAMPLE.image_size} px, fp32) over those of full fine-tuning; of methods that say "
        "nothing of what trains, added to it.\nMethods that decide different things are composed with +, such as "
        "bsr+mesa; what does not go together is refused with the reason.",
        soft_wrap=True,
    )


def _saves(name: str, full: Ledger) -> tuple[str, str]:
    """Saved and peak memory of a method over those of full fine-tuning, by itself or added to it."""
    try:
        cost = predict(EXAMPLE.with_method(name if PARAMETERS in METHODS[name].chooses else f"full+{name}"))
    except UserError:  # a method of somebody else's, for other models
        return "–", "–"
    return f"{cost.saved_bytes / full.saved_bytes:.2f}x", f"{cost.peak_bytes / full.peak_bytes:.2f}x"


def _datasets() -> None:
    rows = [
        (
            str(entry["name"]),
            str(entry["classes"]),
            " / ".join(str(entry[part]) for part in ("train", "validation", "test")),
            str(entry["availability"]),
            str(entry["description"]),
        )
        for entry in list_datasets(default_data_dir())
    ]
    columns = ["data", "classes", "train / validation / test", "where", "what"]
    out.print(table(columns, rows, left=(0, 3, 4), fold=(4,)))


def _recipes() -> None:
    theirs = [name for name in RECIPES if name.startswith("paper-")]
    for names in ([name for name in RECIPES if name not in theirs], theirs):
        settings = {name: _settings(RECIPES[name]) for name in names}
        rows = [(key, *(said[key] for said in settings.values())) for key in next(iter(settings.values()))]
        columns = range(len(settings) + 1)
        out.print(table(["", *settings], rows, left=tuple(columns), fold=tuple(columns[1:])))
        out.print()
    out.print(
        "Which file of the BSR authors' code each setting comes from: bsr_explorer/train/recipes.py. Where a "
        "training by them still differs from one by that code: studies/paper/README.md.",
        soft_wrap=True,
    )


def _settings(rules: Recipe) -> dict[str, str]:
    """A recipe in words."""
    rate = f"{rules.lr:g}" if rules.lr_batch is None else f"{rules.lr:g} at a batch of {rules.lr_batch}"
    warmup = f"{rules.warmup_fraction:.0%}" if rules.warmup_steps is None else f"{rules.warmup_steps} steps"
    return {
        "of": rules.source,
        "for": ", ".join(rules.data) or "any data",
        "weights": rules.tag or "the model's own",
        "length": f"{rules.steps:,} steps" if rules.steps else f"{rules.epochs} epochs",
        "batch": f"{rules.batch_size}, the last one of an epoch "
        + ("as it is left" if rules.partial_batch else "dropped unless full"),
        "optimiser": f"{rules.optimizer}, weight decay {rules.weight_decay:g}",
        "learning rate": f"{rate}; head {rules.head_lr_scale:g}x, layer decay {rules.layer_decay:g}",
        "schedule": f"warm-up {warmup}, cosine to {rules.least_rate:g} of the rate"
        + ("" if rules.counted_from is None else f"; the first step counts as {rules.counted_from}"),
        "head's start": _head(rules.head_std),
        "loss": f"label smoothing {rules.label_smoothing:g}, clip {rules.clip or 'none'}",
        "training images": f"{rules.augment}" + (f" {rules.crop_scale}" if "crop" in rules.augment else ""),
        "other images": "squashed to the square" if rules.squash else "shorter side, centre crop",
        "resampling": rules.interpolation,
    }


def _head(std: float | None) -> str:
    if std is None:
        return "the model's own"
    return f"std {std:g}" if std else "zeros"


def _protocols() -> None:
    rows = [(name, protocol.summary, protocol.accuracy_is) for name, protocol in PROTOCOLS.items()]
    out.print(table(["protocol", "what it is", "its accuracy"], rows, left=(0, 1, 2), fold=(1, 2)))
