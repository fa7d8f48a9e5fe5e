"""Damaged images are found before anything trains: every image that a job uses is decoded once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import PIL

from bsr_explorer.config import Config, Fidelity
from bsr_explorer.data.cells import Encoded
from bsr_explorer.data.reading import RULES, unreadable
from bsr_explorer.data.splits import Splits
from bsr_explorer.data.text import Texts
from bsr_explorer.errors import UserError
from bsr_explorer.finetune.job import Job, load_data
from bsr_explorer.models.names import timm_name
from bsr_explorer.models.weights import create_model
from bsr_explorer.prefix.cache import default_folder
from bsr_explorer.train.recipes import recipe

Told = Callable[[int, int], None]
"""Called with (images decoded, images in all)."""

MOST_NAMED = 100
"""Damaged images that are named; of more, how many there are."""


def settled(
    config: Config,
    job: Job,
    fill: Callable[[Fidelity, int, int], Fidelity],
    *,
    skip_bad: bool = False,
    told: Told = lambda done, total: None,
) -> Job:
    """A job that leaves nothing open, so that all that is trained by it is comparable: weights that are there, which
    ``auto`` becomes, and a fidelity for images that are there and can be read.

    Args:
        fill: what a fidelity leaves open, given the numbers of training and of validation images.
        skip_bad, told: see ``planned``.

    Raises:
        UserError: weights or data that are not there, or damaged images.
    """
    _, used = create_model(
        timm_name(config.model),
        image_size=config.image_size,
        num_classes=config.num_classes,
        weights=job.weights,
        tag=recipe(job.fidelity.recipe, job.data).tag,
    )
    job = replace(job, weights=used.source if job.weights == "auto" else job.weights)

    def plan(given: Fidelity, splits: Splits | Texts) -> Fidelity:
        return fill(given, len(splits.train), len(splits.validation))

    return replace(job, fidelity=planned(config, job, plan, skip_bad=skip_bad, told=told))


def planned(
    config: Config,
    job: Job,
    plan: Callable[[Fidelity, Splits | Texts], Fidelity] = lambda fidelity, splits: fidelity,
    *,
    skip_bad: bool = False,
    told: Told = lambda done, total: None,
) -> Fidelity:
    """A job's fidelity, planned for images that can all be read.

    Args:
        plan: fills in what a fidelity leaves open, for the images that there are.
        skip_bad: whether damaged images are left out, as the fidelity then says; if not, they are an error.

    Raises:
        UserError: damaged images, all of them, or see ``load_data``.
    """
    fidelity = plan(job.fidelity, load_data(config, job))
    found = _damaged(load_data(config, replace(job, fidelity=fidelity)), job.test, told)
    if not found:
        return fidelity
    if not skip_bad:
        raise UserError(_said(job.data, found))
    skip = tuple(sorted({*(job.fidelity.skip or ()), *found}))
    without = replace(job, fidelity=replace(job.fidelity, skip=skip))
    return plan(without.fidelity, load_data(config, without))


def _damaged(splits: Splits | Texts, test: bool, told: Told) -> dict[str, str]:
    """The files that cannot be read, by name, and why.

    Those that are used are looked at; if one of them is damaged, so are all others that they were taken from.
    """
    if isinstance(splits, Texts):  # any bytes are text
        return {}
    parts = [splits.train, splits.validation, *([splits.test] if test else [])]
    used = {path: name for part in parts for path, name in part.files().items()}
    if not used or (seen := _seen(used)).exists():
        return {}
    found = unreadable(used, told)
    if not found:
        with suppress(OSError):  # where nothing may be written, they are looked at again
            seen.parent.mkdir(parents=True, exist_ok=True)
            seen.touch()
        return {}
    others = {path: name for part in parts for path, name in part.files(whole_pool=True).items()}
    found |= unreadable(others.keys() - used.keys(), told)
    return {name: found[path] for path, name in others.items() if path in found}


def _seen(files: Iterable[Encoded]) -> Path:
    """Where it is remembered that these files or cells, as they are now, can be read."""
    known = hashlib.sha256(f"{RULES} {PIL.__version__}\n".encode())
    for path in sorted(files, key=str):
        with suppress(OSError):  # one that is not there is found when it is read
            now = path.stat()
            known.update(f"{path} {now.st_size} {now.st_mtime_ns}\n".encode())
    return default_folder() / "readable" / known.hexdigest()


def _said(data: str, found: Mapping[str, str]) -> str:
    named = ", ".join(f"{name} ({why})" for name, why in list(found.items())[:MOST_NAMED])
    more = f" and {len(found) - MOST_NAMED:,} more" if len(found) > MOST_NAMED else ""
    images = "1 image" if len(found) == 1 else f"{len(found):,} images"
    return (
        f"--data: {data!r}: {images} cannot be read: {named}{more}; replace or remove "
        f"{'it' if len(found) == 1 else 'them'}, or leave {'it' if len(found) == 1 else 'them'} out with --skip-bad"
    )
