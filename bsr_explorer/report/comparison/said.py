"""What is compared, and what went wrong, in words."""

from __future__ import annotations

from collections.abc import Sequence

from bsr_explorer.report.comparison.line import Line
from bsr_explorer.store.comparison_folder import Comparison
from bsr_explorer.store.study import said_counts
from bsr_explorer.units import format_bytes, plural, some


def described(comparison: Comparison) -> list[str]:
    """What is compared, how it is trained, and what the budget is, a sentence each."""
    config, fidelity = comparison.config, comparison.fidelity
    trained, own = comparison.trained_at, config["image_size"]
    quality = comparison.quality
    proxy = (
        f", a proxy: memory, FLOPs and step times are those of {quality.size(own)}" if trained != own else ""
    )
    said = [
        f"{config['model']}, {quality.size(own)}, batch {config['batch_size']}, {config['optimizer']}, "
        f"{config['precision']}, "
        f"{config['attention']} attention, {config['device']}; weights: {comparison.weights}.",
        f"{'To be trained' if fidelity['train_size'] is None else 'Trained'} on "
        f"{some(fidelity['train_size'], quality.judges)} of {comparison.data} at {quality.size(trained)}{proxy}; "
        f"{some(fidelity['epochs'], 'epoch', 'the recipe’s')}, recipe {fidelity['recipe']}, "
        f"{some(fidelity['val_size'], f'{comparison.protocol.judged_on} {quality.judges}')}, "
        f"{plural(comparison.seeds, 'seed')}.",
        f"Protocol {comparison.protocol.name}: {comparison.protocol.summarised(quality)}.",
    ]
    if comparison.budget is not None and comparison.budget_bytes is not None:
        said.append(
            f"Budget {comparison.budget} = {format_bytes(comparison.budget_bytes)}, counting "
            f"{said_counts(comparison.counts, comparison.quantile)}; what does not fit is not trained."
        )
    return said


def notes_of(lines: Sequence[Line]) -> list[str]:
    """What went wrong, and what cannot be counted, a line each."""
    notes = list(dict.fromkeys(said for line in lines for said in line.entry.unknown))
    for line in lines:
        label = line.entry.label
        notes += [
            f"{label}, seed {run.seed}: {run.status}, {run.reason}"
            for run in line.runs
            if run.status != "finished"
        ]
        notes += [
            f"{label}, seed {run.seed}: {run.measured['fault']}"
            for run in line.runs
            if run.measured and "fault" in run.measured
        ]
        if line.untimed:
            notes.append(f"{label}: steps were not timed, {line.untimed}")
    return notes
