"""The architectures that there are. To add one in this package, write its folder and add its line to ``ARCHITECTURES``;
in a package of your own, name it as an entry point of the group ``bsr_explorer.architectures``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bsr_explorer.extensions import add_found
from bsr_explorer.models.base import Architecture, Geometry
from bsr_explorer.models.language.architecture import Language
from bsr_explorer.models.moe.architecture import Mixtures
from bsr_explorer.models.names import timm_name
from bsr_explorer.models.traced.architecture import Traced
from bsr_explorer.models.traced.own import Own
from bsr_explorer.models.vit.architecture import PlainViT
from bsr_explorer.quality import Quality

if TYPE_CHECKING:
    from torch import nn

ARCHITECTURES: dict[str, Architecture] = {
    "vit": PlainViT(),
    "traced": Traced(),
    "own": Own(),
    "moe": Mixtures(),
    "language": Language(),
}

add_found("bsr_explorer.architectures", ARCHITECTURES, Architecture)


def architecture_of(model: str) -> Architecture:
    """The architecture of a model, by its name: the one that knows it, or plain vision transformers, which say by name
    what they do not understand."""
    name = timm_name(model)
    others = (each for key, each in ARCHITECTURES.items() if key not in ("vit", "traced"))
    known = next((each for each in others if each.knows(name)), None)
    return known or ARCHITECTURES["traced" if ARCHITECTURES["traced"].knows(name) else "vit"]


def quality_of(model: str) -> Quality:
    """What a training of a model is judged by, by the model's name."""
    return architecture_of(model).takes.quality


def architecture_of_model(model: nn.Module) -> Architecture:
    """The architecture of a built model: what ``build_model`` said, or a plain vision transformer of timm."""
    return ARCHITECTURES[str(getattr(model, "architecture", "vit"))]


def geometry(model: str, image_size: int = 224, num_classes: int = 10) -> Geometry:
    """The geometry of a model at an image size and a number of classes.

    Raises:
        UserError: there is no such model, it is not understood, or it does not take such images.
    """
    return architecture_of(model).geometry(model, image_size, num_classes)


def build_model(model: str, image_size: int, num_classes: int) -> nn.Module:
    """A model with random weights, drawn from torch's global generator, that knows its architecture."""
    architecture = architecture_of(model)
    built = architecture.build(timm_name(model), image_size, num_classes)
    built.architecture = architecture.name  # type: ignore[assignment]
    naming = architecture.naming_of(built, timm_name(model), image_size, num_classes)
    built.parameter_naming = naming  # type: ignore[assignment]
    built.given = architecture.takes.name  # type: ignore[assignment]
    return built
