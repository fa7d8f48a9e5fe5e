"""``bsr-explore search``: the front of accuracy against memory, from real short fine-tunes."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from bsr_explorer.cli import options
from bsr_explorer.cli.console import (
    err,
    fail,
    format_seconds,
    out,
    parse_seconds,
    resolved,
    say_written,
    table,
)
from bsr_explorer.cli.progress import loading, mean_expected, watching
from bsr_explorer.cli.report import show_found
from bsr_explorer.cli.study_report import is_written, write_report
from bsr_explorer.config import HELD_OUT, Config, Fidelity
from bsr_explorer.data.places import check_data, count_classes, default_data_dir
from bsr_explorer.errors import UserError, require, unknown
from bsr_explorer.models.names import in_paths
from bsr_explorer.models.weights import check_weights
from bsr_explorer.store.folder import aside, check_free, check_movable, check_writable, move_aside
from bsr_explorer.store.provenance import command
from bsr_explorer.store.study import COUNTS, FILE, LOCK, SAMPLERS, Study
from bsr_explorer.train.recipes import check_optimizer, recipe
from bsr_explorer.units import format_bytes, format_mb, parse_bytes, plural, some

if TYPE_CHECKING:
    from bsr_explorer.data.contents import Contents
    from bsr_explorer.finetune.job import Job
    from bsr_explorer.report.study.findings import Findings
    from bsr_explorer.search.plan import Clock
    from bsr_explorer.search.search import Ended, Search
    from bsr_explorer.search.space import Space
    from bsr_explorer.search.workers import Executor
    from bsr_explorer.store.reopened import Finished

KEPT = ("study.toml", "study.db", "records", "logs")
"""What a study's folder holds beside its report."""

TIME_LIMIT = 480.0
"""Seconds that a search takes if nothing else is said: with its start and its report, under 10 minutes."""

Jobs = Annotated[
    int | None,
    typer.Option(
        help="Trials at once, each in its own process. 0: one after another, in this process.",
        show_default="1; on a cluster, as many as it has room for",
    ),
]
Cluster = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS|local", help="Run the trials on a Ray cluster, or (local) on Ray on this machine."
    ),
]
Cache = Annotated[
    str,
    typer.Option(
        metavar="SIZE|none",
        help="Disk space for the cached output of frozen blocks, which trials share: 4GB, 500MB, … or none.",
    ),
]
TrialTimeout = Annotated[
    str | None,
    typer.Option(help="Time limit of a trial, such as 1h.", show_default="10 times what is expected"),
]


def search(
    context: typer.Context,
    study_file: Annotated[
        Path | None, typer.Argument(metavar="[STUDY.toml]", help="A study file, instead of the flags below.")
    ] = None,
    model: options.Model = "deit_s",
    budget: Annotated[str, typer.Option(help="Memory with its unit: 2GB, 512MiB, …")] = "2GB",
    budget_counts: Annotated[
        str, typer.Option(help="What the budget counts: peak, saved or published.")
    ] = "peak",
    data: options.Data = "digits",
    skip_bad: options.SkipBad = False,
    batch_size: Annotated[
        str,
        typer.Option(help="Images in a training step. Several, such as 16,32,64, become part of the search."),
    ] = "32",
    image_size: options.ImageSize = 224,
    precision: options.Precision = "fp32",
    attention: options.Attention = "fused",
    optimizer: Annotated[
        str | None, typer.Option(help="The recipe's if left out. adamw_8bit may replace adamw.")
    ] = None,
    micro_batches: options.MicroBatches = 1,
    recipe_name: options.RecipeName = "short",
    weights: options.Weights = "auto",
    trials: Annotated[
        int, typer.Option(help="Number of configurations to train, those trained before included.")
    ] = 12,
    time_limit: Annotated[
        str | None,
        typer.Option(help="Time limit of this run, such as 10m. No trial starts that would exceed it."),
    ] = None,
    proxy_size: Annotated[
        int | None, typer.Option(help="Image size to train at (memory is always counted at --image-size).")
    ] = None,
    train_size: Annotated[int | None, typer.Option(help="Training images of a trial.")] = None,
    val_size: Annotated[int | None, typer.Option(help="Validation images of a trial.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Epochs of a trial.")] = None,
    protocol: Annotated[
        str,
        typer.Option(
            help="Only held-out: a search must not choose by the test set (see `compare`, `train`)."
        ),
    ] = HELD_OUT.name,
    views: Annotated[
        int | None,
        typer.Option(
            help="Number of fixed augmented views of an image, used in turn. New views every epoch if left out."
        ),
    ] = None,
    sampler: Annotated[
        str | None,
        typer.Option(
            help=f"Sampler that proposes configurations: {', '.join(SAMPLERS)}.", show_default="exact"
        ),
    ] = None,
    rungs: Annotated[
        str | None,
        typer.Option(
            help="Epochs after which a trial stops if others are better beyond noise, such as 1,3; or none.",
            show_default="none",
        ),
    ] = None,
    objectives: Annotated[
        str | None,
        typer.Option(
            help="accuracy,memory or accuracy,memory,flops (of a training step).",
            show_default="accuracy,memory",
        ),
    ] = None,
    replicas: Annotated[
        int | None,
        typer.Option(help="Number of fresh seeds on which the front is trained again.", show_default="3"),
    ] = None,
    seed: options.Seed = 0,
    name: Annotated[
        str | None, typer.Option("--study", help="Name of the study. Made from the other flags if left out.")
    ] = None,
    folder: Annotated[
        Path | None, typer.Option("--out", help="Folder of the study. reports/<study> if left out.")
    ] = None,
    data_dir: options.DataDir = None,
    device: options.Device = "auto",
    jobs: Jobs = None,
    cluster: Cluster = None,
    trial_timeout: TrialTimeout = None,
    cache: Cache = "4GB",
    fresh: Annotated[
        bool,
        typer.Option("--fresh", help="Start again. A study in the folder is moved to <folder>.1, .2, …"),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be searched. Nothing is trained or written.")
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Find the best accuracy that a memory budget can buy.

    Configurations over the budget are never trained. Stop with Ctrl-C; the same command continues. A finished search
    says so: more --trials continue it, and --fresh starts again.

    Examples:

      bsr-explore search --model deit_s --budget 2GB

      bsr-explore search --model deit_s --budget 600MB --data fashion_mnist --dry-run

      bsr-explore search studies/digits_deit_s.toml --out reports/again
    """
    limit = None if time_limit is None else parse_seconds(time_limit)
    where = data_dir or default_data_dir()
    run = How(
        data_dir=where,
        jobs=checked_jobs(jobs, cluster),
        cluster=cluster,
        cache=cache_bytes(cache),
        timeout=None if trial_timeout is None else parse_seconds(trial_timeout, "--trial-timeout"),
        skip_bad=skip_bad,
        fresh=fresh,
        dry_run=dry_run,
        as_json=as_json,
    )
    how: dict[str, Any] = {
        "sampler": sampler,
        "objectives": objectives and tuple(part.strip() for part in objectives.split(",")),
        "rungs": rungs and _rungs(rungs),
        "replicas": replicas,
    }
    how = {key: value for key, value in how.items() if value is not None}
    if study_file is not None:
        options.refuse_flags(context, _BESIDE_FILE)
        study = Study.from_toml(study_file)
        wanted = trials if options.given(context, "trials") else study.trials
        config = (
            replace(study.config, device=resolved(device))
            if options.given(context, "device")
            else study.config
        )
        study = replace(study, config=config, trials=wanted, time_limit=limit or study.time_limit, **how)
        _check(study, where)
    else:
        if budget_counts not in COUNTS:
            raise unknown("--budget-counts", budget_counts, COUNTS)
        parse_bytes(budget)
        check_weights(weights)
        check_data(data, where)
        rules = recipe(recipe_name, data, optimizer)
        check_optimizer(optimizer or rules.optimizer)
        sizes = _batch_sizes(batch_size)
        config = Config(
            model=model,
            image_size=image_size,
            batch_size=sizes[0],
            precision=precision,
            optimizer=optimizer or rules.optimizer,
            attention=attention,
            micro_batches=micro_batches,
            device=resolved(device),
        )
        fidelity = Fidelity(proxy_size, train_size, val_size, epochs, recipe_name, views, protocol=protocol)
        study = _study(name, config, budget, budget_counts, data, weights, fidelity, seed, trials, limit)
        if len(sizes) > 1:
            study = replace(study, space=replace(study.space, batch_sizes=sizes))
        study = replace(study, **how)
    _run(study, folder or Path("reports") / study.name, run)


@dataclass(frozen=True)
class How:
    """How a search is run, whatever is searched.

    Attributes:
        cache: the most bytes of cached prefixes; None: nothing is cached.
        timeout: seconds after which a trial is ended; None: by what is expected.
        skip_bad: whether damaged images are left out.
        fresh: whether a study that is in the folder is moved aside.
    """

    data_dir: Path
    jobs: int | None
    cluster: str | None
    cache: int | None
    timeout: float | None
    skip_bad: bool
    fresh: bool
    dry_run: bool
    as_json: bool


def _batch_sizes(text: str) -> tuple[int, ...]:
    """The numbers of a list such as ``16,32,64``."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise UserError(
            f"--batch-size: {text!r} must be a whole number of at least 1, or several, such as 16,32,64"
        )
    return tuple(int(part) for part in parts)


def _rungs(text: str) -> tuple[int, ...]:
    """The epochs of a list such as ``1,3``, or none."""
    parts = [] if text.strip() == "none" else [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise UserError(f"--rungs: {text!r} must be whole numbers of epochs, such as 1,3, or none")
    return tuple(map(int, parts))


def cache_bytes(cache: str) -> int | None:
    """The most bytes of cached prefixes, of a number with a unit; None of ``none``.

    Raises:
        UserError: it is neither.
    """
    return None if cache.strip() == "none" else parse_bytes(cache, "--cache")


def checked_jobs(jobs: int | None, cluster: str | None) -> int | None:
    """The number of trials at once, if it is one and there is what they are to run on.

    Raises:
        UserError: no such number, or Ray is not installed.
    """
    if jobs is not None and jobs < 0:
        raise UserError(f"--jobs: {jobs} must be a whole number of at least 0")
    if cluster is not None:
        require("ray", "--cluster:", "cluster")
    return jobs


def make_job(study: Study, data_dir: Path, cache: int | None) -> Job:
    """What the trials of a study need beside their configurations, with at most so many bytes of cached prefixes."""
    from bsr_explorer.finetune.job import Job
    from bsr_explorer.prefix.cache import Cache

    kept = None if cache is None else Cache(most_bytes=cache)
    return Job(study.data, study.fidelity, study.weights, data_dir=data_dir, cache=kept)


def make_workers(study: Study, jobs: int | None, cluster: str | None) -> Executor:
    """Where the trials of a study run.

    Raises:
        UserError: no such cluster.
    """
    from bsr_explorer.search import workers

    if cluster is not None:
        from bsr_explorer.search.cluster import Ray

        return Ray(cluster, study.config.device, jobs)
    if jobs == 0:
        return workers.Here()
    # What digits are read with takes longer to load than a short trial to train.
    more = ["sklearn.datasets"] if study.data == "digits" else []
    return workers.Processes(1 if jobs is None else jobs, more)


_BESIDE_FILE = {
    *("study_file", "trials", "time_limit", "folder", "data_dir", "device", "fresh", "dry_run", "as_json"),
    "skip_bad",
    *("sampler", "objectives", "rungs", "replicas", "jobs", "cluster", "trial_timeout", "cache"),
}


def _check(study: Study, data_dir: Path) -> None:
    check_weights(study.weights)
    check_data(study.data, data_dir)
    recipe(study.fidelity.recipe, study.data, study.config.optimizer)
    check_optimizer(study.config.optimizer)


def _study(
    name: str | None,
    config: Config,
    budget: str,
    counts: str,
    data: str,
    weights: str,
    fidelity: Fidelity,
    seed: int,
    trials: int,
    limit: float | None,
) -> Study:
    """The study that the flags say; what its fidelity leaves open is planned later."""
    from bsr_explorer.search.space import default_space

    config = replace(config, num_classes=count_classes(data))
    geometry = options.checked_geometry(config, fidelity)
    return Study(
        name=name or f"{in_paths(config.model)}-{Path(data).name}-{budget}",
        config=config,
        budget=budget,
        counts=counts,
        data=data,
        weights=weights,
        fidelity=fidelity,
        space=default_space(geometry),
        seed=seed,
        trials=trials,
        time_limit=limit,
    )


def _run(study: Study, folder: Path, how: How) -> None:
    """Refuse or answer what can be without torch; then search, and show what came of it."""
    from bsr_explorer.search.space import Space
    from bsr_explorer.store import reopened

    replaced = how.fresh and (folder / FILE).exists()
    stored = None if replaced else reopened.stored_study(study, folder)
    if stored is not None and not how.dry_run and (before := reopened.finished(stored, folder)) is not None:
        _show_finished(before, stored, folder, how.as_json)
        return
    space = Space(study)
    space.check_budget()
    if stored is not None and not how.dry_run:
        before = reopened.finished(stored, folder, most=space.fitting)
        if before is not None:
            _show_finished(before, stored, folder, how.as_json)
            return
    check_writable(folder)
    check_free(folder, LOCK, "search")
    if replaced:
        check_movable(folder)
    from bsr_explorer.finetune.job import load_data
    from bsr_explorer.search import plan
    from bsr_explorer.search.search import Search
    from bsr_explorer.store.records import read_records

    workers, job = make_workers(study, how.jobs, how.cluster), make_job(study, how.data_dir, how.cache)
    with loading("loading weights and data, and timing this machine…") as told:
        study, speed = plan.settle(
            stored or study, space, job, TIME_LIMIT, workers, skip_bad=how.skip_bad, told=told
        )
    clock = plan.Clock(study.fidelity, speed)
    contents = load_data(study.config, replace(job, fidelity=study.fidelity, weights=study.weights)).contents
    if how.dry_run:
        show_dry_run(study, space, clock, workers, folder, contents, how.as_json)
        if replaced and not how.as_json:
            out.print(f"(--fresh would move what is there to {aside(folder)}.)", markup=False, soft_wrap=True)
        return
    if replaced:
        moved = move_aside(folder, LOCK, "search")
        err.print(f"moved aside: {folder} is now {moved}", markup=False, soft_wrap=True)
    study = reopened.open_folder(study, folder, command())
    job = replace(job, fidelity=study.fidelity, weights=study.weights)
    searching = Search(study, folder, space, job, workers)
    if not how.as_json:
        _show_plan(study, space, folder, searching, contents)
    ended = train(searching, clock, how.timeout)
    if not ended.finished:
        reasons = [record.reason for record in read_records(folder).values()] or [
            "the time limit left no room"
        ]
        fail(f"no trial finished: {reasons[-1]}; the records are in {folder}", code=1)
    made = write_report(folder, space=space)
    if how.as_json:
        print(json.dumps(_summary(study, made.found, made.files, folder, ended.because)))
        return
    show_found(made.found, folder)
    say_written([*made.files, *(folder / name for name in KEPT if (folder / name).exists())])
    why = {
        "time": "The time limit was reached",
        "exhausted": "No other configuration is within the budget",
        "failures": "The last trials all failed, as their records say,",
    }
    if ended.because in why:
        more = "; the same command trains more" if ended.because == "time" else ""
        out.print(f"{why[ended.because]} after {ended.finished} of {plural(study.trials, 'trial')}{more}.")


def _show_finished(before: Finished, study: Study, folder: Path, as_json: bool) -> None:
    """Say that a study has nothing left to train, what it came to, and what goes on. Nothing is trained, and nothing
    written but a report that is missing."""
    from bsr_explorer.report.study.findings import Findings

    missing = not is_written(folder)
    if as_json:
        ended, files = (
            "exhausted" if before.exhausted else "trials",
            write_report(folder).files if missing else [],
        )
        print(json.dumps(_summary(study, Findings.read(folder), files, folder, ended, before)))
        return
    more = (
        "with a larger --budget and another --out; all that fits this one was tried"
        if before.exhausted
        else f"with --trials N, more than {before.trials}"
    )
    out.print(
        f"{study.name} is finished: {before.said()}; nothing is left to train.\n"
        f"  more trials:  the same command {more}\n"
        f"  start again:  the same command with --fresh, which moves {folder} to {aside(folder)}\n"
        f"  its report:   bsr-explore report {shlex.quote(str(folder))}\n",
        markup=False,
        soft_wrap=True,
    )
    files = write_report(folder).files if missing else []
    show_found(Findings.read(folder), folder)
    if files:
        say_written(files)


def train(searching: Search, clock: Clock, timeout: float | None, new: bool = True) -> Ended:
    """Run the search under a progress bar."""
    with watching(searching, clock) as watcher:
        return searching.run(watcher, lambda candidate: clock.expected(candidate.config), timeout, new)


def _show_plan(study: Study, space: Space, folder: Path, searching: Search, contents: Contents) -> None:
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


def _summary(
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
