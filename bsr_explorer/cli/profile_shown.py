"""Parts of a profile as text on the terminal: its fullest moment, and its blocks."""

from __future__ import annotations

from typing import Any

from bsr_explorer.cli.console import out, table
from bsr_explorer.config import Config
from bsr_explorer.devices import device_of
from bsr_explorer.ledger import NAMES, Ledger, said_bound
from bsr_explorer.prediction import tokens_by_block, trained_blocks
from bsr_explorer.units import format_gflops, format_mb


def show_peak(config: Config, predicted: Ledger) -> None:
    """When the peak is, and what is alive then."""
    peak = predicted.peak
    assert peak is not None
    where = f"block {peak.block}" if peak.block is not None else "outside of the blocks"
    when = (
        "in the optimiser's step"
        if peak.phase == "optimizer"
        else f"{peak.phase}, {where}, at {peak.operation or 'the model itself'}"
    )
    alive = sorted(peak.alive.items(), key=lambda item: -item[1])
    parts = ", ".join(f"{NAMES[kind]} {format_mb(size)}" for kind, size in alive)
    out.print(f"the peak is {when}; alive then, in MB: {parts}")
    show_compared(config)


def show_steps(predicted: Ledger, steps: dict[str, Any], measured: list[dict[str, Any]]) -> None:
    """Where steps differ: the least, the mean and the most, and how many kinds were measured.

    Args:
        steps: a ``prediction.Spread`` as a dictionary.
        measured: what was measured of each kind of step, beside its prediction.
    """
    figures = (("saved MB", "saved_bytes"), ("peak MB", "peak_bytes"))
    rows = [
        (label, *(said_bound(key, predicted.at_least) + format_mb(value, 1) for value in steps[key]))
        for label, key in figures
    ]
    flops = (
        said_bound("train_flops", predicted.at_least) + format_gflops(value, 1)
        for value in steps["train_flops"]
    )
    rows.append(("train GFLOPs", *flops))
    out.print()
    out.print(table(["steps differ", "least", "mean", "most"], rows))
    out.print(steps["known"], soft_wrap=True, markup=False)
    if measured:
        off = sum(each["predicted"] != each["measured"] for each in measured)
        kinds = "kind of step was" if len(measured) == 1 else "kinds of step were"
        out.print(f"{len(measured)} {kinds} measured: {off} not as predicted to the byte and FLOP")


def show_unknown(predicted: Ledger) -> None:
    """What cannot be counted, a line each."""
    for each in predicted.unknown:
        out.print(str(each), style="yellow", markup=False, soft_wrap=True)


def show_compared(config: Config) -> None:
    """With what predictions for a device that is no CPU have been compared, and for which card they are."""
    if config.device == "cpu":
        return
    device = device_of(config.place)
    card = f" ({device.gpu.title})" if device.gpu else ""
    compared = device.compared if device.compared.startswith("not") else f"compared {device.compared}"
    out.print(f"[yellow]predictions for {config.device}{card} are {compared}[/yellow]")


def show_blocks(config: Config, predicted: Ledger) -> None:
    tokens = {str(block): counts for block, counts in tokens_by_block(config).items()}
    trained = set(map(str, trained_blocks(config)))
    rows = []
    for block, entry in predicted.by_block().items():
        here = tokens.get(block)
        rows.append(
            (
                block,
                "" if here is None else "→".join(map(str, dict.fromkeys(here))),
                "trains" if block in trained else "",
                format_mb(entry.get("saved", 0), 2),
                format_mb(entry.get("parameter", 0), 2),
                format_mb(entry.get("gradient", 0) + entry.get("optimizer", 0), 2),
                format_gflops(entry.get("train_flops", 0), 2),
            )
        )
    columns = [
        "block (0-based)",
        "tokens",
        "",
        f"{said_bound('saved_bytes', predicted.at_least)}saved MB",
        "parameters MB",
        "gradient + optimiser MB",
        f"{said_bound('train_flops', predicted.at_least)}train GFLOPs",
    ]
    out.print(table(columns, rows, left=(0, 2)))
