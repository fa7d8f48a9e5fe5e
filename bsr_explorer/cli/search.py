"""``bsr-explore search``: the front of accuracy against memory, from real short fine-tunes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from bsr_explorer.cli import options
from bsr_explorer.cli.console import parse_seconds
from bsr_explorer.cli.search_run import How, searched_by
from bsr_explorer.cli.search_run import run as run_search
from bsr_explorer.cli.trials import cache_bytes, checked_jobs
from bsr_explorer.config import HELD_OUT, Config, Fidelity
from bsr_explorer.data.expression import in_paths as data_in_paths
from bsr_explorer.data.places import classes_of, default_data_dir
from bsr_explorer.errors import UserError, unknown
from bsr_explorer.models.names import in_paths
from bsr_explorer.models.weights import check_weights
from bsr_explorer.prediction import geometry_of
from bsr_explorer.store.proxies import check_sampler
from bsr_explorer.store.space import SEARCHED
from bsr_explorer.store.study import SAMPLERS, Study
from bsr_explorer.train.recipes import check_optimizer, recipe
from bsr_explorer.units import parse_bytes

SINGLE, MULTI = "single", "multi"
"""Values of ``--fidelity``."""


def search(
    context: typer.Context,
    study_file: Annotated[
        Path | None, typer.Argument(metavar="[STUDY.toml]", help="A study file, instead of the flags below.")
    ] = None,
    model: options.Model = "deit_s",
    budget: Annotated[str, typer.Option(help="Memory with its unit: 2GB, 512MiB, …")] = "2GB",
    budget_counts: options.BudgetCounts = None,
    budget_quantile: options.BudgetQuantile = 1.0,
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
        int | None,
        typer.Option(
            help="Number of configurations to train, those trained before included.",
            show_default="as many as the time allows, 8 or more",
        ),
    ] = None,
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
    fidelity: Annotated[
        str,
        typer.Option(
            help="single: every trial trains alike. multi: the search may also train with smaller and fewer images, to "
            "learn where to look; the front is of trials at full fidelity."
        ),
    ] = SINGLE,
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
        typer.Option(
            help="Number of fresh seeds on which the front is trained again.",
            show_default="as many as the time allows, 1 to 3",
        ),
    ] = None,
    prior: Annotated[
        Path | None,
        typer.Option(
            metavar="STUDY",
            help="Folder of an earlier study of the same model and space, such as of fewer images: a first guess.",
        ),
    ] = None,
    family: Annotated[
        list[str] | None,
        typer.Option(
            metavar="METHOD",
            help="Methods to search, such as bsr+mesa; repeat it for several. An argument that is not written, such as "
            "mesa's bits, is a part of the search.",
            show_default=" and ".join(SEARCHED),
        ),
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
    gpu: options.Gpu = None,
    jobs: options.Jobs = None,
    cluster: options.Cluster = None,
    trial_timeout: options.TrialTimeout = None,
    cache: options.Cache = "4GB",
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

      bsr-explore search --model deit_s --budget 8GB --gpu orin_nano --dry-run

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
        open=_open(study_file, trials, replicas, _several(fidelity)),
        skip_bad=skip_bad,
        fresh=fresh,
        dry_run=dry_run,
        as_json=as_json,
    )
    if _several(fidelity):
        check_sampler(sampler or "exact")
    how: dict[str, Any] = {
        "sampler": sampler,
        "objectives": objectives and tuple(part.strip() for part in objectives.split(",")),
        "rungs": rungs and options.rungs(rungs),
        "replicas": replicas,
        "trials": trials,
        "prior": prior and str(prior),
    }
    how = {key: value for key, value in how.items() if value is not None}
    if study_file is not None:
        options.refuse_flags(context, _BESIDE_FILE)
        study = Study.from_toml(study_file)
        config = study.config
        if options.given(context, "device") or gpu:
            config = replace(config, **options.place(context, device, gpu))
        study = replace(study, config=config, time_limit=limit or study.time_limit, **how)
        _check(study, where)
    else:
        parse_bytes(budget)
        check_weights(weights)
        options.check_model_data(data, where, model)
        rules = recipe(recipe_name, data, optimizer)
        check_optimizer(optimizer or rules.optimizer)
        sizes = options.batch_sizes(batch_size)
        config = Config(
            model=model,
            image_size=image_size,
            batch_size=sizes[0],
            precision=precision,
            optimizer=optimizer or rules.optimizer,
            attention=attention,
            micro_batches=micro_batches,
            **options.place(context, device, gpu),
        )
        counts = options.counts(budget_counts, config)
        thorough = Fidelity(proxy_size, train_size, val_size, epochs, recipe_name, views, protocol=protocol)
        study = _study(name, config, budget, counts, data, weights, thorough, seed, limit)
        study = replace(study, quantile=budget_quantile)
        gone_on = [] if fresh else [folder or Path("reports") / study.name]
        families = tuple(family or ()) or searched_by(study, [*gone_on, *([prior] if prior else [])])
        space = replace(study.space, families=families)
        if len(sizes) > 1:
            space = replace(space, batch_sizes=sizes)
        study = replace(study, space=space)
        study = replace(study, **how)
    run_search(study, folder or Path("reports") / study.name, run)


def _open(study_file: Path | None, trials: int | None, replicas: int | None, several: bool) -> frozenset[str]:
    """What is as many as the time allows, and what is planned; a study file says how many, and what."""
    given = {"trials": trials, "replicas": replicas, "proxies": None if several else ()}
    return frozenset(key for key, value in given.items() if value is None and study_file is None)


def _several(fidelity: str) -> bool:
    if fidelity not in (SINGLE, MULTI):
        raise unknown("--fidelity", fidelity, (SINGLE, MULTI))
    return fidelity == MULTI


_BESIDE_FILE = {
    *("study_file", "trials", "time_limit", "folder", "data_dir", "device", "fresh", "dry_run", "as_json"),
    "gpu",
    "skip_bad",
    *("sampler", "objectives", "rungs", "replicas", "prior", "jobs", "cluster", "trial_timeout", "cache"),
}


def _check(study: Study, data_dir: Path) -> None:
    check_weights(study.weights)
    options.check_model_data(study.data, data_dir, study.config.model)
    recipe(study.fidelity.recipe, study.data, study.config.optimizer)
    check_optimizer(study.config.optimizer)
    for text, fidelity in zip(study.proxies, study.fidelities[1:], strict=True):
        try:
            geometry_of(fidelity.at(study.config))
        except UserError as error:
            raise UserError(
                f"[search] proxies: {text!r}: {str(error).removeprefix('--image-size: ')}"
            ) from None


def _study(
    name: str | None,
    config: Config,
    budget: str,
    counts: str,
    data: str,
    weights: str,
    fidelity: Fidelity,
    seed: int,
    limit: float | None,
) -> Study:
    """The study that the flags say; what its fidelity leaves open is planned later."""
    from bsr_explorer.search.space import default_space

    config = config.with_classes(classes_of(data))
    geometry = options.checked_geometry(config, fidelity)
    return Study(
        name=name or f"{in_paths(config.model)}-{data_in_paths(data)}-{budget}",
        config=config,
        budget=budget,
        counts=counts,
        data=data,
        weights=weights,
        fidelity=fidelity,
        space=default_space(geometry),
        seed=seed,
        time_limit=limit,
    )
