"""One configuration fine-tuned into a record."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from statistics import fmean
from types import MappingProxyType
from typing import Any, cast

import torch
from torch.utils.data import Dataset

from bsr_explorer.config import PROTOCOLS, Config, Fidelity
from bsr_explorer.data.loader import fewest_together, loader
from bsr_explorer.data.splits import Splits
from bsr_explorer.errors import UserError
from bsr_explorer.finetune.build import as_run, build_with, device_of, make_step
from bsr_explorer.finetune.job import Job, by_name, checkpoint_of, epochs_of, load_data, rules_of
from bsr_explorer.finetune.phases import Phases
from bsr_explorer.finetune.watch import NOBODY, Progress, Watch
from bsr_explorer.finetune.watched import WatchedStep, step_of
from bsr_explorer.models.architecture import quality_of
from bsr_explorer.models.inputs import IMAGES, PIXELS, inputs_of
from bsr_explorer.models.names import timm_name
from bsr_explorer.prediction import geometry_of, predict
from bsr_explorer.prefix.cache import Cache
from bsr_explorer.prefix.prefix import Changed, Prefix
from bsr_explorer.prefix.stages import stages_of
from bsr_explorer.store.provenance import provenance
from bsr_explorer.store.records import Record, judged
from bsr_explorer.train.loop import fit, scores
from bsr_explorer.train.step import in_precision

LOG = logging.getLogger(__name__)


def fine_tune(
    config: Config,
    data: str = "digits",
    fidelity: Fidelity | None = None,
    weights: str = "auto",
    seed: int = 0,
    data_dir: Path | None = None,
    test: bool = False,
    every_epoch: bool = False,
    rungs: Mapping[int, float] = MappingProxyType({}),
    checkpoint: Path | None = None,
    checkpoint_every: float = math.inf,
    cache: Cache | None = None,
    progress: Progress = lambda done, total, loss: None,
) -> Record:
    """Fine-tune a configuration and say everything about it in a record.

    See ``Job`` for the arguments. Divergence is a result (status ``diverged``), not an error.

    Raises:
        UserError: bad input, found before training starts.
    """
    job = Job(
        data=data,
        fidelity=fidelity or Fidelity(),
        weights=weights,
        seed=seed,
        data_dir=data_dir,
        test=test,
        every_epoch=every_epoch,
        rungs=dict(rungs),
        checkpoint=checkpoint,
        checkpoint_every=checkpoint_every,
        cache=cache,
    )
    return run(config, job, progress)


def run(
    config: Config,
    job: Job,
    progress: Progress = lambda done, total, loss: None,
    watch: Watch = NOBODY,
) -> Record:
    """Fine-tune one configuration as the job says: from the start again, where what was kept of blocks turns out to be
    wrong after steps went by it."""
    try:
        return _run(config, job, progress, watch)
    except Changed as why:
        LOG.warning("%s; training begins again, and they run in each step", why)
    # The exception is gone, and with it its frames and what they held.
    if job.checkpoint is not None:
        job.checkpoint.unlink(missing_ok=True)
    return _run(config, replace(job, cache=None), progress, watch)


def _check_labels(model: torch.nn.Module) -> None:
    """Refuse a model that wants other labels than data sets have."""
    if inputs_of(model, IMAGES) is PIXELS:
        raise UserError(
            "--model: it classifies pixels, and no data set here has labels of them: its costs are predicted and "
            "measured (profile, max-batch, compare --costs-only), and it is trained in a loop of your own"
        )


def _run(config: Config, job: Job, progress: Progress, watch: Watch) -> Record:
    actual = as_run(job.fidelity.at(config))
    predicted = predict(config)
    rules, protocol = rules_of(config, job), PROTOCOLS[job.fidelity.protocol]
    quality = quality_of(config.model)
    device = device_of(config)
    phases = Phases(actual, rules)
    model, used = build_with(phases.config, job.weights, job.seed, rules)
    _check_labels(model)
    in_precision(model, config.precision).to(device)
    splits = load_data(config, replace(job, weights=used.source))
    step_of(actual, min(len(splits.train), config.batch_size))  # refuses what does not go with so many images
    torch.manual_seed(job.seed)
    step = cast(WatchedStep, make_step(model, actual, rules, WatchedStep))
    step.changes = phases
    epochs = job.fidelity.epochs or epochs_of(rules, len(splits.train), config.batch_size)
    check = partial(
        loader, batch_size=config.micro_batch_size, shuffle=False, seed=0, drop_last=False, raw=True
    )
    about: dict[str, Any] = {
        "config": config.to_dict(),
        "key": config.key(geometry_of(config).depth),
        "fidelity": asdict(replace(job.fidelity, image_size=actual.image_size, epochs=epochs)),
        "data": job.data,
        "split": splits.description,
        "weights": f"{used.source}: {used.detail}",
        "seed": job.seed,
    }
    train: Part = splits.train
    validation: Part = splits.validation
    prefix = None
    if job.cache is not None and len(actual.how.phases()) == 1 and isinstance(splits, Splits):
        prefix = Prefix(
            model,
            stages_of(actual),
            job.cache,
            config.precision,
            timm_name(config.model),
            relied=lambda: step.short,
        )
        if prefix.blocks:
            step.model = prefix.model
            at_once = -(-min(len(splits.train), config.batch_size) // config.micro_batches)
            train = prefix.part(
                splits.train,
                at_once,
                batches=False,
                whole=lambda: not step.peak_bytes,
                batch=min(len(splits.train), config.batch_size),
            )
            validation = prefix.part(splits.validation, config.micro_batch_size, batches=True)
    told = False

    def stepped(done: int, total: int, loss: float) -> None:
        nonlocal told
        if step.peak_bytes and not told and watch is not NOBODY:
            told = True
            watch.peak(step.peak_bytes, predict(phases.config).peak_bytes)
        progress(done, total, loss)

    outcome = fit(
        step,
        loader(
            train,
            config.batch_size,
            shuffle=True,
            seed=job.seed,
            drop_last=not rules.partial_batch and fewest_together(splits.train) >= config.batch_size,
            raw=True,
        ),
        check(validation),
        rules,
        epochs,
        stepped,
        every=rules.evaluate_every if protocol.best else 1 if job.every_epoch else None,
        rungs=job.rungs,
        checkpoint=checkpoint_of(job, about, rules),
        evaluated=lambda number, loss, score: watch.epoch(number, epochs, loss, score),
        quality=quality,
    )
    if prefix is not None:
        prefix.close()
        step.model = prefix.model.model
    model, test, test_by_task = step.model, None, dict[str, float]()
    if not (outcome.diverged or outcome.stopped) and (protocol.judged_on == "test" or job.test):
        found: Sequence[float] = (
            outcome.by_task[-1]
            if protocol.judged_on == "test"
            else scores(model, check(splits.test), config.precision, quality)
        )
        test, test_by_task = fmean(found), by_name(splits, found)
    if not (outcome.diverged or outcome.stopped):
        watch.trained(model, splits)
    score, by_task = None, dict[str, float]()
    if outcome.scores and not outcome.diverged:
        score = protocol.score(outcome.scores)
        by_task = by_name(splits, outcome.by_task[outcome.scores.index(score)])
    return Record(
        status="diverged" if outcome.diverged else "stopped" if outcome.stopped else "finished",
        reason=outcome.diverged or outcome.stopped or "",
        **about,
        **asdict(splits.contents),
        predicted=predicted.summary(),
        measured=step.fullest(phases.config),
        **judged(quality, score, test),
        accuracy_by_task=by_task,
        test_accuracy_by_task=test_by_task,
        accuracy_is=protocol.says(quality),
        history=[quality.value(score) for score in outcome.scores],
        history_epochs=outcome.evaluated,
        losses=outcome.losses,
        seconds=outcome.seconds,
        step_seconds=outcome.step_seconds,
        images_trained=outcome.images,
        provenance={
            **provenance(str(device)),
            "cached_blocks": prefix.blocks if prefix and prefix.used else 0,
        },
    )


Part = Dataset[Any]
