"""Trained weights as a file: timm's own parameter names, and all that it takes to use them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from bsr_explorer.config import Config
from bsr_explorer.errors import UserError
from bsr_explorer.files import whole
from bsr_explorer.methods import Full
from bsr_explorer.models.architecture import build_model
from bsr_explorer.models.names import timm_name
from bsr_explorer.version import __version__

if TYPE_CHECKING:
    from torch import Tensor, nn

FILE = "model.safetensors"
"""Its name in a training's folder."""

Channels = tuple[float, ...]


@dataclass(frozen=True)
class About:
    """What stands in the file beside the weights.

    Attributes:
        config: as it was trained; its image size is that of the images that the model takes, in pixels, or of a
            language model the tokens of a sequence.
        mean, std: by which the channels of pixel values in 0 to 1 were normalised. These, and what follows, are of
            images alone.
        interpolation: name of the filter that resized the images.
        classes: the name of each output, in order.
        squash: whether images became square whatever their shape; if not, their centre was taken.
    """

    config: Config
    mean: Channels = ()
    std: Channels = ()
    interpolation: str = ""
    classes: tuple[str, ...] = ()
    squash: bool = False

    @property
    def as_timm(self) -> bool:
        """Whether a plain timm model computes the same with these weights."""
        return self.config.how.at_inference is None

    def to_metadata(self) -> dict[str, str]:
        """The metadata of the file."""
        return {
            "format": "pt",
            "bsr_explorer": __version__,
            "loads_with": "timm" if self.as_timm else "bsr_explorer.load",
            "model": timm_name(self.config.model),
            "method": str(self.config.method),
            "image_size": str(self.config.image_size),
            "num_classes": str(self.config.num_classes),
            "mean": json.dumps(self.mean),
            "std": json.dumps(self.std),
            "interpolation": self.interpolation,
            "squash": json.dumps(self.squash),
            "classes": json.dumps(self.classes),
            "config": json.dumps(self.config.to_dict()),
        }

    @classmethod
    def from_metadata(cls, values: dict[str, str]) -> About:
        """What stands in the metadata of a file.

        Raises:
            KeyError: something is missing.
            ValueError: something cannot be read, or is of a later version.
        """
        return cls(
            Config.from_dict(json.loads(values["config"])),
            tuple(json.loads(values["mean"])),
            tuple(json.loads(values["std"])),
            values["interpolation"],
            tuple(json.loads(values["classes"])),
            json.loads(values.get("squash", "false")),  # which no file of before had
        )


def check(config: Config) -> None:
    """Refuse, before anything is trained, what could not be kept afterwards.

    Raises:
        UserError: weights that train and that the model which is left has not, or the other way round.
    """
    last = config.how.phases()[-1].method
    mine, left = _on_paper(config.with_method(last)), _on_paper(at_inference(config))
    merged = last.merge(dict(mine.state_dict()))
    shapes = {name: tensor.shape for name, tensor in merged.items()}
    parameters = {name for name, _ in mine.named_parameters()}
    lost = [name for name in merged if name in parameters and name not in left.state_dict()]
    strange = [name for name, tensor in left.state_dict().items() if shapes.get(name) != tensor.shape]
    if lost or strange:
        what = config.how.at_inference or "plain timm"
        raise UserError(
            f"--method: what {config.method} trains cannot be saved: {(lost or strange)[0]} "
            f"{'is not' if lost else 'is another'} in the model that is left ({what}); leave the method out, or let "
            "its at_inference say what is left of it"
        )


def _on_paper(config: Config) -> nn.Module:
    """The model of a configuration, without memory."""
    from bsr_explorer.models.paper import on_paper

    with on_paper():
        return config.how.apply(build_model(config.model, config.image_size, config.num_classes))


def save(path: Path, model: nn.Module, about: About) -> None:
    """Write a trained model's weights, whole or not at all.

    They are those of the model that is left (most often plain timm): what a method keeps beside them for backward is
    left out. ``check`` said before training that they are there.
    """
    trained = about.config.how.phases()[-1].method.merge(dict(model.state_dict()))
    names = _on_paper(at_inference(about.config)).state_dict()
    write_tensors(path, {name: trained[name] for name in names}, about.to_metadata())


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    """Write a safetensors file, whole or not at all; the same tensors give the same bytes."""
    import torch
    from safetensors.torch import save as to_bytes

    state = {  # copies, for tensors that share memory are refused
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }
    content = memoryview(to_bytes(state, metadata))
    first = 8 + int.from_bytes(content[:8], "little")
    with whole(path) as file:
        file.write(_sorted(bytes(content[8:first])))
        file.write(content[first:])


def _sorted(header: bytes) -> bytes:
    """The header of a safetensors file, after its length, in one order: the library's changes from process to process.

    The places of tensors in it count from its end.
    """
    values = json.loads(header)
    about = {"__metadata__": dict(sorted(values.pop("__metadata__").items()))}
    text = json.dumps({**about, **values}, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors are aligned
    return len(text).to_bytes(8, "little") + text


def read_about(path: Path | str) -> About:
    """What is known of the weights in a file, or in the file of a training's folder.

    Raises:
        UserError: there is none, it cannot be read, or it was not written by ``bsr-explore train``.
    """
    from safetensors import SafetensorError, safe_open

    file = _file(path)
    try:
        with safe_open(file, "pt") as opened:
            values = opened.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise UserError(f"{file}: cannot be read as a safetensors file ({error})") from None
    if "bsr_explorer" not in values:
        raise UserError(f"{file}: not written by `bsr-explore train`; load it with timm instead")
    try:
        return About.from_metadata(values)
    except (KeyError, ValueError) as error:
        raise UserError(
            f"{file}: written by bsr-explorer {values['bsr_explorer']}, and not understood by {__version__} ({error})"
        ) from None


def load(path: Path | str) -> nn.Module:
    """A trained model, ready to be used: what is left of its method when training is over is applied.

    Args:
        path: the folder of a training, or its ``model.safetensors``.

    Returns:
        In evaluation mode, on the CPU, in the number format of its weights. Takes normalised images (B, 3, S, S) of
        the size that it was trained at, and gives logits (B, classes); see ``read_about``.

    Raises:
        UserError: there is no such file, it cannot be read, or it was not written by ``bsr-explore train``.
    """
    from safetensors.torch import load_file

    from bsr_explorer.finetune.build import build
    from bsr_explorer.train.step import in_precision

    config = at_inference(read_about(path).config)
    model = in_precision(build(config), config.precision)
    model.load_state_dict(load_file(_file(path)))
    return model.eval()


def at_inference(config: Config) -> Config:
    """What is left of a configuration when training is over, on the CPU."""
    left = config.how.at_inference or Full()
    # Kernels that are called by name are for CUDA; they compute the same as the one that torch picks.
    attention = "math" if config.attention == "math" else "fused"
    return replace(config, method=left, attention=attention, device="cpu", gpu=None)


def _file(path: Path | str) -> Path:
    path = Path(path)
    file = path / FILE if path.is_dir() else path
    if not file.is_file():
        raise UserError(
            f"{path}: there is no {FILE}; give the folder of a finished `bsr-explore train`, or the file"
        )
    return file
