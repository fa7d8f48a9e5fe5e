"""Plain vision transformers of timm, as an architecture."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, cast

from bsr_explorer.models.base import Architecture, Followed, Selection
from bsr_explorer.models.base import Geometry as AnyGeometry
from bsr_explorer.models.vit.geometry import Geometry
from bsr_explorer.models.vit.merge_step import merge_tokens
from bsr_explorer.models.vit.reading import geometry
from bsr_explorer.models.vit.step import drop_tokens, step_tape
from bsr_explorer.tape import Tape

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from torch import Tensor, nn


class PlainViT(Architecture):
    """DeiT, ViT, AugReg and DINOv2, with or without registers."""

    name: ClassVar[str] = "vit"
    summary: ClassVar[str] = "plain vision transformers of timm: DeiT, ViT, AugReg, DINOv2"
    on_hub: ClassVar[bool] = True
    published: ClassVar[bool] = True
    packs: ClassVar[bool] = True
    continues: ClassVar[bool] = True

    def knows(self, model: str) -> bool:
        """Whether timm has a vision transformer of this name."""
        from bsr_explorer.models import timm_names

        return timm_names.is_model(model.split(".")[0])

    def geometry(self, model: str, image_size: int, num_classes: int) -> Geometry:
        """See ``models.vit.reading``."""
        return geometry(model, image_size, num_classes)

    def with_tasks(self, geometry: AnyGeometry, tasks: tuple[int, ...]) -> Geometry:
        """See ``Architecture``."""
        assert isinstance(geometry, Geometry)
        return replace(geometry, tasks=tasks)

    def step_tape(self, geometry: AnyGeometry, batch_size: int, attention: str) -> Tape:
        """See ``models.vit.step``."""
        assert isinstance(geometry, Geometry)
        return step_tape(geometry, batch_size, attention)

    def build(self, model: str, image_size: int, num_classes: int) -> nn.Module:
        """As timm builds it."""
        import timm

        built: nn.Module = timm.create_model(model, img_size=image_size, num_classes=num_classes)
        return built

    def use_attention_path(self, model: nn.Module, path: str) -> None:
        """See ``models.vit.attention_path``."""
        from bsr_explorer.models.vit.attention_path import use_attention_path

        use_attention_path(model, path)

    def has_class_token(self, model: nn.Module) -> bool:
        """As timm says it."""
        return bool(model.has_class_token)

    def drop_tokens(self, tape: Tape, block: int, selection: Selection) -> Tape:
        """See ``models.vit.step``."""
        return drop_tokens(tape, block, selection)

    def drop_tokens_in(self, model: nn.Module, block: int, selection: Selection) -> None:
        """See ``models.vit.drop``."""
        from bsr_explorer.models.vit.drop import drop_tokens_in

        drop_tokens_in(model, block, selection)

    def follow_tokens(self, model: nn.Module, images: Tensor, at_random: bool = False) -> list[Followed]:
        """See ``models.vit.followed``."""
        from bsr_explorer.models.vit.followed import follow_tokens

        return follow_tokens(model, images, at_random)

    def all_tokens(self, model: nn.Module) -> AbstractContextManager[None]:
        """See ``models.vit.followed``."""
        from bsr_explorer.models.vit.followed import all_tokens

        return all_tokens(model)

    def merge_tokens(self, tape: Tape, r: int, proportional: bool = False) -> Tape:
        """See ``models.vit.step``."""
        return merge_tokens(tape, r, proportional)

    def merge_tokens_in(self, model: nn.Module, r: int, proportional: bool = False) -> None:
        """See ``models.vit.merge``."""
        from bsr_explorer.models.vit.merge import merge_tokens_in

        merge_tokens_in(model, r, proportional)

    def stem(self, model: nn.Module, images: Tensor) -> Tensor:
        """Patch embedding, prefix tokens, positions."""
        vit = cast(Any, model)
        return cast("Tensor", vit.norm_pre(vit.patch_drop(vit._pos_embed(vit.patch_embed(images)))))

    def tail(self, model: nn.Module, tokens: Tensor) -> Tensor:
        """Final norm, pooling, head."""
        vit = cast(Any, model)
        return cast("Tensor", vit.forward_head(vit.norm(tokens)))

    def after_blocks(self, model: nn.Module) -> nn.Module:
        """The norm."""
        return cast("nn.Module", cast(Any, model).norm)
