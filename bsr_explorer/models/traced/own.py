"""A user's own model, as an architecture: ``package.module:function``, or a file that describes one."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from bsr_explorer.models.traced.architecture import Traced
from bsr_explorer.models.traced.described import build_by, described, function, is_described
from bsr_explorer.naming import Naming

if TYPE_CHECKING:
    from torch import nn

    from bsr_explorer.models.traced.calls import Trace


class Own(Traced):
    """Whatever a function builds that takes images (B, 3, S, S) and returns logits (B, classes), or (B, classes, S, S)
    where each pixel has a label."""

    name: ClassVar[str] = "own"
    summary: ClassVar[str] = "a model of your own: package.module:function, or a TOML file that describes it"
    on_hub: ClassVar[bool] = False

    def knows(self, model: str) -> bool:
        """By how the name is written."""
        return is_described(model)

    def build(self, model: str, image_size: int, num_classes: int) -> nn.Module:
        """As the function builds it (or timm), with its loss, if it has one of its own."""
        said = described(model)
        if is_described(said.model):
            built = build_by(said.model, image_size, num_classes)
        else:
            built = super().build(said.model, image_size, num_classes)
        if said.loss is not None:
            built.own_loss = function(said.loss, "--model: loss")  # type: ignore[assignment]
        if said.labels is not None:
            built.labels = said.labels  # type: ignore[assignment]
        return built

    def read(self, name: str, model: nn.Module, trace: Trace) -> Naming:
        """By structure, but for what the file says."""
        from bsr_explorer.models.traced.structure import order

        return described(name).corrected(super().read(name, model, trace), model, list(order(trace)))

    def identity(self, model: str) -> object:
        """What the file says, which may change."""
        return described(model)
