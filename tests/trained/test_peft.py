"""The updates of a LoRA in PEFT's names: what stands in the files is what was trained."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import bsr_explorer as bx
from bsr_explorer.config import Config, Fidelity
from bsr_explorer.finetune.build import build
from bsr_explorer.finetune.watch import Nobody
from bsr_explorer.store.experiment import Experiment
from bsr_explorer.trained import peft
from bsr_explorer.trained.training import Training, train

pytestmark = pytest.mark.usefixtures("toy")

CONFIG = Config("toy", 48, 5, 2, method="lora(r=2, on=('qkv', 'proj'), alpha=6)+checkpoint")


def written(
    config: Config, folder: Path
) -> tuple[torch.nn.Module, dict[str, torch.Tensor], dict[str, object]]:
    """A model whose updates are not zero, and the files' content."""
    model = build(config, seed=1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name or name.startswith("head."):
                parameter.normal_()
    assert peft.save(folder, model, config)
    tensors = load_file(folder / "peft" / "adapter_model.safetensors")
    return model, tensors, json.loads((folder / "peft" / "adapter_config.json").read_text())


@pytest.mark.parametrize("name", ["lora", "lora_fa"])
def test_a_plain_model_with_the_updates_computes_what_was_trained(name: str, tmp_path: Path) -> None:
    """By PEFT's own rule: W + lora_alpha/r · B·A of each module that its expression matches whole."""
    config = replace(CONFIG, method=str(CONFIG.method).replace("lora(", f"{name}("))
    model, tensors, about = written(config, tmp_path)
    plain = build(config.with_method("full"), seed=1)
    state = plain.state_dict()
    matched = [n for n, _ in plain.named_modules() if re.fullmatch(str(about["target_modules"]), n)]
    assert matched == [f"blocks.{block}.attn.{layer}" for block in range(4) for layer in ("qkv", "proj")]
    for module in matched:
        a, b = (tensors.pop(f"base_model.model.{module}.lora_{part}.weight") for part in "AB")
        state[f"{module}.weight"] += float(str(about["lora_alpha"])) / int(str(about["r"])) * b @ a
    assert about["modules_to_save"] == ["head"]
    for part in ("weight", "bias"):
        state[f"head.{part}"] = tensors.pop(f"base_model.model.head.{part}")
    assert not tensors
    plain.load_state_dict(state)
    images = torch.randn(2, 3, 48, 48)
    with torch.no_grad():
        torch.testing.assert_close(plain.eval()(images), model.eval()(images), rtol=1e-5, atol=1e-5)


def test_what_is_no_lora_leaves_nothing(tmp_path: Path) -> None:
    written(CONFIG, tmp_path)
    other = CONFIG.with_method("ia3")
    assert not peft.save(tmp_path, build(other), other)
    assert not (tmp_path / "peft").exists()


@pytest.mark.thorough
def test_a_training_leaves_them_beside_its_weights(tmp_path: Path) -> None:
    fidelity = Fidelity(image_size=32, train_size=20, val_size=20, epochs=1, recipe="standard", views=1)
    config = Config("toy", 48, batch_size=4, method="lora(r=2)")
    asked = Training(
        Experiment("mine", config, weights="random", fidelity=fidelity, seed=5), tmp_path / "mine", tmp_path
    )
    record, _ = train(asked, lambda *said: None, Nobody())
    assert record.status == "finished", record.reason
    tensors = load_file(tmp_path / "mine" / "peft" / "adapter_model.safetensors")
    assert len(tensors) == 4 * 2 + 2
    loaded = bx.load(tmp_path / "mine").state_dict()
    for part in ("weight", "bias"):
        assert torch.equal(loaded[f"head.{part}"], tensors[f"base_model.model.head.{part}"])
