"""Proxies of a study's own fidelity: cheaper ones, written as image size × training images."""

from __future__ import annotations

import math
from dataclasses import replace

from bsr_explorer.config import Config, Fidelity
from bsr_explorer.errors import UserError

PROXIES_A_TRIAL = 3
"""Trainings at proxies for each trial, at most: so many are planned for."""


def check_sampler(sampler: str) -> None:
    """Refuse several fidelities for a sampler that knows one.

    Raises:
        UserError: it is not the exact-cost sampler.
    """
    if sampler != "exact":
        raise UserError(
            f"--fidelity: only the sampler exact trains at several, not {sampler}; leave one of the two out"
        )


def at_proxy(text: str, own: Fidelity) -> Fidelity:
    """The fidelity of a proxy such as ``112x256``, of a study's own.

    Raises:
        UserError: it is written otherwise.
    """
    size, by, images = text.partition("x")
    if not (by and size.isdecimal() and images.isdecimal()):
        raise UserError(
            f"[search] proxies: {text!r} must be an image size and a number of training images, such as 112x256"
        )
    return replace(own, image_size=int(size), train_size=int(images))


def check_cheaper(text: str, proxy: Fidelity, own: Fidelity, config: Config) -> None:
    """Refuse a proxy that is none.

    Raises:
        UserError: it has larger or more images than the study's own fidelity, or is that.
    """
    size, images = own.image_size or config.image_size, own.train_size or math.inf
    there = proxy.image_size or 0, proxy.train_size or 0
    if there[0] > size or there[1] > images or there == (size, images):
        raise UserError(
            f"[search] proxies: {text!r} is not cheaper than the study's own fidelity, {size} px and "
            f"{own.train_size or 'all'} training images"
        )
