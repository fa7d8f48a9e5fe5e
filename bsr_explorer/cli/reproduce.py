"""``bsr-explore reproduce``: one trial trained again, and its results compared."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from bsr_explorer.cli import options
from bsr_explorer.cli.console import err, fail, format_seconds, out, table
from bsr_explorer.cli.train import watching_run
from bsr_explorer.data.places import check_data, default_data_dir
from bsr_explorer.errors import UserError
from bsr_explorer.store.records import Record
from bsr_explorer.train.recipes import check_optimizer
from bsr_explorer.units import format_mb

if TYPE_CHECKING:
    from bsr_explorer.finetune.again import Reproduction


def reproduce(
    study: options.StudyFolder,
    trial: options.Trial,
    tolerance: Annotated[
        float | None,
        typer.Option(
            help="Largest allowed difference of the accuracies, in [0, 1], or perplexities. If left out: none for the "
            "same versions on the same kind of CPU, else one standard error of the validation accuracy, or 1% of the "
            "perplexity."
        ),
    ] = None,
    data_dir: options.DataDir = None,
    as_json: options.Json = False,
) -> None:
    """Train one trial again from its record, and compare the results. Exit with 1 if they differ.

    Configuration, fidelity, data, weights and seed are the record's. Nothing is written.

    Examples:

      bsr-explore reproduce reports/examples/deit_s-digits-2GB 2

      bsr-explore reproduce reports/examples/deit_s-digits-2GB 2 --tolerance 0.01 --json
    """
    from bsr_explorer.finetune import again as reproduction
    from bsr_explorer.store.trials import pick, read_runs

    reproduction.check_tolerance(tolerance)
    record = pick(read_runs(study), trial)
    where = data_dir or default_data_dir()
    check_data(record.data, where)
    check_optimizer(record.config["optimizer"])
    experiment, job = reproduction.plan(record, where)
    from bsr_explorer.finetune.build import device_of
    from bsr_explorer.finetune.job import try_out

    try:
        device_of(experiment.config)
    except UserError:
        raise UserError(
            f"TRIAL: {trial} was trained on {experiment.config.device}, and there is none here"
        ) from None
    with err.status("loading weights and data…"):
        try_out(experiment.config, job)
    with watching_run(f"trial {trial} again", record.protocol.judged_on, record.judged) as watcher:
        made = reproduction.reproduce(record, where, tolerance, watcher.step)
    if as_json:
        print(json.dumps(_answer(trial, made)))
    else:
        _show(trial, made)
    if not made.agrees:
        fail(f"trial {trial} did not come to the same: {_verdict(made)}", code=1)


def _answer(trial: int, made: Reproduction) -> dict[str, Any]:
    from bsr_explorer.finetune.again import changed

    return {
        "trial": trial,
        "agrees": made.agrees,
        "difference": made.difference,
        "tolerance": made.tolerance,
        "why": made.why,
        "changed": changed(made.record, made.again),
        "recorded": made.record.to_dict(),
        "again": made.again.to_dict(),
    }


def _show(trial: int, made: Reproduction) -> None:
    out.print(f"[bold]trial {trial}[/bold]: {escape(made.record.method)}\n", soft_wrap=True)
    then, now = _column(made.record), _column(made.again)
    rows = [(name, then.get(name, ""), now.get(name, "")) for name in dict.fromkeys([*then, *now])]
    out.print(table(["", "recorded", "again"], rows))
    if made.agrees:
        out.print(f"\n[bold]it came to the same[/bold]: {escape(_verdict(made))}", soft_wrap=True)


def _column(record: Record) -> dict[str, str]:
    """What there is to compare of a run, by name."""
    from bsr_explorer.store.trials import evaluations

    made: dict[str, str] = {"status": record.status}
    for epoch, score in evaluations(record):
        made[f"{record.quality} after epoch {epoch}"] = record.judged.text(score, decimals=4)
    if record.test_score is not None:
        made[f"{record.quality} on test"] = record.judged.text(record.test_score, decimals=4)
    for key, name in _MEMORY.items():
        if record.measured and key in record.measured:
            size = record.measured[key]
            made[name] = f"{size:,} bytes = {format_mb(size)} MB"
    made["images trained"] = f"{record.images_trained:,}"
    made["time"] = format_seconds(record.seconds)
    return made


_MEMORY = {
    "predicted_peak_bytes": "peak, predicted",
    "peak_bytes": "peak, measured",
    "predicted_saved_bytes": "saved, predicted",
    "saved_bytes": "saved, measured",
}


def _verdict(made: Reproduction) -> str:
    """How far apart the runs are, and how far they may be."""
    again = made.again
    if again.status != made.record.status:
        return f"it ended as {again.status}{again.reason and f' ({again.reason})'}"
    if made.difference is None:
        return f"{len(again.history)} evaluations instead of {len(made.record.history)}"
    quality = made.record.judged
    unit = f" {quality.points}" if quality.points else ""
    may = f"±{quality.scale * made.tolerance:.4f}{unit}" if made.tolerance else "no difference"
    apart = f"{quality.scale * made.difference:.4f}{unit} apart" if made.difference else "identical"
    return f"{apart}, where {may} was allowed ({made.why})"
