"""``bsr-explore show``: everything that is known of one trial."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.markup import escape

from bsr_explorer.cli import options
from bsr_explorer.cli.console import format_seconds, out, table
from bsr_explorer.cli.training_shown import said_of_steps
from bsr_explorer.data.contents import Contents
from bsr_explorer.store.records import Record
from bsr_explorer.units import format_bytes, format_gflops, format_less, format_mb, format_mib, plural, some

TAIL = 2000
"""Characters of a trial's log that are shown."""


def show(study: options.StudyFolder, trial: options.Trial, as_json: options.Json = False) -> None:
    """Show one trial: how it ended and why, its memory and FLOPs, and the commands to train it again.

    Examples:

      bsr-explore show reports/examples/deit_s-digits-2GB 5

      bsr-explore show reports/examples/deit_s-digits-2GB 5 --json
    """
    from bsr_explorer.report.commands import commands_for
    from bsr_explorer.store.trials import pick, read_runs, replica

    records = read_runs(study)
    record = pick(records, trial)
    replicas = {
        number: other.score
        for number, other in sorted(records.items())
        if other.key == record.key and replica(other)
    }
    log = log_of(study, trial)
    commands = commands_for(study, trial, record)
    if as_json:
        answer = {
            "trial": trial,
            **record.to_dict(),
            "replicas": {n: score and record.judged.value(score) for n, score in replicas.items()},
            "log": log,
            "commands": commands,
        }
        print(json.dumps(answer))
        return
    _say(trial, record, replicas)
    _show_memory(record)
    _show_blocks(record)
    if log:
        out.print(f"\nend of {log_path(study, trial)}:\n{log}", markup=False)
    out.print()
    for does, command in commands.items():
        out.print(f"{does:16}  {command}", soft_wrap=True, markup=False)


def log_path(study: Path, trial: int) -> Path:
    """Where a trial that ran in a process of its own left its output."""
    return study / "logs" / f"{trial:04d}.txt"


def log_of(study: Path, trial: int) -> str:
    """The end of a trial's output, or nothing."""
    path = log_path(study, trial)
    return path.read_text(errors="replace")[-TAIL:].strip() if path.is_file() else ""


def _say(trial: int, record: Record, replicas: dict[int, float | None]) -> None:
    """What it is, and how it ended."""
    config, fidelity, made = record.config, record.fidelity, record.provenance
    contents = Contents(record.classes, record.left_out)
    lines = {
        "configuration": f"{config['model']}, {record.judged.size(config['image_size'])}, batch "
        f"{config['batch_size']}, "
        f"{config['optimizer']}, {config['precision']}, {config['attention']} attention, {config['device']}"
        + (f", learning rate {config['lr']:g}" if config.get("lr") else ""),
        "status": record.status + (f": {record.reason}" if record.reason else ""),
        "attempts before": "; ".join(map(str, record.study.get("attempts", []))),
        record.quality: _quality(record) + (", mean of the tasks" if record.by_task else ""),
        "by task": record.by_task,
        "on the way": _history(record),
        "seed": f"{record.seed}"
        + (f", replica {record.study['replica']}" if record.study.get("replica") else ""),
        "fresh runs": ", ".join(
            f"trial {number}: {'none' if score is None else record.judged.text(score)}"
            for number, score in replicas.items()
            if number != trial
        ),
        "trained": f"{some(fidelity.get('epochs'), 'epoch', 'the recipe’s')} at "
        f"{record.judged.size(fidelity.get('image_size') or config['image_size'])}, recipe {fidelity.get('recipe')}; "
        f"{plural(record.images_trained, record.judged.judges)} in {format_seconds(record.seconds)}",
        "protocol": f"{record.protocol.name}: {record.protocol.summarised(record.judged)}",
        "data": record.split or record.data,
        "classes": contents.of_classes(),
        "left out": contents.of_left_out(),
        "damaged": ", ".join(fidelity.get("skip") or []),
        "weights": record.weights,
        "key": record.key,
        "made by": ", ".join(
            f"{key} {made[key]}"
            for key in ("bsr_explorer", "torch", "timm", "commit", "processor", "threads")
            if made.get(key) is not None
        ),
        "made on": f"{made.get('time', '')}  {made.get('command', '')}".strip(),
    }
    out.print(f"[bold]trial {trial}[/bold]: {escape(record.method)}", soft_wrap=True)
    for name, text in lines.items():
        if text:
            out.print(f"{name:15}  {text}", soft_wrap=True, markup=False)


def _quality(record: Record) -> str:
    if record.score is None:
        return ""
    said = record.judged.text
    test = "" if record.test_score is None else f"; {said(record.test_score)} on test"
    return f"{said(record.score)}, {record.accuracy_is}{test}"


def _history(record: Record) -> str:
    """Accuracies, or perplexities, on the way, where there was more than the last one."""
    from bsr_explorer.store.trials import evaluations

    seen = evaluations(record)
    said = ", ".join(f"{record.judged.text(score)} after epoch {epoch}" for epoch, score in seen)
    return said if len(seen) > 1 or record.status == "stopped" else ""


def _show_memory(record: Record) -> None:
    """What a step holds: predicted for the budget, and predicted and measured as it was trained."""
    predicted, measured = record.predicted, record.measured or {}
    if not predicted:
        return
    rows = [
        (
            f"{kind}, at {record.judged.size(record.config['image_size'])}",
            *_both(predicted[f"{kind}_bytes"]),
            "",
            "",
        )
        for kind in ("peak", "saved")
    ]
    rows += [
        (
            f"{kind}, at {record.judged.size(measured['image_size'])}, as trained",
            *_both(measured[f"predicted_{kind}_bytes"]),
            *_both(measured[f"{kind}_bytes"]),
        )
        for kind in ("peak", "saved")
        if f"predicted_{kind}_bytes" in measured
    ]
    out.print()
    out.print(table(["memory of a step", "predicted MB", "MiB", "measured MB", "MiB"], rows))
    if "steps" in measured:
        out.print(said_of_steps(measured["steps"]), soft_wrap=True)
    if "fault" in measured:
        out.print(str(measured["fault"]), style="red", markup=False)
    study = record.study
    if "counted_bytes" in study:
        full = study["full"]
        out.print(
            f"counting {study['counts']}{_share(study)}: {format_bytes(study['counted_bytes'])} of {study['budget']}, "
            f"{format_less(full['counted_bytes'] / study['counted_bytes'])} than full fine-tuning"
        )
    out.print(
        f"{format_gflops(predicted['forward_flops'])} GFLOPs forward, {format_gflops(predicted['train_flops'])} GFLOPs "
        "a step"
    )


def _share(study: dict[str, Any]) -> str:
    quantile = study.get("quantile", 1.0)
    return f", {100 * quantile:g}% of the steps" if quantile < 1 else ""


def _both(size: int) -> tuple[str, str]:
    return format_mb(size), format_mib(size)


def _show_blocks(record: Record) -> None:
    by_block: dict[str, dict[str, Any]] = record.predicted.get("by_block", {})
    rows = [
        (
            block,
            format_mb(entry.get("saved", 0), 2),
            format_mb(entry.get("parameter", 0), 2),
            format_mb(entry.get("gradient", 0) + entry.get("optimizer", 0), 2),
            format_gflops(entry.get("train_flops", 0), 2),
        )
        for block, entry in by_block.items()
    ]
    if rows:
        columns = [
            "block (0-based)",
            "saved MB",
            "parameters MB",
            "gradient + optimiser MB",
            "train GFLOPs",
        ]
        out.print()
        out.print(table(columns, rows))
