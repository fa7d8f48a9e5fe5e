"""Vision transformers of Hugging Face's ``transformers``, from a configuration, with random weights."""

from __future__ import annotations

import pytest
from torch import nn

from bsr_explorer.config import Config
from bsr_explorer.errors import UserError
from bsr_explorer.finetune.measure import measure
from bsr_explorer.models.architecture import geometry
from bsr_explorer.models.traced.architecture import TracedGeometry
from bsr_explorer.prediction import predict
from tests.models.traced.test_tape import sums

pytest.importorskip("transformers")

MODEL = "tests.models.traced.test_hugging_face:vit"


def vit(num_classes: int, image_size: int, attention: str = "sdpa") -> nn.Module:
    """A small one."""
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=64,
        image_size=image_size,
        patch_size=8,
        num_labels=num_classes,
        attn_implementation=attention,
    )
    made: nn.Module = ViTForImageClassification(config)
    return made


def test_its_blocks_and_its_head_are_found() -> None:
    found = geometry(MODEL, 32, 7)
    assert isinstance(found, TracedGeometry) and found.depth == 3
    assert [path.rpartition(".")[2] for path in found.naming.paths] == ["0", "1", "2"]
    assert found.naming.head == ("classifier.",) and found.naming.final_norm == ("vit.layernorm.",)


@pytest.mark.parametrize("precision", ["fp32", "amp_bf16"])
@pytest.mark.parametrize("method", ["full", "linear", "last(k=1)", "bitfit", "blocks(0)", "full+checkpoint"])
def test_a_step_is_predicted_to_the_byte(method: str, precision: str) -> None:
    config = Config(MODEL, 32, 7, 2, method=method, precision=precision)
    assert sums(predict(config)) == sums(measure(config))


def test_so_is_explicit_attention() -> None:
    config = Config(f'{MODEL}(attention="eager")', 32, 7, 2, method="full")
    assert sums(predict(config)) == sums(measure(config))


def test_what_needs_timms_names_is_refused_by_name() -> None:
    with pytest.raises(UserError, match="--m"):
        predict(Config(MODEL, 32, 7, 2, method="lora"))
