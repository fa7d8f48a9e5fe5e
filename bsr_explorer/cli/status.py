"""``bsr-explore status``: how far a study is, what it has found, and what comes next."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from bsr_explorer.cli import options
from bsr_explorer.cli.console import out, table
from bsr_explorer.config import PROTOCOLS
from bsr_explorer.models.architecture import quality_of
from bsr_explorer.store.database import fresh_seeds, look, own, proxy_of, replica_of, told
from bsr_explorer.store.folder import at_work, read_study
from bsr_explorer.store.records import Record
from bsr_explorer.store.study import FILE, LOCK, Study, said_counts
from bsr_explorer.units import format_bytes, format_mb, format_mib, plural

if TYPE_CHECKING:
    from bsr_explorer.report.front import Point

WORDS = {
    "COMPLETE": "finished",
    "PRUNED": "stopped at a rung",
    "FAIL": "failed",
    "RUNNING": "running",
    "WAITING": "waiting",
}
"""States of trials, in the order in which they are told."""


@dataclass(frozen=True)
class Status:
    """What is known of a study.

    Attributes:
        states: how many trials there are of each of ``WORDS``, fresh seeds apart.
        seeds: runs on fresh seeds that have ended.
        next: the command that comes next, or nothing while a search is at work.
    """

    study: Study
    at_work: bool
    states: dict[str, int]
    seeds: int
    front: list[Point]
    hypervolume: float
    failed: dict[int, Record]
    next: str


def status(folder: options.StudyFolder, as_json: options.Json = False) -> None:
    """Show the progress of a study: trials by state, the front so far, failures with their reasons, the next step.

    Nothing is trained or written. A search may be running at the same time.

    Examples:

      bsr-explore status reports/examples/deit_s-digits-2GB
    """
    found = read_status(folder)
    if as_json:
        print(json.dumps(_answer(found)))
    else:
        _show(found)


def read_status(folder: Path) -> Status:
    """The status of a study's folder.

    Raises:
        UserError: there is no study.
    """
    from bsr_explorer.report.commands import train_command
    from bsr_explorer.report.front import covered, front, points
    from bsr_explorer.store.records import read_records

    study, records = read_study(folder), read_records(folder)
    trials = look(folder) or told(records, len(study.objectives))
    states = {word: sum(trial.state.name == name for trial in own(trials)) for name, word in WORDS.items()}
    if study.proxies:
        states["at a proxy"] = sum(trial.state.name == "PRUNED" and proxy_of(trial) > 0 for trial in trials)
    known = points(records)
    failed = {n: record for n, record in records.items() if record.failed}
    busy = at_work(folder, LOCK)
    unfinished = sum(states[word] for word in ("finished", "stopped at a rung")) < study.trials
    unfinished |= any(not trial.state.is_finished() for trial in trials)
    name = shlex.quote(str(folder))
    if busy:
        following = ""
    elif unfinished or fresh_seeds(trials, study.replicas):
        following = f"bsr-explore search {shlex.quote(str(folder / FILE))} --out {name}"
    elif any(record.status == "failed" for record in failed.values()):
        following = f"bsr-explore retry {name} --failed"
    else:
        following = train_command(folder)
    seeds = sum(trial.state.name == "COMPLETE" and replica_of(trial) > 0 for trial in trials)
    return Status(
        study, busy, states, seeds, front(known), covered(known, study.budget_bytes), failed, following
    )


def _show(found: Status) -> None:
    from bsr_explorer.report.front import covered_text

    study, quality = found.study, quality_of(found.study.config.model)
    said = ", ".join(f"{count} {word}" for word, count in found.states.items() if count) or "none begun"
    left = " (left by a search that was stopped)" if found.states["running"] and not found.at_work else ""
    seeds = f"; {plural(found.seeds, 'run')} on fresh seeds" if found.seeds else ""
    out.print(
        f"[bold]{escape(study.name)}[/bold]: {study.config.model}, {escape(study.data)}, budget {study.budget} = "
        f"{format_bytes(study.budget_bytes)}, counting {said_counts(study.counts, study.quantile)}\n"
        f"{plural(study.trials, 'trial')} wanted: {said}{left}{seeds}"
        + ("; a search is at work" if found.at_work else "")
        + f"\nprotocol {study.fidelity.protocol}: {quality.name} is "
        f"{PROTOCOLS[study.fidelity.protocol].says(quality)}",
        soft_wrap=True,
    )
    if found.front:
        rows = [
            (p.said, format_mb(p.bytes), format_mib(p.bytes), str(p.number), p.method) for p in found.front
        ]
        columns = [quality.name, "MB", "MiB", "trial", "method"]
        out.print()
        out.print(table(columns, rows, title="Front so far", left=(4,), fold=(4,)))
        out.print(covered_text(found.hypervolume))
    if found.failed:
        lost = [(str(n), r.status, r.reason, r.method) for n, r in found.failed.items()]
        out.print()
        out.print(
            table(["trial", "", "why", "method"], lost, title="Not finished", left=(1, 2, 3), fold=(2, 3))
        )
    if found.next:
        out.print(f"\nnext:  {escape(found.next)}", soft_wrap=True)


def _answer(found: Status) -> dict[str, Any]:
    return {
        "study": found.study.to_toml(),
        "at_work": found.at_work,
        "states": found.states,
        "fresh_seeds": found.seeds,
        "front": [
            {
                "trial": p.number,
                "method": p.method,
                p.quality.name: p.value,
                f"{p.quality.name}_std": p.deviation,
                "seeds": p.seeds,
                "counted_bytes": p.bytes,
            }
            for p in found.front
        ],
        "hypervolume": found.hypervolume,
        "failed": [
            {
                "trial": number,
                "method": record.method,
                "status": record.status,
                "reason": record.reason,
                "attempts": record.study.get("attempts", []),
            }
            for number, record in found.failed.items()
        ],
        "next": found.next or None,
    }
