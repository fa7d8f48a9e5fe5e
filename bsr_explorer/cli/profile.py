"""``bsr-explore profile``: what one configuration costs, and whether a real step agrees."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from bsr_explorer.cli import options
from bsr_explorer.cli.console import err, out, table
from bsr_explorer.cli.profile_shown import show_blocks, show_peak, show_steps, show_unknown
from bsr_explorer.config import Config
from bsr_explorer.cost import published
from bsr_explorer.devices import device_of
from bsr_explorer.errors import UserError
from bsr_explorer.errors import unknown as no_such
from bsr_explorer.ledger import Ledger, said_bound
from bsr_explorer.prediction import (
    check_ruled,
    counted_bytes,
    is_ruled,
    note_of,
    predict,
    published_tape,
    size_of,
    spread,
)
from bsr_explorer.store.experiment import Experiment
from bsr_explorer.store.study import COUNTS, said_counts
from bsr_explorer.train.recipes import check_optimizer
from bsr_explorer.units import (
    format_bytes,
    format_gflops,
    format_less,
    format_mb,
    format_mib,
    format_number,
    in_gmacs,
    in_mib,
)


def profile(
    context: typer.Context,
    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="[CONFIG.toml]", help="Configuration file (see `export`), instead of the flags below."
        ),
    ] = None,
    model: options.Model = "deit_s",
    module: Annotated[
        str | None,
        typer.Option(help="A model of your own: the function that builds it, as package.module:function."),
    ] = None,
    method: options.Method = "bsr",
    batch_size: options.BatchSize = 32,
    image_size: options.ImageSize = 224,
    num_classes: options.Classes = 10,
    tasks: options.Tasks = None,
    optimizer: options.Optimizer = "adamw",
    precision: options.Precision = "fp32",
    implementation: options.Implementation = "auto",
    attention: options.Attention = "fused",
    micro_batches: options.MicroBatches = 1,
    set_to_none: options.SetToNone = True,
    accounting: Annotated[
        str | None,
        typer.Option(
            help="What the total counts: peak, reserved or device (of CUDA), saved or published. If left out: on CUDA "
            "reserved, else peak."
        ),
    ] = None,
    budget_quantile: options.BudgetQuantile = 1.0,
    measure: Annotated[
        bool, typer.Option("--measure", help="Also run real steps on this machine, and compare.")
    ] = False,
    device: options.Device = "cpu",
    gpu: options.Gpu = None,
    unknown: options.Unknown = "refuse",
    as_json: options.Json = False,
) -> None:
    """Predict the memory and FLOPs of one training step, per kind and per block.

    Examples:

      bsr-explore profile --model deit_s --method bsr

      bsr-explore profile --model vit_b --method "last(k=3)" --batch-size 8 --measure

      bsr-explore profile --model vit_b --method bsr --accounting published --json
    """
    if module is not None:
        if options.given(context, "model"):
            raise UserError("--module: --model names a model, too; give one of the two")
        if ":" not in module:
            raise UserError(f"--module: {module!r} is no function; write it as package.module:function")
        model = module
    if accounting is not None and accounting not in COUNTS:
        raise no_such("--accounting", accounting, COUNTS)
    if file is not None:
        options.refuse_flags(context, beside=_BESIDE_FILE)
        config = Experiment.from_toml(file).config
        if options.given(context, "device") or gpu:
            config = replace(config, **options.place(context, device, gpu))
        if options.given(context, "unknown"):
            config = replace(config, unknown=unknown)
    else:
        config = Config(
            model=model,
            image_size=image_size,
            batch_size=batch_size,
            precision=precision,
            optimizer=optimizer,
            attention=attention,
            method=method,
            implementation=implementation,
            micro_batches=micro_batches,
            set_to_none=set_to_none,
            unknown=unknown,
            **options.head(context, num_classes, tasks),
            **options.place(context, device, gpu),
        )
        config = config.with_method(options.following(method, config)[0])
    accounting = options.counts(accounting, config, "--accounting")
    check_ruled(config, accounting, "--accounting")
    quantile = options.quantile(budget_quantile, accounting, [config])
    if measure:
        check_optimizer(config.optimizer)
    predicted = predict(config)
    answer: dict[str, Any] = {
        "config": config.to_dict(),
        "predicted": {
            **predicted.summary(),
            "total_bytes": counted_bytes(config, accounting, quantile),
            "total_counts": accounting,
            "total_quantile": quantile,
            "compared": device_of(config.place).compared,
            "note": note_of(config),
            "conventions": "2 FLOPs a multiply-add; attention backward is 2.5 (fused) or 2 (math) times forward",
        },
        "full": _full(config, accounting),
        "steps": asdict(steps) if (steps := spread(config)) else None,
        "published": _published(config) if is_ruled(config) else None,
        "measured": None,
    }
    if measure:
        answer["measured"] = _measured(config, accounting)
    if as_json:
        print(json.dumps(answer))
        return
    _show(config, predicted, answer)


_BESIDE_FILE = ("file", "accounting", "budget_quantile", "measure", "device", "gpu", "unknown", "as_json")
"""Parameters that may be given beside a file."""


def _full(config: Config, accounting: str) -> dict[str, Any]:
    """The reference: full fine-tuning of the same model, batch and image size."""
    reference = config.with_method("full")
    costs = predict(reference)
    return {
        **({"at_least": sorted(costs.at_least)} if costs.unknown else {}),
        "total_bytes": counted_bytes(reference, accounting),
        "saved_bytes": costs.saved_bytes,
        "forward_flops": costs.forward_flops,
        "train_flops": costs.train_flops,
    }


def _published(config: Config) -> dict[str, Any]:
    """The BSR paper's accounting of this configuration and of full fine-tuning."""

    def figures(of: Config) -> dict[str, Any]:
        tape, costs = published_tape(of), predict(of)
        return {
            "activation_mib_per_image": in_mib(published.activation_bytes_per_image(tape)),
            "total_mib": in_mib(published.total_bytes(tape)),
            "forward_gmacs_per_image": in_gmacs(costs.forward_flops) / of.batch_size,
        }

    mine, full = figures(config), figures(config.with_method("full"))
    return {
        "is": "activations of the layers' inputs × batch + parameters (32 bit trained, 8 bit frozen)",
        **mine,
        "full": full,
        "saving": full["total_mib"] / mine["total_mib"],
    }


def _measured(config: Config, accounting: str) -> dict[str, Any]:
    from bsr_explorer.finetune.measure import measure_steps, second_opinion, whole_of

    with err.status("running real steps…"):
        each = measure_steps(config)
        measurement = whole_of(config, each)
        flops, blind = second_opinion(config)
    held = measurement.ledger
    totals = {
        "peak": held.peak_bytes,
        "saved": held.saved_bytes,
        "reserved": held.reserved_bytes,
        "device": held.device_bytes,
    }  # nothing measures a published rule
    return {
        **held.summary(),
        "total_bytes": totals.get(accounting),
        "uncounted_operations": list(measurement.uncounted),
        "steps": [
            {"step": str(one.method), **_both(predict(one), measured.ledger)}
            for one, measured in each.items()
        ],
        "fvcore_forward_flops": flops,
        "fvcore_blind_to": blind,
    }


def _both(predicted: Ledger, measured: Ledger) -> dict[str, dict[str, int]]:
    """Of one kind of step, what was predicted and what was measured."""
    figures = ("saved_bytes", "peak_bytes", "train_flops")
    return {
        "predicted": {name: getattr(predicted, name) for name in figures},
        "measured": {name: getattr(measured, name) for name in figures},
    }


_LINES = (
    ("saved activations", "saved_bytes"),
    ("parameters", "parameter_bytes"),
    ("gradients", "gradient_bytes"),
    ("optimiser state", "optimizer_bytes"),
    ("input", "input_bytes"),
    ("sum of these", "held_bytes"),
    ("peak", "peak_bytes"),
    ("reserved", "reserved_bytes"),
    ("reserved and context", "device_bytes"),
    ("forward FLOPs", "forward_flops"),
    ("training FLOPs", "train_flops"),
)


def _show(config: Config, predicted: Ledger, answer: dict[str, Any]) -> None:
    out.print(
        f"[bold]{escape(config.model)}[/bold], {size_of(config)}, batch {config.batch_size}, {config.optimizer}, "
        f"{config.precision}, {config.attention} attention\nmethod  {escape(str(config.method))}\n"
    )
    if note := answer["predicted"]["note"]:
        out.print(f"{note}\n", markup=False)
    measured = answer["measured"]
    lines = [(label, key) for label, key in _LINES if key in answer["predicted"]]
    if measured is None:
        totals = [(label, *_scaled(key, predicted)) for label, key in lines]
        out.print(table(["predicted, of one step", "MB or GFLOPs", "MiB"], totals))
    else:
        rows = [_compared(label, predicted, key, measured[key]) for label, key in lines]
        out.print(table(["of one step", "predicted", "measured", "difference"], rows))
        out.print(
            f"measured peak: {measured['peak_is']}{_beside(measured)}; fvcore counts "
            f"{measured['fvcore_forward_flops']:,} FLOPs forward and does not see "
            f"{_listed(measured['fvcore_blind_to']) or 'nothing'}"
        )
        if measured["uncounted_operations"]:
            out.print(
                f"[red]operations without a FLOP formula: {', '.join(measured['uncounted_operations'])}[/red]"
            )
    show_unknown(predicted)
    show_peak(config, predicted)
    if answer["steps"]:
        show_steps(predicted, answer["steps"], measured["steps"] if measured else [])
    out.print()
    show_blocks(config, predicted)
    total, full = answer["predicted"]["total_bytes"], answer["full"]["total_bytes"]
    counts = answer["predicted"]["total_counts"]
    mine, theirs = (
        said_bound(f"{counts}_bytes", each.get("at_least", ()))
        for each in (answer["predicted"], answer["full"])
    )
    less = "against" if mine or theirs else f"{format_less(full / total)} than"
    out.print(
        f"\nA budget that counts {counts} ({said_counts(counts, answer['predicted']['total_quantile'])}): "
        f"{mine}{format_bytes(total)}, {less} full fine-tuning, {theirs}{format_bytes(full)}"
    )
    if counts == "published":
        paper = answer["published"]
        out.print(
            f"an image: {_from_full(paper, 'activation_mib_per_image')} MiB of activations, "
            f"{_from_full(paper, 'forward_gmacs_per_image')} GMACs forward"
        )


def _from_full(paper: dict[str, Any], key: str) -> str:
    return f"{format_number(paper['full'][key], 2)} → {format_number(paper[key], 2)}"


def _scaled(key: str, predicted: Ledger) -> tuple[str, str]:
    value, mark = getattr(predicted, key), said_bound(key, predicted.at_least)
    if key.endswith("flops"):
        return mark + format_gflops(value, 3), ""
    return mark + format_mb(value, 2), mark + format_mib(value, 2)


def _compared(label: str, predicted: Ledger, key: str, measured: int) -> tuple[str, str, str, str]:
    value = getattr(predicted, key)
    return (
        label,
        f"{said_bound(key, predicted.at_least)}{value:,}",
        f"{measured:,}",
        f"{measured - value:+,}" if measured != value else "0",
    )


def _listed(blind: dict[str, int]) -> str:
    return ", ".join(f"{name} (×{count})" for name, count in sorted(blind.items()))


def _beside(measured: dict[str, Any]) -> str:
    """What was measured beside the peak, in words."""
    words = {
        "scratch_bytes": "{} more that kernels took within their calls",
        "reserved_bytes": "{} reserved by the allocator",
        "context_bytes": "{} held by the driver beside it",
    }
    said = [text.format(format_bytes(measured[key])) for key, text in words.items() if measured.get(key)]
    return "".join(f", {text}" for text in said)
