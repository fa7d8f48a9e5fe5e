"""A training as text on the terminal: before it begins, and what it came to."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from bsr_explorer.cli.console import format_seconds, out, say_written, table
from bsr_explorer.config import PROTOCOLS
from bsr_explorer.models.architecture import quality_of
from bsr_explorer.prediction import predict, size_of, steps_of
from bsr_explorer.store.records import Record
from bsr_explorer.train.recipes import recipe as rules_of
from bsr_explorer.units import format_bytes, format_mb, plural, some

if TYPE_CHECKING:
    from bsr_explorer.data.contents import Contents
    from bsr_explorer.trained.training import Training


def announce(asked: Training, note: str, contents: Contents) -> None:
    """What is to be trained, and what that holds."""
    experiment = asked.experiment
    config, fidelity = experiment.config, experiment.fidelity
    actual = fidelity.at(config)
    proxy = "" if actual == config else f"; {format_bytes(predict(actual).peak_bytes)} at {size_of(actual)}"
    origin = "".join(f"{escape(line)}\n" for line in (asked.origin, note) if line)
    rules, protocol = rules_of(fidelity.recipe, experiment.data), PROTOCOLS[fidelity.protocol]
    judges = quality_of(config.model).judges
    steps = rules.steps if fidelity.epochs is None else None
    on = " (goes on from its checkpoint)" if asked.checkpoint.exists() else ""
    length = plural(steps, "step") if steps else plural(fidelity.epochs or rules.epochs, "epoch")
    peak = "predicted peak" if steps_of(config).alike else "predicted peak of the fullest step"
    out.print(
        f"{origin}[bold]{escape(str(config.method))}[/bold]\n{escape(config.model)}, batch {config.batch_size}, "
        f"{config.optimizer}, {config.precision}, {config.device}; weights {escape(experiment.weights)}, seed "
        f"{experiment.seed}\n{escape(experiment.data)}, {some(fidelity.train_size, f'training {judges}')}, "
        f"{length} at {size_of(actual)}, recipe {fidelity.recipe} ({escape(rules.source)})\n"
        + "".join(f"{escape(line)}\n" for line in [str(contents)] if line)
        + f"protocol {protocol.name}: {protocol.summarised(quality_of(config.model))}\n"
        f"{peak}: {format_bytes(predict(config).peak_bytes)} at {size_of(config)}{proxy}\n"
        f"folder: {escape(str(asked.folder))}{on}\n",
        soft_wrap=True,
    )


def show_trained(record: Record, files: list[Path], title: str) -> None:
    after = " after the last epoch" if record.protocol.best else ""
    said = record.judged.text
    test = "" if record.test_score is None else f", {said(record.test_score)} on test{after}"
    out.print(
        f"{record.quality} {said(record.score or 0.0)} ({record.accuracy_is}){test}; "
        f"{plural(record.images_trained, record.judged.judges)} in {format_seconds(record.seconds)}; weights: "
        f"{record.weights}",
        soft_wrap=True,
        markup=False,
    )
    if record.by_task:
        out.print(f"by task: {record.by_task}", soft_wrap=True, markup=False)
    measured = record.measured or {}
    rows = [
        (
            kind,
            f"{format_mb(measured[f'predicted_{kind}_bytes'])}",
            f"{format_mb(measured[f'{kind}_bytes'])}",
            f"{measured[f'{kind}_bytes'] - measured[f'predicted_{kind}_bytes']:+,} bytes",
        )
        for kind in ("peak", "saved")
        if f"predicted_{kind}_bytes" in measured
    ]
    if rows:
        columns = [
            f"of a step at {record.judged.size(measured['image_size'])}",
            "predicted MB",
            "measured MB",
            "difference",
        ]
        out.print(table(columns, rows))
    if "steps" in measured:
        out.print(said_of_steps(measured["steps"]), soft_wrap=True)
    if "fault" in measured:
        out.print(str(measured["fault"]), style="red", markup=False)
    say_written(files, title)


def said_of_steps(steps: dict[str, Any]) -> str:
    """Where steps differed: how many kinds there were, what they saved, and how many were not as predicted."""
    saved = steps["saved_bytes"]
    return (
        f"steps differed: {plural(steps['shapes'], 'kind')}, which saved {format_mb(saved['least'])} to "
        f"{format_mb(saved['most'])} MB, {format_mb(saved['mean'])} on average; not as predicted: "
        f"{steps['saved_off']} of {steps['shapes']}, and {steps['peaks_off']} of {plural(steps['peaks'], 'peak')}"
    )
