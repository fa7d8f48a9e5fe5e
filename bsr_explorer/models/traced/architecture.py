"""Models of timm that are no plain vision transformers, traced."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar

from bsr_explorer.errors import UserError
from bsr_explorer.models.base import NO_DROPS, Architecture, Followed, Selection
from bsr_explorer.models.base import Geometry as AnyGeometry
from bsr_explorer.naming import Naming
from bsr_explorer.tape import Tape

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from torch import Tensor, nn

    from bsr_explorer.models.traced import following
    from bsr_explorer.models.traced.calls import Trace


@dataclass(frozen=True)
class TracedGeometry:
    """See ``models.base.Geometry``.

    Attributes:
        naming: of its parameters.
        class_token: whether it can drop tokens (``traced.tokens``), and has a class token to drop them by.
        prefix_tokens: tokens before the patches, where it can drop tokens.
        tasks: as of a plain vision transformer.
    """

    name: str
    image_size: int
    num_classes: int
    depth: int
    naming: Naming
    patch: int = 1
    class_token: bool = False
    prefix_tokens: int = 0
    tasks: tuple[int, ...] = ()


class Traced(Architecture):
    """Whatever timm can build, but for plain vision transformers, which have a tape of their own."""

    name: ClassVar[str] = "traced"
    summary: ClassVar[str] = "any other model of timm: Swin, ConvNeXt, EVA-02, SigLIP, ResNet, …"
    on_hub: ClassVar[bool] = True
    corrected: ClassVar[bool] = True

    def knows(self, model: str) -> bool:
        """Whether timm has such a model, and it is not a plain vision transformer. (To find that out it is built,
        without memory.)"""
        from bsr_explorer.models import timm_names

        return timm_names.is_model(model.split(".")[0]) and not _is_plain(model)

    def geometry(self, model: str, image_size: int, num_classes: int) -> TracedGeometry:
        """Depth and names, by structure (``structure``)."""
        return _geometry(self, model, self.identity(model), image_size, num_classes)

    def read(self, name: str, model: nn.Module, trace: Trace) -> Naming:
        """The blocks, the head and the norms of a built model; of the head, what timm says."""
        from bsr_explorer.models.traced.structure import naming_by_structure

        config: Any = getattr(model, "pretrained_cfg", None) or {}
        named = config.get("classifier") or ()
        parameters = [parameter for parameter, _ in model.named_parameters()]
        heads = tuple(
            path
            for path in ([named] if isinstance(named, str) else named)
            if any(parameter.startswith(f"{path}.") for parameter in parameters)
        )
        return naming_by_structure(model, trace, heads)

    def with_tasks(self, geometry: AnyGeometry, tasks: tuple[int, ...]) -> TracedGeometry:
        """See ``Architecture``."""
        assert isinstance(geometry, TracedGeometry)
        return replace(geometry, tasks=tasks)

    def step_tape(self, geometry: AnyGeometry, batch_size: int, attention: str) -> Tape:
        """In fp32, on the CPU."""
        return self.step_tape_in(geometry, batch_size, attention, "fp32", "cpu")

    def step_tape_in(
        self,
        geometry: AnyGeometry,
        batch_size: int,
        attention: str,
        precision: str,
        device: str,
        drops: Mapping[int, Selection] = NO_DROPS,
    ) -> Tape:
        """See ``Architecture``. It is traced with its token drops, for each schedule anew."""
        from bsr_explorer.models.traced.tape import tape_of_trace

        assert isinstance(geometry, TracedGeometry)
        name, size, classes = geometry.name, geometry.image_size, geometry.num_classes
        schedule = tuple((block, drops[block]) for block in sorted(drops) if block < geometry.depth)
        followed = _followed(
            self,
            name,
            self.identity(name),
            size,
            classes,
            attention,
            precision,
            device,
            geometry.tasks,
            schedule,
        )
        tape = tape_of_trace(
            followed.trace.at(batch_size),
            followed.parameters,
            followed.buffers,
            geometry.naming,
            self.name,
            device,
        )
        prefix, class_token = geometry.prefix_tokens, geometry.class_token
        return replace(tape, drops=dict(drops), prefix_tokens=prefix, class_token=class_token)

    def build(self, model: str, image_size: int, num_classes: int) -> nn.Module:
        """As timm builds it, at an image size where it has one."""
        import timm

        from bsr_explorer.models.names import timm_name

        name = timm_name(model)
        try:
            built: nn.Module = timm.create_model(name, img_size=image_size, num_classes=num_classes)
        except TypeError as error:
            if "img_size" not in str(error):
                raise
            built = timm.create_model(name, num_classes=num_classes)
        return built

    def naming_of(self, model: nn.Module, name: str, image_size: int, num_classes: int) -> Naming:
        """By structure."""
        return self.geometry(name, image_size, num_classes).naming

    def use_attention_path(self, model: nn.Module, path: str) -> None:
        """See ``models.vit.attention_path``."""
        from bsr_explorer.models.vit.attention_path import use_attention_path

        use_attention_path(model, path)

    # --- dropping tokens --------------------------------------------------------------------------------

    def has_class_token(self, model: nn.Module) -> bool:
        """See ``traced.tokens``."""
        from bsr_explorer.models.traced.tokens import has_class_token

        return has_class_token(model)

    def drop_tokens(self, tape: Tape, block: int, selection: Selection) -> Tape:
        """The tape itself: it was traced with its drops."""
        if tape.drops.get(block) != selection:
            raise UserError(
                "--method: of a traced model, tokens are dropped by methods that say beforehand which (Method.drops): "
                "bsr, drop, evit and adapler; choose one of them"
            )
        return tape

    def drop_tokens_in(self, model: nn.Module, block: int, selection: Selection) -> None:
        """See ``models.vit.drop``.

        Raises:
            UserError: its blocks are not as a plain vision transformer's.
        """
        from bsr_explorer.models.traced.tokens import why_not
        from bsr_explorer.models.vit.drop import drop_tokens_in

        if why := why_not(model):
            raise UserError(
                f"--method: the model cannot drop tokens, for {why}; choose a method that drops none"
            )
        drop_tokens_in(model, block, selection)

    def follow_tokens(self, model: nn.Module, images: Tensor, at_random: bool = False) -> list[Followed]:
        """See ``models.vit.followed``."""
        from bsr_explorer.models.vit.followed import follow_tokens

        return follow_tokens(model, images, at_random)

    def all_tokens(self, model: nn.Module) -> AbstractContextManager[None]:
        """See ``models.vit.followed``."""
        from bsr_explorer.models.vit.followed import all_tokens

        return all_tokens(model)


@lru_cache(maxsize=256)
def _is_plain(model: str) -> bool:
    from bsr_explorer.models.vit.geometry import KNOWN
    from bsr_explorer.models.vit.reading import read_geometry

    if model.split(".")[0] in KNOWN:
        return True
    import timm

    from bsr_explorer.models.paper import on_paper

    try:
        with on_paper():
            read_geometry(timm.create_model(model, num_classes=10), model)
    except Exception:  # whatever timm says of a model that cannot be built without memory
        return False
    return True


def _built(architecture: Traced, model: str, image_size: int, num_classes: int) -> nn.Module:
    from bsr_explorer.models.paper import unfilled

    try:
        with unfilled():
            return architecture.build(model, image_size, num_classes)
    except UserError:
        raise
    except Exception as error:
        why = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise UserError(
            f"--model, --image-size: {model} cannot be built for images of {image_size} pixels: {why}"
        ) from error


@lru_cache(maxsize=64)
def _followed(
    architecture: Traced,
    model: str,
    identity: object,
    image_size: int,
    num_classes: int,
    attention: str,
    precision: str,
    device: str,
    tasks: tuple[int, ...] = (),
    drops: tuple[tuple[int, Selection], ...] = (),
) -> following.Followed:
    from bsr_explorer.models.tasks import give_tasks
    from bsr_explorer.models.traced.following import follow

    built = _built(architecture, model, image_size, num_classes)
    give_tasks(built, tasks)
    for block, selection in drops:
        architecture.drop_tokens_in(built, block, selection)
    return follow(built, image_size, attention, precision, device, architecture.takes)


@lru_cache(maxsize=256)
def _geometry(
    architecture: Traced, model: str, identity: object, image_size: int, num_classes: int
) -> TracedGeometry:
    from bsr_explorer.models.traced.tokens import has_class_token, prefix_tokens

    if image_size < 1:
        raise UserError(f"--image-size: {image_size} is not a positive number of pixels")
    followed = _followed(architecture, model, identity, image_size, num_classes, "fused", "fp32", "cpu")
    built = _built(architecture, model, image_size, num_classes)
    from bsr_explorer.models.traced.structure import heads_by_structure

    naming = architecture.read(model, built, followed.trace)
    naming = replace(naming, heads=heads_by_structure(naming, followed.trace))
    token, prefix = has_class_token(built), prefix_tokens(built)
    return TracedGeometry(
        model, image_size, num_classes, len(naming.paths), naming, class_token=token, prefix_tokens=prefix
    )
