"""Output of a search: its plan, its dry run, its result."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape

from bsr_explorer.cli.console import format_seconds, out, table
from bsr_explorer.cli.progress import mean_expected
from bsr_explorer.config import HELD_OUT
from bsr_explorer.store.study import COUNTS, Study
from bsr_explorer.units import format_bytes, format_mb, plural, some

if TYPE_CHECKING:
    from bsr_explorer.data.contents import Contents
    from bsr_explorer.report.study.findings import Findings
    from bsr_explorer.search.coordinator import Search
    from bsr_explorer.search.executors.base import Executor
    from bsr_explorer.search.plan import Clock
    from bsr_explorer.search.space import Space
    from bsr_explorer.store.reopened import Finished


def show_plan(study: Study, space: Space, folder: Path, searching: Search, contents: Contents) -> None:
    low, high = space.range_bytes
    done = searching.book.counts()["worth"]
    trained, target = study.fidelity.image_size, study.config.image_size
    out.print(
        f"[bold]{escape(study.name)}[/bold]: {plural(len(space), 'configuration')} of {study.config.model} at "
        f"{target} px, batch {study.config.batch_size}, from {format_bytes(low)} to {format_bytes(high)}\n"
        f"budget {study.budget} = {format_bytes(study.budget_bytes)}, counting {COUNTS[study.counts]}: "
        f"{space.fitting:,} fit\n"
        f"weights: {study.weights}; data: {escape(study.data)}, {some(study.fidelity.train_size, 'training image')}, "
        f"{some(study.fidelity.epochs, 'epoch', 'the recipe’s')} at {trained} px"
        + (f" (a proxy: memory is counted at {target} px)" if trained != target else "")
        + f"; protocol {study.fidelity.protocol}"
        + f"\n{escape(str(contents))}\n{plural(study.trials, 'trial')}"
        + (f", {done} of them done" if done else "")
        + f", {_how(study)}; folder {escape(str(folder))}\n"
        + "".join(f"{repair}\n" for repair in searching.book.repairs)
    )


def _how(study: Study) -> str:
    """How a study searches, in words."""
    said = [f"sampler {study.sampler}"]
    if study.rungs:
        said.append(f"hopeless ones stopped after epoch {', '.join(map(str, study.rungs))}")
    if study.replicas:
        said.append(f"the front again on {plural(study.replicas, 'fresh seed')}")
    return "; ".join(said)


def show_dry_run(
    study: Study,
    space: Space,
    clock: Clock,
    workers: Executor,
    folder: Path,
    contents: Contents,
    as_json: bool,
) -> None:
    low, high = space.range_bytes
    seconds = mean_expected(space, clock) * study.runs / workers.parallel(study.config.device)
    if as_json:
        answer = {
            "study": study.to_toml(),
            "configurations": len(space),
            "fitting": space.fitting,
            "least_bytes": low,
            "most_bytes": high,
            "budget_bytes": study.budget_bytes,
            "expected_seconds": round(seconds, 1),
            **asdict(contents),
            "folder": str(folder),
        }
        print(json.dumps(answer))
        return
    trained = study.fidelity.image_size
    rows = [
        ("configurations", f"{len(space):,}"),
        ("within the budget", f"{space.fitting:,}"),
        ("least memory", format_bytes(low)),
        ("most memory", format_bytes(high)),
        ("budget", f"{study.budget} = {format_bytes(study.budget_bytes)}"),
        ("counting", COUNTS[study.counts]),
        (
            "trials",
            f"{study.trials}: {some(study.fidelity.train_size, 'image')}, "
            f"{some(study.fidelity.epochs, 'epoch', 'the recipe’s')}, {trained} px",
        ),
        ("data", str(contents)),
        ("protocol", f"{HELD_OUT.name}: {HELD_OUT.summary}"),
        ("how", f"{_how(study)}; {workers.jobs} at once"),
        ("expected time", format_seconds(seconds)),
        ("folder", str(folder)),
    ]
    out.print(table([study.name, ""], rows, left=(0, 1), fold=(1,)))
    known = [
        (str(c.config.how), format_mb(c.counted_bytes, 0), "fits" if space.fits(c) else "does not fit")
        for c in space.known
    ]
    out.print()
    out.print(table(["tried first", "MB", ""], known, left=(0, 2), fold=(0,)))
    out.print("\nNothing was trained or written (--dry-run).")


def summary(
    study: Study,
    found: Findings,
    files: Sequence[Path],
    folder: Path,
    because: str,
    before: Finished | None = None,
) -> dict[str, object]:
    chosen = found.recommendation
    return {
        "study": study.to_toml(),
        "folder": str(folder),
        "ended": because,
        "finished_before": None if before is None else asdict(before),
        "trials": len(found.records),
        "finished": sum(r.status == "finished" for r in found.records.values()),
        "front": [
            {
                "trial": p.number,
                "method": p.method,
                "accuracy": p.accuracy,
                "counted_bytes": p.bytes,
                "train_flops": p.record.predicted["train_flops"],
                "saving": p.saving,
            }
            for p in found.front
        ],
        "hypervolume": found.hypervolume,
        "recommended": {"trial": chosen.point.number, "method": chosen.point.method, "reason": chosen.reason},
        "files": [str(path) for path in files],
    }
