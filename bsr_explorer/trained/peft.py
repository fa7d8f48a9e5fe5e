"""The updates of a LoRA as PEFT keeps them: what ``PeftModel.from_pretrained`` loads onto the timm model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bsr_explorer.config import Config
from bsr_explorer.files import whole
from bsr_explorer.methods import Dora, Lora
from bsr_explorer.methods.adding import LAYERS
from bsr_explorer.methods.composed import parts_of
from bsr_explorer.naming import naming_of
from bsr_explorer.trained.weights import write_tensors

if TYPE_CHECKING:
    from torch import nn

FOLDER = "peft"
"""Its name in a training's folder; the files in it have the names that PEFT looks for."""

PREFIX = "base_model.model."
"""What PEFT's names of parameters begin with."""


def save(folder: Path, model: nn.Module, config: Config) -> bool:
    """Write a trained model's updates and head, if it was trained by a LoRA; what lies there is removed.

    Args:
        folder: of the training.
        model: as it was trained, with its updates beside the weights.

    Returns:
        Whether there is something.
    """
    there = folder / FOLDER
    shutil.rmtree(there, ignore_errors=True)
    lora = next((part for part in parts_of(config.how.phases()[-1].method) if isinstance(part, Lora)), None)
    if lora is None:
        return False
    naming = naming_of(model)
    kept = {name: p for name, p in model.named_parameters() if lora.brings(name) or naming.is_head(name)}
    there.mkdir(parents=True)
    tensors = {f"{PREFIX}{name}": p for name, p in kept.items()}
    write_tensors(there / "adapter_model.safetensors", tensors, {"format": "pt"})
    heads = [prefix.removesuffix(".") for prefix in naming.head]
    with whole(there / "adapter_config.json") as file:
        file.write(json.dumps(about(lora, naming.blocks, heads), indent=2, sort_keys=True).encode() + b"\n")
    return True


def about(lora: Lora, blocks: str, heads: list[str]) -> dict[str, Any]:
    """What PEFT has to know of the updates.

    Args:
        blocks: module path of the list of blocks.
        heads: module paths of the classification head.
    """
    layers = "|".join(LAYERS[name].replace(".", r"\.") for name in lora.on)
    return {
        "peft_type": "LORA",
        "r": lora.r,
        "lora_alpha": lora.alpha,
        "lora_dropout": 0.0,
        "use_dora": isinstance(lora, Dora),
        "bias": "none",
        "target_modules": rf"{blocks}\.\d+\.({layers})",  # by their whole paths: patch_embed has a proj, too
        "modules_to_save": heads,
        "inference_mode": True,
    }
