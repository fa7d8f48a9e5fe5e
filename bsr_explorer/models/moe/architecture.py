"""Mixtures of experts by name: ``moe_vit(deit_s, blocks=(3, 7, 11), experts=16, top=4, capacity=1.25)``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, cast

from bsr_explorer.errors import UserError
from bsr_explorer.models.base import NO_DROPS, Selection
from bsr_explorer.models.base import Geometry as AnyGeometry
from bsr_explorer.models.expression import check_number, check_whole, name_in, parsed
from bsr_explorer.models.names import timm_name
from bsr_explorer.models.traced.architecture import Traced
from bsr_explorer.models.vit.architecture import PlainViT

if TYPE_CHECKING:
    from torch import nn

    from bsr_explorer.models.traced.architecture import TracedGeometry
    from bsr_explorer.models.vit.geometry import Geometry

NAME = "moe_vit"


@dataclass(frozen=True)
class Numbers:
    """What a name says. Defaults are those of the BSR paper's code.

    Attributes:
        dense: the plain vision transformer that it is made of.
        blocks: 0-based, those with a mixture.
        top: experts that a token is sent to.
        ratio: width of an expert's hidden layer over that of tokens.
        capacity: see ``layer.Mixture``.
        balance: weight of how unbalanced the experts are, in the loss.
        noise: whether the gate is noisy in training.
    """

    dense: str = "deit_s"
    blocks: tuple[int, ...] = (3, 7, 11)
    experts: int = 16
    top: int = 4
    ratio: float = 1.0
    capacity: float | None = None
    balance: float = 0.01
    noise: bool = True


@lru_cache(maxsize=256)
def numbers_of(model: str) -> Numbers:
    """What a name says.

    Raises:
        UserError: it cannot be read, or says what cannot be.
    """
    said = parsed(model, [field.name for field in fields(Numbers)][1:])
    options = dict(said.options)
    blocks = options.pop("blocks", Numbers.blocks)
    blocks = (blocks,) if isinstance(blocks, int) else blocks
    if not isinstance(blocks, (tuple, list)) or not blocks or len({*blocks}) < len(blocks):
        raise UserError(
            f"--model: {model}: blocks={blocks!r} must name blocks, each once, such as (3, 7, 11)"
        )
    for block in blocks:
        check_whole(model, "blocks", block, 0)
    numbers = Numbers(timm_name(said.first or Numbers.dense), tuple(sorted(blocks)), **options)
    for key in ("experts", "top"):
        check_whole(model, key, getattr(numbers, key))
    check_number(model, "ratio", numbers.ratio)
    if numbers.capacity is not None:
        check_number(model, "capacity", numbers.capacity)
    if numbers.balance != 0:
        check_number(model, "balance", numbers.balance)
    if not isinstance(numbers.noise, bool):
        raise UserError(f"--model: {model}: noise={numbers.noise!r} must be True or False")
    if numbers.top > numbers.experts:
        raise UserError(
            f"--model: {model}: a token cannot be sent to top={numbers.top} of {numbers.experts} experts; choose "
            f"top up to {numbers.experts}"
        )
    return numbers


class Mixtures(Traced):
    """Plain vision transformers with mixtures of experts, traced."""

    name: ClassVar[str] = "moe"
    summary: ClassVar[str] = (
        "a vision transformer with mixtures of experts: moe_vit(deit_s, blocks=(3, 7, 11), experts=16, top=4)"
    )
    on_hub: ClassVar[bool] = False
    corrected: ClassVar[bool] = False

    def knows(self, model: str) -> bool:
        """By what stands before the parentheses."""
        return name_in(model) == NAME

    def geometry(self, model: str, image_size: int, num_classes: int) -> TracedGeometry:
        """See ``Traced``."""
        _dense(model, image_size, num_classes)
        return super().geometry(model, image_size, num_classes)

    def build(self, model: str, image_size: int, num_classes: int) -> nn.Module:
        """As timm builds the dense one, with mixtures in place of some MLPs."""
        from bsr_explorer.models.moe.layer import BalancedLoss, Mixture

        numbers, dense = numbers_of(model), _dense(model, image_size, num_classes)
        built: Any = super().build(numbers.dense, image_size, num_classes)
        layers = []
        for block in numbers.blocks:
            layer = Mixture(
                dense.width,
                _hidden(numbers, dense),
                numbers.experts,
                numbers.top,
                numbers.capacity,
                numbers.noise,
                balanced=numbers.balance > 0,
            )
            built.blocks[block].mlp = layer
            layers.append(layer)
        if numbers.balance:
            built.own_loss = BalancedLoss(layers, numbers.balance)
        return cast("nn.Module", built)

    def note(self, geometry: AnyGeometry, drops: Mapping[int, Selection] = NO_DROPS) -> str:
        """How many rows experts compute, and that this holds for every routing."""
        from bsr_explorer.models.moe.layer import capacity_of_image

        numbers = numbers_of(geometry.name)
        dense = _dense(geometry.name, geometry.image_size, geometry.num_classes)
        rows = f"all rows of {numbers.top} for each token"
        if numbers.capacity is not None:
            tokens = dict.fromkeys(tokens_of_mixtures(dense, numbers.blocks, drops).values())
            each = [capacity_of_image(numbers.capacity, numbers.top, n, numbers.experts) for n in tokens]
            rows = f"{_listed(each)} rows each for an image of {_listed(tokens)} tokens, filled or not"
        return f"{numbers.experts} experts in blocks {_listed(numbers.blocks)} compute {rows}: exact for every routing"

    def begins_as(self, model: str) -> str | None:
        """The dense model."""
        return numbers_of(model).dense

    def begin(self, model: nn.Module, dense: nn.Module) -> str:
        """See ``starting``."""
        from bsr_explorer.models.moe.starting import begin

        return begin(model, dense)


def tokens_of_mixtures(
    dense: Geometry, blocks: Iterable[int], drops: Mapping[int, Selection]
) -> dict[int, int]:
    """For each block with a mixture, the tokens of an image that reach it: those that a block drops are gone before its
    MLP."""
    patches, found = dense.patches, {}
    for block in range(dense.depth):
        patches = drops[block].left_of(patches) if block in drops else patches
        found[block] = dense.prefix_tokens + patches
    return {block: found[block] for block in blocks}


def _listed(numbers: Iterable[int]) -> str:
    return ", ".join(map(str, numbers))


def _hidden(numbers: Numbers, dense: Geometry) -> int:
    return max(1, round(numbers.ratio * dense.width))


def _dense(model: str, image_size: int, num_classes: int) -> Geometry:
    """The geometry of the dense model, if the mixtures fit it.

    Raises:
        UserError: it is no plain vision transformer, has no such block, or an expert would take no token.
    """
    numbers = numbers_of(model)
    try:
        dense = PlainViT().geometry(numbers.dense, image_size, num_classes)
    except UserError as error:
        raise UserError(str(error).replace("--model:", f"--model: {model}:", 1)) from None
    for block in numbers.blocks:
        if block >= dense.depth:
            raise UserError(
                f"--model: {model}: {numbers.dense} has no block {block}; choose blocks from 0 to {dense.depth - 1}"
            )
    if numbers.capacity is not None:
        tokens = dense.tokens
        taken = numbers.capacity * numbers.top * tokens / numbers.experts
        if taken < 1:
            raise UserError(
                f"--model: {model}: with capacity={numbers.capacity:g} an expert takes {taken:.2g} of the {tokens} "
                f"tokens of an image; choose at least {numbers.experts / (numbers.top * tokens):.2g}"
            )
    return dense
