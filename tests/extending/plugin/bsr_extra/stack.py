"""An architecture: residual multilayer perceptrons over patches, with names of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, cast

from bsr_explorer.errors import UserError
from bsr_explorer.models.base import Architecture
from bsr_explorer.models.base import Geometry as AnyGeometry
from bsr_explorer.naming import Naming
from bsr_explorer.tape import Op, Parameter, Shape, Tape, Tensor

if TYPE_CHECKING:
    from torch import nn

WIDTH, HIDDEN, DEPTH, PATCH = 24, 48, 3, 8


@dataclass(frozen=True)
class StackGeometry:
    """See ``models.base.Geometry``."""

    name: str
    image_size: int
    num_classes: int
    patch: int = PATCH
    depth: int = DEPTH
    class_token: bool = False


class Stack(Architecture):
    """``stack_mini``: three blocks of norm, two linears and a sum."""

    name: ClassVar[str] = "stack"
    summary: ClassVar[str] = "residual multilayer perceptrons over patches"
    naming: ClassVar[Naming] = Naming(
        blocks="layers", head=("out.",), final_norm=("last_norm.",), below=("embed.",), embeddings=()
    )

    def knows(self, model: str) -> bool:
        """Its only model."""
        return model == "stack_mini"

    def geometry(self, model: str, image_size: int, num_classes: int) -> StackGeometry:
        """Any multiple of the patch."""
        if image_size < 1 or image_size % PATCH:
            raise UserError(
                f"--image-size: {image_size} is not a positive multiple of the patch, {PATCH} pixels"
            )
        return StackGeometry(model, image_size, num_classes)

    def step_tape(self, geometry: AnyGeometry, batch_size: int, attention: str) -> Tape:
        """Operation by operation, under the names of the modules."""
        parameters: dict[str, Parameter] = {}
        ops: list[Op] = []

        def op(name: str, kind: str, reads: list[str], block: int | None = None, **params: Shape) -> str:
            for part, shape in params.items():
                parameters[f"{name}.{part}"] = Parameter(f"{name}.{part}", shape, block)
            writes = f"{name or 'pooled'} by {kind}"
            attrs = {"prefix": 0} if kind == "mean_tokens" else {}
            names = {part: f"{name}.{part}" for part in params}
            ops.append(Op(name, kind, block, tuple(reads), writes, names, attrs))
            return writes

        x = op("embed.proj", "patch_embed", ["images"], weight=(WIDTH, 3, PATCH, PATCH), bias=(WIDTH,))
        for block in range(DEPTH):
            here = f"layers.{block}"
            y = op(f"{here}.norm", "layer_norm", [x], block, weight=(WIDTH,), bias=(WIDTH,))
            y = op(f"{here}.fc1", "linear", [y], block, weight=(HIDDEN, WIDTH), bias=(HIDDEN,))
            y = op(f"{here}.act", "gelu", [y], block)
            y = op(f"{here}.fc2", "linear", [y], block, weight=(WIDTH, HIDDEN), bias=(WIDTH,))
            x = op(here, "add", [x, y], block)
        x = op("last_norm", "layer_norm", [x], weight=(WIDTH,), bias=(WIDTH,))
        x = op("", "mean_tokens", [x])
        x = op("out", "linear", [x], weight=(geometry.num_classes, WIDTH), bias=(geometry.num_classes,))
        op("loss", "cross_entropy", [x, "labels"])
        size = geometry.image_size
        inputs = (
            Tensor("images", (batch_size, 3, size, size), "images", role="input"),
            Tensor("labels", (batch_size,), "labels", dtype="int64", role="input"),
        )
        return Tape(inputs, parameters, tuple(ops), architecture=self.name, naming=self.naming)

    def build(self, model: str, image_size: int, num_classes: int) -> nn.Module:
        """The modules."""
        from timm.layers import PatchEmbed
        from torch import Tensor, nn

        class Block(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.norm = nn.LayerNorm(WIDTH)
                self.fc1, self.act, self.fc2 = nn.Linear(WIDTH, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, WIDTH)

            def forward(self, x: Tensor) -> Tensor:
                added: Tensor = x + self.fc2(self.act(self.fc1(self.norm(x))))
                return added

        class Mini(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.embed = PatchEmbed(image_size, PATCH, 3, WIDTH)
                self.layers = nn.Sequential(*(Block() for _ in range(DEPTH)))
                self.last_norm, self.out = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, num_classes)

            def features(self, images: Tensor) -> Tensor:
                x = self.layers(self.embed(images))
                x = self.last_norm(x)
                return cast(Tensor, x)

            def logits(self, x: Tensor) -> Tensor:
                x = x.mean(dim=1)
                out: Tensor = self.out(x)
                return out

            def forward(self, images: Tensor) -> Tensor:
                x = self.features(images)
                return self.logits(x)

        return Mini()


STACK = Stack()
