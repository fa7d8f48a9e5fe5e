"""Methods that change how tensors are stored: what composes, what is refused, what is shared."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bsr_explorer.config import Config
from bsr_explorer.errors import UserError
from bsr_explorer.finetune.build import build
from bsr_explorer.finetune.measure import measure
from bsr_explorer.methods import parse_method
from bsr_explorer.methods.storing import PLACES, Storing
from bsr_explorer.models.architecture import ARCHITECTURES
from bsr_explorer.models.vit.architecture import PlainViT
from bsr_explorer.prediction import predict, tape_of
from bsr_explorer.storages import Packing, Rebuilt

pytestmark = pytest.mark.usefixtures("toy")

CONFIG = Config("toy", image_size=48, batch_size=2, method="full")
BSR = "bsr(blocks=(1, 3), keep={1: 0.5, 2: 0.5}, fuse=True)"
STORING = ("mesa", "mesa(faithful=False)", "backrazor(ratio=0.8)", "backrazor(faithful=False)")
every_storing = pytest.mark.parametrize("storing", STORING)


class Other(PlainViT):
    """An architecture whose blocks cannot pack."""

    name = "other"
    packs = False


@every_storing
def test_blocks_that_cannot_pack_are_refused(storing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ARCHITECTURES, "other", Other())
    with pytest.raises(UserError, match=r"the architecture other cannot; .* or choose checkpoint"):
        parse_method(storing).rewrite(replace(tape_of(CONFIG), architecture="other"))


@every_storing
@pytest.mark.parametrize(
    ("other", "attention"),
    [
        ("", "fused"),
        (f"{BSR}+", "math"),
        ("checkpoint(blocks=(1, 2))+", "fused"),
        ("offload+bitfit+", "fused"),
    ],
)
def test_what_is_predicted_is_measured(storing: str, other: str, attention: str) -> None:
    config = replace(CONFIG, method=other + storing, attention=attention)
    predicted, measured = predict(config), measure(config)
    assert (predicted - measured).rows == ()
    assert predicted.peak_bytes == pytest.approx(measured.peak_bytes, rel=1e-4)


@pytest.mark.thorough
@every_storing
@pytest.mark.parametrize("precision", ["amp_bf16", "amp_fp16", "bf16"])
def test_in_every_number_format(storing: str, precision: str) -> None:
    config = replace(CONFIG, method=f"{BSR}+{storing}", precision=precision)
    predicted, measured = predict(config), measure(config)
    assert (predicted - measured).rows == ()
    assert predicted.peak_bytes == pytest.approx(measured.peak_bytes, rel=1e-3)


@every_storing
def test_less_is_saved_than_without(storing: str) -> None:
    for other in ("full", BSR):
        plain = predict(replace(CONFIG, method=other, attention="math"))
        packed = predict(replace(CONFIG, method=f"{other}+{storing}", attention="math"))
        assert packed.saved_bytes < plain.saved_bytes / 2


@pytest.mark.parametrize("method", ["mesa", "backrazor"])
def test_our_variant_takes_less_than_the_published_one(method: str) -> None:
    for precision in ("fp32", "amp_bf16"):
        published, ours = (
            predict(
                replace(
                    CONFIG, model="deit_s", image_size=112, batch_size=16, method=text, precision=precision
                )
            )
            for text in (method, f"{method}(faithful=False)")
        )
        assert ours.saved_bytes < published.saved_bytes * 0.8
        assert ours.peak_bytes < published.peak_bytes


def test_two_of_them_are_refused() -> None:
    with pytest.raises(UserError, match=r"both choose how tensors are stored; keep one"):
        parse_method("mesa+backrazor")


@every_storing
@pytest.mark.parametrize("other", ["linear", "bsr(blocks=(), keep={})"])
def test_where_the_blocks_keep_nothing_they_are_refused(storing: str, other: str) -> None:
    for refusing in (predict, build):
        with pytest.raises(UserError, match="has nothing to store: nothing in a block trains"):
            refusing(CONFIG.with_method(f"{other}+{storing}"))


def test_a_kernel_that_they_cannot_run_is_refused() -> None:
    config = replace(
        CONFIG, method="mesa(faithful=False)", attention="cudnn", device="cuda", precision="bf16"
    )
    with pytest.raises(UserError, match="cannot run cudnn's kernel; choose fused"):
        predict(config)
    predict(replace(config, method="mesa"))  # which has an explicit softmax whatever is said


def test_what_torch_would_give_to_cudnn_runs_as_flash_attention() -> None:
    config = replace(CONFIG, method="mesa(faithful=False)", device="cuda", gpu="h100", precision="amp_bf16")
    assert {op.attrs["path"] for op in tape_of(config) if op.kind == "attention"} == {"flash"}
    plain = replace(config, method="full")
    assert {op.attrs["path"] for op in tape_of(plain) if op.kind == "attention"} == {"cudnn"}


@pytest.mark.parametrize("attention", ["fused", "math"])
def test_the_published_ones_have_an_explicit_softmax(attention: str) -> None:
    tape = tape_of(replace(CONFIG, method="mesa", attention=attention))
    assert {op.attrs["path"] for op in tape if op.kind == "attention"} == {"math"}
    ours = tape_of(replace(CONFIG, method="mesa(faithful=False)", attention=attention))
    assert {op.attrs["path"] for op in ours if op.kind == "attention"} == {attention}


@every_storing
def test_what_stands_outside_the_blocks_is_left_alone(storing: str) -> None:
    assert not any(op.packs for op in tape_of(CONFIG.with_method(storing)) if op.block is None)


@every_storing
def test_every_place_is_known(storing: str) -> None:
    method = parse_method(storing)
    assert isinstance(method, Storing)
    for place in PLACES:
        assert isinstance(method.stores(place, 3, 12), Packing | Rebuilt | None)


@every_storing
def test_buffers_are_those_of_the_model(storing: str) -> None:
    tape, net = tape_of(CONFIG.with_method(storing)), build(CONFIG.with_method(storing))
    assert {name: b.shape for name, b in tape.buffers.items()} == {
        n: tuple(b.shape) for n, b in net.named_buffers()
    }


def test_a_tensor_is_stored_once() -> None:
    """The residual stream's and the hidden layer's other uses are computed again from it."""
    rows = [
        row
        for row in predict(CONFIG.with_method("mesa(faithful=False)"))
        if row.block == 0 and row.kind == "saved"
    ]
    assert {row.operation for row in rows if row.bytes} == {
        "blocks.0.norm1",
        "blocks.0.attn",
        "blocks.0.attn.proj",
        "blocks.0.norm2",
        "blocks.0.mlp.act",
    }
