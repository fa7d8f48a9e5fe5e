"""Token Merging: its argument, what it costs beside other methods, what it is recorded as, and that it goes on."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bsr_explorer.config import Config
from bsr_explorer.errors import UserError
from bsr_explorer.finetune.build import build
from bsr_explorer.finetune.measure import measure
from bsr_explorer.methods import Full, Tome, parse_method
from bsr_explorer.prediction import predict, tape_of, tokens_by_block
from bsr_explorer.prefix.stages import stages_of
from tests.methods.interrupted import check_it_goes_on


def test_it_is_written_as_it_is_read() -> None:
    assert str(Tome()) == "tome(r=8)"
    assert parse_method("tome(13)") == Tome(13)
    assert str(Tome(4, proportional=True)) == "tome(r=4, proportional=True)"
    assert parse_method("tome(r=4, proportional=True)") == Tome(4, True)


@pytest.mark.parametrize("r", ["-1", "1.0", "True", "'8'", "None"])
def test_other_numbers_are_refused(r: str) -> None:
    with pytest.raises(UserError, match=r"tome\(r=.*r must be a whole number of at least 0"):
        parse_method(f"tome(r={r})")


@pytest.mark.parametrize("r", [36, 200])
def test_a_number_that_leaves_no_token_is_refused(r: int) -> None:
    config = Config("deit_t", 96, 10, 1, method=Tome(r))
    for ask in (predict, build):
        with pytest.raises(
            UserError, match=rf"tome\(r={r}\) would leave none of the 36 .* choose r below 36"
        ):
            ask(config)


def test_merging_nothing_is_exact() -> None:
    config = Config("deit_t", 64, 10, 2, method="full+tome(r=0)")
    full = config.with_method("full")
    assert config.key(12) == full.key(12)
    assert tape_of(config).ops == tape_of(full).ops
    images = torch.randn(2, 3, 64, 64)
    assert torch.equal(build(config, seed=1)(images), build(full, seed=1)(images))
    assert Tome(0).canonical(12) == Full()
    assert Tome(0).at_inference is None


@pytest.mark.parametrize("r", [1, 8, 13, 35])
def test_the_model_has_the_tokens_that_the_tape_says(r: int) -> None:
    config = Config("deit_t", 96, 10, 1, method=Tome(r))
    model, seen = build(config), []
    for block in model.blocks:  # type: ignore[union-attr]
        block.register_forward_hook(lambda module, args, out: seen.append(out.shape[1]))
    model(torch.randn(1, 3, 96, 96))
    assert seen == [leave for _, leave in tokens_by_block(config).values()]
    assert seen[:3] == (
        [36, 35, 34] if r == 1 else [29, 21, 13] if r == 8 else [24, 13, 7] if r == 13 else [19, 10, 6]
    )


@pytest.mark.thorough  # models of their full depth
@pytest.mark.parametrize("model", ["deit_t", "vit_wee_patch16_reg1_gap_256", "vit_small_patch14_reg4_dinov2"])
@pytest.mark.parametrize(
    ("attention", "precision"),
    [("fused", "fp32"), ("math", "amp_bf16"), ("fused", "amp_fp16"), ("math", "bf16")],
)
def test_what_is_predicted_is_measured(model: str, attention: str, precision: str) -> None:
    batch, size = 1 + (attention == "fused"), 56 if "14" in model else 64
    config = Config(
        model, size, 10, batch, attention=attention, precision=precision, method="last(k=9)+tome(r=2)"
    )
    difference = predict(config) - measure(config)
    assert (difference.rows, difference.peak_bytes) == ((), 0)


@pytest.mark.thorough
@pytest.mark.parametrize(
    "beside",
    [
        "checkpoint",
        "checkpoint(blocks=(0, 3))+offload",
        "mesa",
        "ia3",
        "vpt(tokens=3)",
        "vpt(deep=True)",
        "blocks(3, 7)",
        "lora+approxbp+msln",
        "last(k=4)+checkpoint(blocks=(9, 10, 11))",
    ],
)
def test_it_goes_with_other_methods(beside: str) -> None:
    config = Config("deit_t", 64, 10, 2, method=f"{beside}+tome(r=1)")
    difference = predict(config) - measure(config)
    assert (difference.rows, difference.peak_bytes) == ((), 0)


@pytest.mark.thorough
@pytest.mark.parametrize("more", ["", "+checkpoint", "+checkpoint+offload", "+offload"])
@pytest.mark.parametrize(("batch", "precision"), [(1, "amp_fp16"), (5, "bf16"), (5, "fp32")])
def test_where_one_patch_is_left_no_sizes_go_on(more: str, batch: int, precision: str) -> None:
    config = Config("deit_t", 64, 10, batch, precision=precision, method=f"lora(r=1)+tome(r=5){more}")
    assert tokens_by_block(config)[11] == (2, 2)
    difference = predict(config) - measure(config)
    assert (difference.rows, difference.peak_bytes) == ((), 0)


# --- attention in proportion to sizes ---------------------------------------------------------------------


@pytest.mark.usefixtures("toy")
@pytest.mark.parametrize("attention", ["fused", "math"])
@pytest.mark.parametrize(("precision", "batch"), [("fp32", 2), ("amp_bf16", 1), ("amp_fp16", 2), ("bf16", 1)])
@pytest.mark.parametrize(
    "method",
    [
        "full+tome(r=1, proportional=True)",
        "full+tome(r=5, proportional=True)+offload",
        "last(k=2)+tome(r=2, proportional=True)",
        "lora(r=2)+tome(r=2, proportional=True)+checkpoint",
        "linear+tome(r=2, proportional=True)",
    ],
)
def test_proportional_attention_is_predicted_as_it_is_measured(
    method: str, precision: str, batch: int, attention: str
) -> None:
    config = Config("toy", 64, 5, batch, precision=precision, attention=attention, method=method)
    difference = predict(config) - measure(config)
    assert (difference.rows, difference.peak_bytes) == ((), 0)


def test_a_fused_kernel_keeps_what_is_added_and_an_explicit_softmax_does_not() -> None:
    for attention, more in (("fused", True), ("math", False)):
        config = Config("deit_t", 64, 10, 2, attention=attention, method="full+tome(r=1)")
        plain = predict(config).saved_bytes
        proportional = predict(config.with_method("full+tome(r=1, proportional=True)")).saved_bytes
        assert proportional - plain == more * 2 * 4 * sum(17 - block for block in range(1, 12))


@pytest.mark.parametrize(
    ("method", "more", "says"),
    [
        ("full+tome(r=1, proportional=True)+mesa", {}, "cannot pack what it keeps; leave tome"),
        (
            "full+tome(r=1, proportional=True)",
            {"device": "cuda"},
            "--attention: fused: .*a padded copy, which is not followed; choose math, or leave proportional out",
        ),
        ("tome(r=1, proportional=1)", {}, "proportional must be True or False"),
    ],
)
def test_where_it_is_not_exact_it_is_refused(method: str, more: dict[str, str], says: str) -> None:
    with pytest.raises(UserError, match=says):
        predict(Config("deit_t", 64, 10, 2, method=method, **more))  # type: ignore[arg-type]


def test_with_an_explicit_softmax_it_goes_on_cuda() -> None:
    config = Config("deit_t", 64, 10, 2, device="cuda", attention="math")
    assert predict(config.with_method("full+tome(r=1, proportional=True)")).peak_bytes > 0


def test_it_is_the_only_one_that_decides_which_tokens_stay() -> None:
    for other in ("bsr", "drop", "evit"):
        with pytest.raises(UserError, match="both choose which tokens stay"):
            parse_method(f"{other}+tome")


def test_what_trains_beside_it_is_recorded_in_one_way() -> None:
    known = [Config("deit_t", 64, method=f"{text}+tome") for text in ("last(k=2)", "blocks(10, 11)")]
    assert known[0].key(12) == known[1].key(12)
    canonical = known[0].how.canonical(12)
    assert str(canonical) == "blocks(10, 11)+tome(r=8)"
    assert canonical.canonical(12) == canonical
    assert predict(known[0].with_method(canonical)).rows == predict(known[0]).rows


def test_sizes_go_on_beside_the_tokens_so_that_no_block_is_cached() -> None:
    config = Config("deit_t", 64, method="last(k=2)+tome(r=1)")
    assert not any(stage.frozen for stage in stages_of(config)[1:9])


def test_it_takes_less_than_all_tokens_do() -> None:
    config = Config("deit_s", batch_size=4, method="full")
    full, merged = (predict(config.with_method(text)) for text in ("full", "full+tome(r=13)"))
    assert merged.peak_bytes < full.peak_bytes
    assert merged.saved_bytes < 0.7 * full.saved_bytes
    assert merged.train_flops < 0.7 * full.train_flops


@pytest.mark.usefixtures("toy")
@pytest.mark.parametrize("how", ["", ", proportional=True"])
@pytest.mark.parametrize("more", ["", "+checkpoint"])
def test_a_training_that_is_interrupted_goes_on_to_the_last_bit(more: str, how: str, tmp_path: Path) -> None:
    check_it_goes_on(f"last(k=3)+tome(r=1{how}){more}", tmp_path, epochs=2, after=(1, 7))
