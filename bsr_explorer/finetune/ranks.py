"""Ranks for ``asi`` and ``wasi``, layer by layer, from a model and one batch: the best under a budget of bytes, or
those that explain a share of the variance."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import cast

import numpy as np
import torch
from torch import nn

from bsr_explorer.errors import UserError
from bsr_explorer.methods.adding import LAYERS, checked_layers
from bsr_explorer.models.lowering import PRECISIONS
from bsr_explorer.models.outputs import logits_of
from bsr_explorer.models.tasks import loss_of
from bsr_explorer.naming import blocks_of
from bsr_explorer.storages import Tucker
from bsr_explorer.train.step import autocast
from bsr_explorer.units import WIDTH, format_bytes, parse_bytes

EXPLAINED = (0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Shares of the variance of an input that its bases explain, of which the authors choose one a layer."""

NO_LIMIT = 2**62
"""More bytes than there are."""


@dataclass(frozen=True)
class Choice:
    """Ranks that a layer may have.

    Attributes:
        ranks: of images, tokens and channels.
        bytes: that the layer holds then: core and bases, and in fp32 the bases for the next step.
        error: of its weight's gradient, the norm of the difference from the exact one.
        explained: share of the variance of its input that each of its bases explains at least.
        whole: bytes of the input itself.
    """

    ranks: tuple[int, int, int]
    bytes: int
    error: float
    explained: float
    whole: int


def choose_ranks(
    model: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    budget: int | str,
    on: str | Sequence[str] = ("qkv", "fc2"),
    explained: Sequence[float] = EXPLAINED,
    precision: str = "fp32",
) -> dict[str, tuple[int, int, int]]:
    """Ranks for ``asi(ranks=…)``, by block and layer (``3.fc2``): those with which the errors of the weights' gradients
    add up to the least, among all that fit in a budget.

    A layer may have, for each share, the least ranks whose bases explain that share of the variance of this batch. The
    errors are this batch's, too. The best choice is found exactly, to the byte.

    Args:
        model: as it is before training, what trains in it chosen; it is left as it is.
        images: (B, 3, S, S), as many as a micro-batch of the training has: ranks of images belong to their number.
        labels: (B,), class indices.
        budget: bytes, or a quantity such as ``5MB``, of all that the chosen layers hold of their inputs.
        on: the layers.
        explained: shares above 0 and at most 1.
        precision: key of ``PRECISIONS``, as it will be trained.

    Raises:
        UserError: no weight of these layers trains, or nothing fits in the budget.
    """
    chosen = chosen_ranks(model, images, labels, budget, on, explained, precision)
    return {name: choice.ranks for name, choice in chosen.items()}


def chosen_ranks(
    model: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    budget: int | str | None,
    on: str | Sequence[str] = ("qkv", "fc2"),
    explained: Sequence[float] = EXPLAINED,
    precision: str = "fp32",
    told: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Choice]:
    """The same with all that is known of each choice.

    Args:
        budget: None: without a limit.
        told: is told how many layers of how many have been looked at.

    Raises:
        UserError: see ``choose_ranks``.
    """
    most = parse_bytes(budget) if isinstance(budget, str) else NO_LIMIT if budget is None else budget
    layers = {
        f"{block}.{name}": cast(nn.Linear, module.get_submodule(LAYERS[name]))
        for block, module in enumerate(blocks_of(model))
        for name in checked_layers("asi", on)
    }
    layers = {name: layer for name, layer in layers.items() if layer.weight.requires_grad}
    if not layers:
        raise UserError(
            f"asi: no weight of {', '.join(checked_layers('asi', on))} in a block trains; nothing to choose"
        )
    choices = list[list[Choice]]()
    for found in _read_and_given(model, layers, images, labels, precision):
        choices.append(list(_choices(*found, explained, PRECISIONS[precision][0])))
        told(len(choices), len(layers))
    chosen = least_errors([[(c.bytes, c.error) for c in of_layer] for of_layer in choices], most)
    if chosen is None:
        least = sum(min(c.bytes for c in of_layer) for of_layer in choices)
        raise UserError(
            f"--budget: {format_bytes(most)} is less than the least that these layers hold, {format_bytes(least)}; "
            "choose at least that, or a smaller explained share"
        )
    return {name: of[pick] for name, of, pick in zip(layers, choices, chosen, strict=True)}


@torch.no_grad()
def weight_ranks(model: nn.Module, layers: Iterable[str], explained: float) -> dict[str, int]:
    """K for ``wasi(rank=…)``: the least rank of each weight that explains a share of its variance, which is that of the
    squares of its singular values.

    Args:
        layers: by block and layer, such as ``3.fc2``.
        explained: above 0 and at most 1.
    """
    blocks, found = blocks_of(model), dict[str, int]()
    for name in layers:
        block, _, layer = name.partition(".")
        weight = cast(nn.Linear, blocks[int(block)].get_submodule(LAYERS[layer])).weight
        found[name] = _rank(torch.linalg.svdvals(weight.double()).flip(0).square(), explained)
    return found


def least_errors(choices: Sequence[Sequence[tuple[int, float]]], budget: int) -> list[int] | None:
    """Which choice to take of each list, so that the errors add up to the least and the bytes to no more than a budget;
    None, where there is no way.

    Args:
        choices: (bytes, error) of each.
    """
    # By dynamic programming: of all ways so far, those for which none is both smaller and better.
    sizes, errors = np.zeros(1, np.int64), np.zeros(1)
    steps = []
    for of_layer in choices:
        more = np.array([size for size, _ in of_layer], np.int64)
        worse = np.array([error for _, error in of_layer])
        all_sizes, all_errors = (sizes[:, None] + more).ravel(), (errors[:, None] + worse).ravel()
        order = np.lexsort((all_errors, all_sizes))
        order = order[all_sizes[order] <= budget]
        if not len(order):
            return None
        best = np.minimum.accumulate(all_errors[order])
        order = order[np.concatenate([[True], best[1:] < best[:-1]])]
        sizes, errors = all_sizes[order], all_errors[order]
        steps.append(np.divmod(order, len(of_layer)))
    picks, way = [], len(sizes) - 1
    for before, pick in reversed(steps):
        picks.append(int(pick[way]))
        way = int(before[way])
    return picks[::-1]


def _read_and_given(
    model: nn.Module,
    layers: dict[str, nn.Linear],
    images: torch.Tensor,
    labels: torch.Tensor,
    precision: str,
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Of each layer what it reads, (B, N, in), and the gradient of its output, (B, N, out)."""
    read: dict[str, torch.Tensor] = {}
    made: dict[str, torch.Tensor] = {}

    def note(name: str, layer: nn.Module, inputs: tuple[torch.Tensor, ...], out: torch.Tensor) -> None:
        read[name], made[name] = inputs[0].detach(), out

    hooks = [layer.register_forward_hook(partial(note, name)) for name, layer in layers.items()]
    training = model.training
    try:
        with autocast(precision, images.device):
            loss = loss_of(model)(logits_of(model.train()(images)), labels)
        given = torch.autograd.grad(loss, [made[name] for name in layers])
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
    for name, gradient in zip(layers, given, strict=True):
        yield read.pop(name).float(), gradient.float()


@torch.no_grad()
def _choices(
    x: torch.Tensor, gradient: torch.Tensor, explained: Sequence[float], dtype: str
) -> Iterator[Choice]:
    """What a layer may have, each once."""
    spectra = [torch.linalg.eigh(_unfolded_square(x, mode)) for mode in range(3)]
    rows = gradient.reshape(-1, gradient.shape[-1])
    exact = rows.t().mm(x.reshape(len(rows), -1))
    shape, seen = tuple(x.shape), set[tuple[int, ...]]()
    for share in explained:
        asked = Tucker(cast("tuple[int, int, int]", tuple(_rank(values, share) for values, _ in spectra)))
        ranks = cast("tuple[int, int, int]", asked.found(shape))
        if ranks in seen:
            continue
        seen.add(ranks)
        bases = [vectors[:, -rank:].float() for (_, vectors), rank in zip(spectra, ranks, strict=True)]
        core = torch.einsum("bni,ba,nc,id->acd", x, *bases).contiguous()
        error = Tucker(ranks).weight_gradient((core, *bases), rows).sub_(exact).norm()
        held = asked.bytes(shape, dtype) + asked.remembers_of(shape)[0] * WIDTH["fp32"]
        yield Choice(ranks, held, float(error), share, x.numel() * WIDTH[dtype])


def _unfolded_square(x: torch.Tensor, mode: int) -> torch.Tensor:
    """A·Aᵀ in fp64 of a tensor unfolded along a dimension; its eigenvalues are squares of A's singular values."""
    unfolded = x.movedim(mode, 0).reshape(x.shape[mode], -1).double()
    return unfolded.mm(unfolded.t())


def _rank(values: torch.Tensor, share: float) -> int:
    """How many of the largest values, which come last, make up a share of their sum."""
    explained = values.flip(0).cumsum(0)
    return min(len(values), int((explained < share * explained[-1]).sum()) + 1)
