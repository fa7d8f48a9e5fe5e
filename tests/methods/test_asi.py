"""ASI's arguments, what it keeps, what it refuses, and a training that is interrupted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bsr_explorer.config import Config, Fidelity
from bsr_explorer.errors import UserError
from bsr_explorer.finetune.build import build
from bsr_explorer.finetune.run import fine_tune
from bsr_explorer.methods import Asi, parse_method
from bsr_explorer.models.vit.geometry import KNOWN
from bsr_explorer.prediction import predict, tape_of
from bsr_explorer.storages import Tucker
from tests.methods.interrupted import check_it_goes_on

TOY = Config("toy", 48, 5, 2, method="full")


def test_it_is_written_as_it_is_read() -> None:
    assert str(Asi()) == "asi(ranks=(0.5, 0.125, 0.125))"
    assert str(Asi("fc2", (8, 16, 0.5))) == "asi(on=('fc2',), ranks=(8, 16, 0.5))"  # type: ignore[arg-type]
    assert parse_method("asi(ranks=[1, 1.0, 2], on='fc2')") == Asi(("fc2",), (1, 1.0, 2))
    assert parse_method("asi(ranks=(1, 1, 1))") != parse_method("asi(ranks=(1.0, 1.0, 1.0))")


def test_a_dictionary_names_the_layers() -> None:
    method = parse_method("asi(ranks={'11.fc2': (1, 2, 2), 'fc2': (8, 16, 32), '3.fc1': (4, 8, 16)})")
    expected = "asi(on=('fc1', 'fc2'), ranks={'fc2': (8, 16, 32), '3.fc1': (4, 8, 16), '11.fc2': (1, 2, 2)})"
    assert str(method) == expected
    assert parse_method(expected) == method
    assert isinstance(method, Asi)
    assert method.stores_at(2, "mlp.fc1", "normed", 3, 384) is None
    assert method.stores_at(3, "mlp.fc1", "normed", 3, 384) == Tucker((4, 8, 16))
    assert method.stores_at(3, "mlp.act", "hidden", 3, 1536) is None


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("asi(ranks=8)", r"asi\(ranks=8\): there must be three ranks, of images, tokens and channels"),
        ("asi(ranks=(8, 8))", "there must be three ranks"),
        ("asi(ranks=(0, 8, 8))", "a whole number of at least 1 or a share above 0.0 and at most 1.0"),
        ("asi(ranks=(1.5, 8, 8))", "there must be three ranks"),
        ("asi(ranks=(True, 8, 8))", "there must be three ranks"),
        (
            "asi(ranks={'fc2': (8, 'all', 8)})",
            r"asi\(ranks=\{'fc2': \(8, 'all', 8\)\}\): there must be three",
        ),
        ("asi(ranks={'head': (8, 8, 8)})", "unknown value 'head'.*qkv"),
        ("asi(ranks={'last.fc2': (8, 8, 8)})", r"'last.fc2' must be a layer, such as 'fc2', or a block"),
        ("asi(ranks={})", r"asi\(ranks=\{\}\): no layer is named"),
        ("asi(ranks={'fc1': (8, 8, 8)}, on='proj')", "ranks names other layers, fc1; leave on out"),
        ("asi(on='head')", "unknown .*'head'.*qkv"),
    ],
)
def test_other_arguments_are_refused(text: str, says: str) -> None:
    with pytest.raises(UserError, match=says) as refused:
        parse_method(text)
    assert "\n" not in str(refused.value)


@pytest.mark.usefixtures("toy")
@pytest.mark.parametrize(
    ("ranks", "says"),
    [
        (
            "(3, 2, 2)",
            "blocks.0.attn.qkv reads 2 images x 10 tokens x 32 channels, so the rank of images must be 1 to 2",
        ),
        ("(2, 11, 8)", "so the rank of tokens must be 1 to 10"),
        ("(2, 10, 64)", "so the rank of channels must be 1 to 20"),
        (
            "(2, 2, 5)",
            "and the product of the other two ranks is 4, so the rank of channels must be 1 to 4, or a share",
        ),
        ("{'3.qkv': (2, 2, 5)}", "blocks.3.attn.qkv reads"),
        ("{'4.qkv': (2, 2, 2)}", "'4.qkv' names no block; the model has 4 blocks, 0 to 3"),
    ],
)
def test_ranks_that_an_input_does_not_have_are_refused(ranks: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        predict(TOY.with_method(f"asi(ranks={ranks})"))


@pytest.mark.usefixtures("toy")
def test_after_a_drop_there_are_fewer_tokens_and_shares_follow() -> None:
    drops = "bsr(blocks=(0, 1, 2, 3), keep={1: 0.3})"
    with pytest.raises(
        UserError, match=r"blocks.1.mlp.fc2 reads 2 images x 5 tokens .* tokens must be 1 to 5"
    ):
        predict(TOY.with_method(f"{drops}+asi(ranks=(2, 8, 8))"))
    tape = tape_of(TOY.with_method(f"{drops}+asi(ranks=(1.0, 0.5, 0.5))"))
    held = {name: buffer.numel for name, buffer in tape.buffers.items()}
    assert held["blocks.0.mlp.fc2.kept_activated.running"] > held["blocks.2.mlp.fc2.kept_activated.running"]


def test_what_it_costs_follows_from_more_than_a_block() -> None:
    """What a search lays out block by block does not know how many tokens a block remembers."""
    assert not Asi().by_block
    assert [len(axis) for axis in Asi.axes(KNOWN["deit_small_patch16_224"])] == [3, 1]


def test_bytes_in_closed_form() -> None:
    """DeiT-S: of inputs of qkv and fc2 a core and three bases; the bases once more, for the next step."""
    batch, tokens, width = 32, 197, 384
    config = Config("deit_s", batch_size=batch)
    full, asi = (predict(config.with_method(text)) for text in ("full", "asi(ranks=(8, 16, 32))"))
    bases = [batch * 8 + tokens * 16 + inner * 32 for inner in (width, 4 * width)]
    kept = sum(8 * 16 * 32 + of_layer for of_layer in bases)
    assert full.saved_bytes - asi.saved_bytes == 12 * 4 * (batch * tokens * 5 * width - kept)

    def parameters(ledger: object) -> int:
        return sum(row.bytes for row in ledger.rows if row.kind == "parameter")  # type: ignore[attr-defined]

    assert parameters(asi) - parameters(full) == 12 * 4 * sum(bases)


@pytest.mark.usefixtures("toy")
def test_with_all_ranks_gradients_are_exact() -> None:
    """From the third step on: until then bases that were drawn may miss what is a thousandth of the largest."""
    images, labels = torch.randn(2, 3, 48, 48), torch.arange(2)
    found = []
    for method in ("full", "asi(ranks=(1.0, 1.0, 1.0), on=('qkv', 'proj', 'fc1', 'fc2'))"):
        model = build(TOY.with_method(method), seed=3).train()
        model(images)
        model(images)
        torch.nn.functional.cross_entropy(model(images), labels).backward()
        found.append({name: p.grad for name, p in model.named_parameters()})
    for name, exact in found[0].items():
        assert (found[1][name] - exact).norm() < 1e-5 * exact.norm()


@pytest.mark.usefixtures("toy")
@pytest.mark.parametrize("micro_batches", [1, 2])
def test_a_last_batch_that_is_smaller_trains(micro_batches: int) -> None:
    """Of 22 images in batches of 4, the last has 2; and there are fewer in all than a batch of 32."""
    config = replace(TOY, num_classes=10, method="asi(ranks=(2, 4, 8))", optimizer="sgd_momentum")
    fidelity = Fidelity(image_size=48, train_size=22, val_size=20, epochs=2, recipe="paper-vit-b")
    for size in (4, 32):
        small = replace(config, batch_size=size, micro_batches=micro_batches)
        assert fine_tune(small, "digits", fidelity, weights="random").status == "finished"


@pytest.mark.usefixtures("toy")
def test_ranks_that_do_not_go_with_the_images_of_a_proxy_are_refused_before_it_trains() -> None:
    config = replace(TOY, num_classes=10, batch_size=4, method="asi(ranks=(2, 8, 8))")
    steps: list[int] = []
    with pytest.raises(UserError, match="reads 4 images x 5 tokens"):
        fine_tune(
            config,
            "digits",
            Fidelity(image_size=32, train_size=20, val_size=20, epochs=1),
            weights="random",
            progress=lambda done, total, loss: steps.append(done),
        )
    assert not steps


@pytest.mark.usefixtures("toy")
def test_a_training_that_is_interrupted_goes_on_to_the_last_bit(tmp_path: Path) -> None:
    """Its bases, too."""
    check_it_goes_on("last(k=2)+asi(ranks=(2, 4, 8))", tmp_path, epochs=3, after=(1, 7))
