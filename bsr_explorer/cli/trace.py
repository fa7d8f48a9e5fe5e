"""``bsr-explore trace``: what a GPU's allocator did in a step, beside what was predicted."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from bsr_explorer.cli import options
from bsr_explorer.cli.console import err, found_gpu, out, table
from bsr_explorer.cli.profile_shown import show_compared
from bsr_explorer.config import Config
from bsr_explorer.errors import UserError
from bsr_explorer.store.experiment import Experiment
from bsr_explorer.trace import Beside, Difference, Trace, beside


def trace(
    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="[CONFIG.toml]", help="Configuration file (see `export`) of the step to record."
        ),
    ] = None,
    read: Annotated[
        Path | None, typer.Option(help="Compare this recorded step instead. Needs no GPU.")
    ] = None,
    where: Annotated[Path | None, typer.Option("--out", help="File to write the recorded step to.")] = None,
    gpu: options.Gpu = None,
    as_json: options.Json = False,
) -> None:
    """Record what a GPU's allocator does in a training step, and compare it with the prediction event by event.

    The first event that differs is named. A file from another card shows which rule is not that card's: please send it.

    Examples:

      bsr-explore trace config.toml --out trace.json

      bsr-explore trace --read trace.json
    """
    if (file is None) == (read is None):
        raise UserError("trace: give CONFIG.toml to record a step, or --read FILE to compare one")
    if read is not None:
        if where is not None:
            raise UserError(
                "--out: --read compares a step that is recorded already; leave one of the two out"
            )
        found = Trace.read(read)
    else:
        assert file is not None
        config = replace(Experiment.from_toml(file).config, device="cuda", gpu=gpu or found_gpu("cuda"))
        from bsr_explorer.finetune.tracing import trace as record

        with err.status("running five steps…"):
            found = record(config)
        if where is not None:
            found.write(where)
    config = Config.from_dict(found.config)
    if gpu is not None:
        config = replace(config, gpu=gpu)
    compared = beside(found, config)
    if as_json:
        print(json.dumps({"config": config.to_dict(), "recorded": _totals(found), **asdict(compared)}))
        return
    _show(found, config, compared)
    if where is not None:
        out.print(f"written: {where}", markup=False)


def _totals(found: Trace) -> dict[str, int]:
    return {"peak": found.peak, "reserved": found.reserved, "events": len(found.events)}


def _show(found: Trace, config: Config, compared: Beside) -> None:
    recorded_on = found.provenance.get("processor", "a GPU")
    out.print(
        f"[bold]{escape(config.model)}[/bold], {config.image_size} px, batch {config.batch_size}, {config.optimizer}, "
        f"{config.precision}, {config.attention} attention\nmethod  {escape(str(config.method))}\n"
        f"recorded on {escape(str(recorded_on))}, torch {escape(str(found.provenance.get('torch', 'not said')))}\n"
    )
    rows = [
        ("peak", compared.peak, found.peak),
        ("reserved", compared.reserved, found.reserved),
    ]
    shown = [
        (name, f"{mine:,}", f"{theirs:,}", f"{mine - theirs:+,}", f"{100 * (mine / theirs - 1):+.2f}")
        for name, mine, theirs in rows
    ]
    out.print(table(["bytes", "predicted", "recorded", "difference", "%"], shown))
    out.print(f"\n{_said(compared, len(found.events))}", markup=False)
    recorded_with, here = found.provenance.get("torch"), version("torch")
    if recorded_with and recorded_with.split(".")[:2] != here.split(".")[:2]:
        out.print(f"predicted as torch {here} does it: workspaces and kernels may differ", markup=False)
    show_compared(config)


def _said(compared: Beside, events: int) -> str:
    first = compared.first
    if first is None:
        return f"all {events:,} events of more than 1 MiB are as predicted"
    return (
        f"{events:,} events of more than 1 MiB are recorded, {compared.events:,} predicted; the first {first.number:,} "
        f"agree\nthen there is recorded: {_change(first.recorded)}; "
        f"predicted: {_change(first.predicted)}{_where(first)}"
    )


def _change(size: int | None) -> str:
    if size is None:
        return "nothing more"
    return f"{'takes' if size > 0 else 'frees'} {abs(size):,} bytes"


def _where(first: Difference) -> str:
    return f" ({first.name}; {first.at})" if first.name else ""
