"""Language models by name: ``tinyllama``, ``llama_tiny(chunk=256)``, or with other numbers."""

from __future__ import annotations

from dataclasses import fields, replace
from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar

from bsr_explorer.errors import UserError
from bsr_explorer.models.base import Geometry as AnyGeometry
from bsr_explorer.models.expression import check_whole, name_in, parsed
from bsr_explorer.models.inputs import TOKENS, Inputs
from bsr_explorer.models.language import hugging_face
from bsr_explorer.models.language.shape import Shape
from bsr_explorer.models.traced.architecture import Traced

if TYPE_CHECKING:
    from torch import nn

    from bsr_explorer.models.traced.architecture import TracedGeometry


NAMES: dict[str, Shape] = {
    "tinyllama": Shape(32000, 2048, 2048, 22, 32, 4, 5632),
    "llama_tiny": Shape(256, 512, 128, 4, 4, 2, 352),
    "hf_llama": Shape(256, 512, 128, 4, 4, 2, 352),
    "hf_gpt2": Shape(256, 512, 128, 4, 4, 4, 512),
}
"""TinyLlama 1.1B (arXiv 2401.02385) as its configuration says it, and a tiny one of bytes; tiny ones of
``transformers`` (``hugging_face``). Their numbers can be changed: ``llama_tiny(depth=8)``."""


@lru_cache(maxsize=256)
def shape_of(model: str) -> Shape:
    """The shape behind a name.

    Raises:
        UserError: it cannot be read, or says what cannot be.
    """
    said = parsed(model, [field.name for field in fields(Shape)])
    if said.first is not None:
        raise UserError(f"--model: {model}: write options as name=value, not {said.first!r} alone")
    shape = replace(NAMES[said.name], **said.options)
    for field in fields(Shape):
        if field.name != "chunk" or shape.chunk is not None:
            check_whole(model, field.name, getattr(shape, field.name))
    if shape.width % (2 * shape.heads):
        raise UserError(
            f"--model: {model}: width={shape.width} does not fall into heads={shape.heads} of an even width"
        )
    if shape.heads % shape.groups:
        raise UserError(
            f"--model: {model}: heads={shape.heads} do not fall into groups={shape.groups} of equal size"
        )
    if said.name in hugging_face.NAMES:
        hugging_face.check(said.name, model, shape)
    return shape


class Language(Traced):
    """Decoders, traced. Sizes of inputs are tokens of a sequence; classes are the vocabulary."""

    name: ClassVar[str] = "language"
    summary: ClassVar[str] = (
        "a decoder-only language model: tinyllama, llama_tiny, or llama_tiny(depth=8, chunk=256), or of transformers: "
        "hf_llama, hf_gpt2; with random weights"
    )
    on_hub: ClassVar[bool] = False
    corrected: ClassVar[bool] = False
    takes: ClassVar[Inputs] = TOKENS

    def knows(self, model: str) -> bool:
        """By what stands before the parentheses."""
        return name_in(model) in NAMES

    def geometry(self, model: str, image_size: int, num_classes: int) -> TracedGeometry:
        """See ``Traced``.

        Raises:
            UserError: a sequence is longer than the positions.
        """
        shape = shape_of(model)
        if image_size > shape.positions:
            raise UserError(
                f"--sequence-length: {image_size} tokens are more than the {shape.positions} positions of {model}; "
                f"choose up to {shape.positions}, or {name_in(model)}(positions={image_size})"
            )
        return super().geometry(model, image_size, shape.vocabulary)

    def with_tasks(self, geometry: AnyGeometry, tasks: tuple[int, ...]) -> TracedGeometry:
        """It has one task: the next token.

        Raises:
            UserError: always.
        """
        raise UserError(
            f"--tasks: {geometry.name} is a language model, which predicts the next token and has no classes of tasks; "
            "leave --tasks out"
        )

    def build(self, model: str, image_size: int, num_classes: int) -> nn.Module:
        """With random weights."""
        from bsr_explorer.models.language.decoder import Decoder

        if name_in(model) in hugging_face.NAMES:
            return hugging_face.build(name_in(model), shape_of(model))
        return Decoder(shape_of(model))

    def _cannot(self, what: str) -> UserError:
        return UserError(
            f"--method: a language model is causal, every token predicts the next one: it cannot {what}; leave that "
            "out of the method, or shorten --sequence-length"
        )
