"""Output of a search: its plan, its dry run, its result."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape

from bsr_explorer.cli.console import format_seconds, out, table
from bsr_explorer.cli.profile_shown import show_compared
from bsr_explorer.config import HELD_OUT
from bsr_explorer.models.architecture import quality_of
from bsr_explorer.quality import Quality
from bsr_explorer.store.proxies import PROXIES_A_TRIAL, at_proxy
from bsr_explorer.store.study import Study, said_counts
from bsr_explorer.units import format_bytes, format_mb, plural, some

if TYPE_CHECKING:
    from bsr_explorer.data.contents import Contents
    from bsr_explorer.report.study.findings import Findings
    from bsr_explorer.search.coordinator import Search
    from bsr_explorer.search.executors.base import Executor
    from bsr_explorer.search.plan import Plan, Settled
    from bsr_explorer.search.space import Space
    from bsr_explorer.store.reopened import Finished


def show_plan(settled: Settled, space: Space, folder: Path, searching: Search, contents: Contents) -> None:
    study, (low, high) = settled.study, space.range_bytes
    done = searching.book.counts()["worth"]
    trained, target = study.fidelity.image_size or study.config.image_size, study.config.image_size
    quality = quality_of(study.config.model)
    out.print(
        f"[bold]{escape(study.name)}[/bold]: {plural(len(space), 'configuration')} of {study.config.model} at "
        f"{quality.size(target)}, batch {study.config.batch_size}, from {format_bytes(low)} to {format_bytes(high)}\n"
        f"budget {study.budget} = {format_bytes(study.budget_bytes)}, counting "
        f"{said_counts(study.counts, study.quantile)}: {space.fitting:,} fit\n"
        + "".join(f"{what}: {why}\n" for what, why in _unaffected(study, space))
        + f"weights: {study.weights}; data: {escape(study.data)}; protocol {study.fidelity.protocol}"
        + f"\n{escape(str(contents))}\n{planned(settled, searching.workers.parallel(study.config.device))}\n"
        + (
            f"a proxy: trials train at {quality.size(trained)}; memory is counted at {quality.size(target)}\n"
            if trained != target
            else ""
        )
        + plural(study.trials, "trial")
        + (f", {done} of them done" if done else "")
        + f", {_how(study)}; folder {escape(str(folder))}\n"
        + "".join(f"{repair}\n" for repair in searching.book.repairs)
    )


def planned(settled: Settled, parallel: int) -> str:
    """The plan in words, and what more time would buy."""
    now, limit = settled.plan, settled.study.time_limit or 0.0
    seconds, quality = now.seconds / parallel, quality_of(settled.study.config.model)
    lines = [f"plan: {_effort(now, quality)}, about {format_seconds(seconds)}"]
    if seconds > limit:
        room = max(1, int(now.trials * limit / seconds))
        lines.append(
            f"  the time limit of {format_seconds(limit)} has room for about {room} of them: fewer or smaller "
            f"{quality.judges}s would not rank configurations as the target does"
        )
    if settled.more is not None:
        more, then = settled.more
        lines.append(f"  with --time-limit {format_limit(more)}: {_effort(then, quality)}")
    return "\n".join(lines)


def _effort(of: Plan, quality: Quality) -> str:
    fidelity = of.fidelity
    fresh = f", the front again on {plural(of.replicas, 'fresh seed')}" if of.replicas else ""
    error = f" (one trial: ± {of.error:.1f} points)" if fidelity.val_size and quality.higher else ""
    return (
        f"{plural(of.trials, 'configuration')}{fresh}, {some(fidelity.train_size, f'training {quality.judges}')}, "
        f"{some(fidelity.epochs, 'epoch', 'the recipe’s')}, {quality.size(fidelity.image_size or 0)}{error}"
        + (
            f"; to learn where to look, up to {PROXIES_A_TRIAL * of.trials} cheaper trainings with "
            + " or ".join(at_proxy(proxy, fidelity).said(quality) for proxy in of.proxies)
            if of.proxies
            else ""
        )
    )


def format_limit(seconds: float) -> str:
    """As ``--time-limit`` takes it, in whole minutes where that is exact."""
    return f"{seconds / 60:.0f}m" if seconds % 60 == 0 else f"{seconds:.0f}s"


def _how(study: Study) -> str:
    """How a study searches, in words."""
    said = [f"sampler {study.sampler}" + (f", guided by {study.prior}" if study.prior else "")]
    if study.first is not None:
        said.append(f"begins with {plural(study.first, 'known configuration')}")
    if study.rungs:
        said.append(f"hopeless ones stopped after epoch {', '.join(map(str, study.rungs))}")
    if study.replicas:
        said.append(f"the front again on {plural(study.replicas, 'fresh seed')}")
    return "; ".join(said)


def show_dry_run(
    settled: Settled,
    space: Space,
    workers: Executor,
    folder: Path,
    contents: Contents,
    as_json: bool,
) -> None:
    study = settled.study
    seconds = settled.plan.seconds / workers.parallel(study.config.device)
    if as_json:
        answer = {
            **_counted(study, space),
            "expected_seconds": round(seconds, 1),
            **asdict(contents),
            "folder": str(folder),
        }
        print(json.dumps(answer))
        return
    rows = [
        *_fitting(study, space),
        ("data", str(contents)),
        ("protocol", f"{HELD_OUT.name}: {HELD_OUT.summarised(quality_of(study.config.model))}"),
        ("plan", planned(settled, workers.parallel(study.config.device)).removeprefix("plan: ")),
        ("how", f"{_how(study)}; {workers.jobs} at once"),
        ("expected time", format_seconds(seconds)),
        ("folder", str(folder)),
    ]
    _show_fitting(study, space, rows)


def show_elsewhere(study: Study, space: Space, as_json: bool) -> None:
    """A dry run for a device that is not here: what fits. How long it takes, only that device can say."""
    if as_json:
        print(json.dumps({**_counted(study, space), "expected_seconds": None}))
        return
    plan = ("plan", f"none, for {study.config.place} is not here to be timed")
    _show_fitting(study, space, [*_fitting(study, space), plan])
    show_compared(study.config)


def _counted(study: Study, space: Space) -> dict[str, object]:
    low, high = space.range_bytes
    return {
        "study": study.to_toml(),
        "configurations": len(space),
        "fitting": space.fitting,
        "fitting_is": "at most" if space.at_least else "exact",
        "least_bytes": low,
        "most_bytes": high,
        "budget_bytes": study.budget_bytes,
    }


def _fitting(study: Study, space: Space) -> list[tuple[str, str]]:
    low, high = space.range_bytes
    most = "at most " if space.at_least else ""
    return [
        ("configurations", f"{len(space):,}"),
        ("within the budget", f"{most}{space.fitting:,}"),
        ("least memory", format_bytes(low)),
        ("most memory", format_bytes(high)),
        ("budget", f"{study.budget} = {format_bytes(study.budget_bytes)}"),
        ("counting", said_counts(study.counts, study.quantile)),
        *_unaffected(study, space),
    ]


def _unaffected(study: Study, space: Space) -> list[tuple[str, str]]:
    """What the accounting of the budget does not reach, a line each: what and why."""
    said = []
    if study.quantile < 1 and not space.differs:
        said.append(("quantile", "changes nothing: no method of this study has steps that differ"))
    if space.unruled:
        said.append(("left out", f"{', '.join(map(str, space.unruled))}: {study.counts} has no rule for it"))
    return said


def _show_fitting(study: Study, space: Space, rows: Sequence[tuple[str, str]]) -> None:
    out.print(table([study.name, ""], rows, left=(0, 1), fold=(1,)))
    known = [
        (str(c.config.how), format_mb(c.counted_bytes, 0), "fits" if space.fits(c) else "does not fit")
        for c in space.known
    ]
    out.print()
    out.print(table(["known", "MB", ""], known, left=(0, 2), fold=(0,)))
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
                p.quality.name: p.value,
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
