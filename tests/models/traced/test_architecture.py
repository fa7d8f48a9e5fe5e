"""Which models are traced, and how they are built."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from bsr_explorer.config import Config
from bsr_explorer.errors import UserError
from bsr_explorer.finetune.build import build
from bsr_explorer.models.architecture import ARCHITECTURES, architecture_of, geometry
from bsr_explorer.naming import blocks_of, naming_of
from bsr_explorer.prediction import predict


@pytest.mark.parametrize(
    ("model", "architecture"),
    [
        ("deit_s", "vit"),
        ("vit_small_patch14_reg4_dinov2", "vit"),
        ("swin_tiny_patch4_window7_224", "traced"),
        ("resnet18.a1_in1k", "traced"),
        ("eva02_tiny_patch14_224", "traced"),
        ("no_such_model", "vit"),
    ],
)
def test_what_has_no_tape_by_hand_is_traced(model: str, architecture: str) -> None:
    assert architecture_of(model) is ARCHITECTURES[architecture]


def test_a_built_model_knows_its_blocks() -> None:
    model = build(Config("convnext_atto", 32, 10, 2, method="last(k=1)"))
    assert len(blocks_of(model)) == geometry("convnext_atto", 32).depth == 12
    trains = {name.split(".")[0] for name, p in model.named_parameters() if p.requires_grad}
    assert trains == {"stages", "head"}
    assert {naming_of(model).block_of(n) for n, p in model.named_parameters() if p.requires_grad} == {
        11,
        None,
    }


@pytest.mark.parametrize(("size", "why"), [(0, "--image-size: 0"), (16, "Kernel size can't be greater")])
def test_images_that_a_model_does_not_take_are_refused(size: int, why: str) -> None:
    with pytest.raises(UserError, match=why):
        predict(Config("mixer_s32_224", size, 10, 2, method="full"))


@pytest.mark.parametrize("method", ["full+mesa", "full+tome", "bsr(keep={3: 0.5})", "vpt"])
def test_what_needs_more_than_a_trace_is_refused_by_name(method: str) -> None:
    with pytest.raises(UserError, match="--m"):
        predict(Config("resnet18", 32, 10, 2, method=method))


GPU: dict[str, Any] = {"device": "cuda", "gpu": "h100"}


def test_a_step_on_a_gpu_is_not_guessed() -> None:
    config = Config("convnext_atto", 32, 10, 2, method="full", **GPU)
    with pytest.raises(UserError, match=r"--device, --gpu: of a traced model nobody knows .*--unknown bound"):
        predict(config)
    bound = predict(replace(config, unknown="bound"))
    assert bound.at_least == {"peak_bytes", "reserved_bytes", "device_bytes"}
    (kernels,) = bound.unknown
    assert kernels.operation == "kernels of CUDA" and "not checked on a device" in kernels.why
    on_cpu = predict(Config("convnext_atto", 32, 10, 2, method="full"))
    assert (bound.saved_bytes, bound.train_flops) == (on_cpu.saved_bytes, on_cpu.train_flops)


@pytest.mark.parametrize(
    ("model", "precision", "why"),
    [
        ("resnet18", "fp32", "bn1 calls batch_norm, which cuDNN runs"),
        ("convnext_atto", "amp_bf16", "--precision: torch leaves autocast off where there is no GPU"),
    ],
)
def test_what_needs_a_gpu_to_be_known_is_refused_by_name(model: str, precision: str, why: str) -> None:
    with pytest.raises(UserError, match=why):
        predict(Config(model, 32, 10, 2, method="full", precision=precision, unknown="bound", **GPU))
