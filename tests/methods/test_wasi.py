"""WASI: what it costs, what it holds, what it composes with, what is left of it, and what it refuses."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from bsr_explorer.config import Config, Fidelity
from bsr_explorer.errors import UserError
from bsr_explorer.finetune.build import build, make_step
from bsr_explorer.finetune.measure import measure
from bsr_explorer.finetune.run import fine_tune
from bsr_explorer.methods import Wasi, parse_method
from bsr_explorer.prediction import predict, tape_of
from bsr_explorer.storages import Tucker
from bsr_explorer.train.optimizer import StepsItself, set_rates
from bsr_explorer.train.recipes import RECIPES
from tests.formats import every_way
from tests.methods.interrupted import check_it_goes_on

pytestmark = pytest.mark.usefixtures("toy")

CONFIG = Config("toy", 48, 5, 2, method="full")
BY_LAYER = (
    "wasi(rank={'fc2': 4, '2.proj': 0.5, '3.fc2': 8}, ranks={'fc2': (2, 2, 4), '2.proj': (0.5, 0.5, 0.5), "
    "'3.fc2': (1, 4, 4)}, on=('proj', 'fc2'))"
)
ALL = "wasi(rank=0.25, on=('qkv', 'proj', 'fc1', 'fc2'))"


def test_it_is_written_as_it_is_read() -> None:
    assert str(Wasi()) == "wasi(rank=0.5, ranks=(0.5, 0.125, 0.125))"
    assert parse_method("wasi(rank=8, ranks=[1, 2, 0.5], on='fc2')") == Wasi(8, (1, 2, 0.5), ("fc2",))
    for rank, found in ((8, 8), (0.5, 32), (0.001, 1)):
        assert Wasi(rank).chosen_in(0, "fc1", (384, 64)) == (found, Tucker((0.5, 0.125, 0.125)))


def test_dictionaries_name_the_layers() -> None:
    method = parse_method(BY_LAYER)
    assert str(method) == BY_LAYER
    assert isinstance(method, Wasi)
    assert method.chosen_in(1, "fc2", (32, 128)) == (4, Tucker((2, 2, 4)))
    assert method.chosen_in(3, "fc2", (32, 128)) == (8, Tucker((1, 4, 4)))
    assert method.chosen_in(2, "fc1", (128, 32)) is None
    factored = {
        name.removesuffix(".left")
        for name in build(CONFIG.with_method(method)).state_dict()
        if name.endswith(".left")
    }
    assert factored == {"blocks.2.attn.proj", *(f"blocks.{block}.mlp.fc2" for block in range(4))}
    assert parse_method("wasi(rank={'3.fc1': 8})").chosen_in(3, "fc1", (128, 32)) == (8, Tucker(Wasi().ranks))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("wasi(rank=0)", r"wasi\(rank=0\): rank must be a whole number of at least 1, or a share"),
        ("wasi(rank=1.5)", "or a share above 0.0 and at most 1.0"),
        ("wasi(rank=True)", "rank must be a whole number"),
        ("wasi(ranks=8)", r"wasi\(ranks=8\): there must be three ranks"),
        ("wasi(rank={'fc1': 0})", r"wasi\(rank=\{'fc1': 0\}\): rank must be a whole number"),
        ("wasi(ranks={'fc1': 8})", "there must be three ranks"),
        ("wasi(rank={'fc1': 8}, on='proj')", "rank names other layers, fc1; leave on out"),
        (
            "wasi(rank={'fc1': 8}, ranks={'0.fc1': (1, 1, 1)})",
            "'0.fc1' stands in only one of|'fc1' stands in",
        ),
        ("wasi(on='head')", "unknown .*'head'.*qkv"),
        ("asi+wasi", "both choose how linear layers store what they read"),
        ("wasi+mesa", "both choose how linear layers store what they read"),
    ],
)
def test_other_arguments_and_companions_are_refused(text: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        parse_method(text)


@pytest.mark.parametrize(
    ("method", "says"),
    [
        (
            "wasi(rank={'7.fc1': 8})",
            r"wasi\(rank=…\): '7.fc1' names no block; the model has 4 blocks, 0 to 3",
        ),
        ("wasi(rank={'1.fc1': 33})", r"1.fc1 has a matrix of 128 x 32, so rank must be 1 to 32, or a share"),
        ("wasi(rank=33)", r"has a matrix of 128 x 32, so rank must be 1 to 32, or a share"),
        ("linear+wasi", "no weight of fc1, fc2 in a block trains"),
        ("lora+wasi", "no weight of fc1, fc2 in a block trains"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_runs(method: str, says: str) -> None:
    for refusing in (predict, build):
        with pytest.raises(UserError, match=says):
            refusing(CONFIG.with_method(method))


def test_ranks_that_an_input_does_not_have_are_refused() -> None:
    says = r"wasi\(ranks=\(3, 2, 2\)\): blocks.0.mlp.fc1 reads 2 images x 10 tokens x 32 channels, so the rank of"
    with pytest.raises(UserError, match=says):
        predict(CONFIG.with_method("wasi(ranks=(3, 2, 2))"))


def _exact(config: Config) -> None:
    predicted, measured = predict(config), measure(config)
    assert (predicted - measured).rows == ()
    assert predicted.peak_bytes == measured.peak_bytes, predicted.peak


@every_way
@pytest.mark.parametrize("method", ["wasi", ALL, "wasi(rank=4, ranks=(2, 4, 8), on='proj')", BY_LAYER])
def test_what_is_predicted_is_measured(method: str, precision: str, attention: str) -> None:
    _exact(replace(CONFIG, method=method, precision=precision, attention=attention))


@pytest.mark.thorough
@pytest.mark.parametrize(
    "other",
    [
        "checkpoint",
        "offload",
        "checkpoint(blocks=(1, 2))+offload",
        "bsr(blocks=(1, 3), keep={1: 0.5})",
        "last(k=2)",
        "approxbp",
    ],
)
def test_nor_does_what_it_is_composed_with_change_that(other: str) -> None:
    _exact(replace(CONFIG, method=f"{ALL}+{other}", precision="amp_bf16"))
    _exact(replace(CONFIG, method=f"{ALL}+{other}", batch_size=4, micro_batches=2, attention="math"))


@pytest.mark.parametrize("method", [ALL, f"last(k=2)+{ALL}", BY_LAYER])
def test_buffers_and_parameters_are_those_of_the_model_in_its_order(method: str) -> None:
    tape, net = tape_of(CONFIG.with_method(method)), build(CONFIG.with_method(method))
    net.train()(torch.randn(CONFIG.batch_size, 3, 48, 48))
    assert {n: b.shape for n, b in tape.buffers.items()} == {
        n: tuple(b.shape) for n, b in net.named_buffers()
    }
    assert [(n, p.shape) for n, p in tape.parameters.items()] == [
        (n, tuple(p.shape)) for n, p in net.named_parameters()
    ]


def test_the_model_holds_less_than_the_dense_one() -> None:
    """Weights, gradients and the optimiser's state, as they are measured."""
    held = {}
    for method in ("full", "wasi(rank=0.25)"):
        rows = measure(CONFIG.with_method(method)).rows
        held[method] = {
            kind: sum(row.bytes for row in rows if row.kind == kind)
            for kind in ("parameter", "gradient", "optimizer")
        }
    dense, factored = 2 * 32 * 128, 2 * 8 * (32 + 128)
    assert held["full"]["gradient"] - held["wasi(rank=0.25)"]["gradient"] == 4 * 4 * (dense - factored)
    assert all(held["wasi(rank=0.25)"][kind] < held["full"][kind] for kind in held["full"])
    names = [name for name, _ in build(CONFIG.with_method("wasi")).named_parameters()]
    assert not any(name.endswith(("fc1.weight", "fc2.weight")) for name in names)


@pytest.mark.parametrize("other", ["full", "drop({1: 0.5})", "approxbp", "checkpoint+offload"])
def test_nobody_holds_the_dense_weights(other: str) -> None:
    model = build(CONFIG)
    dense = [
        weakref.ref(p) for name, p in model.named_parameters() if name.endswith(("qkv.weight", "fc2.weight"))
    ]
    parse_method(f"{other}+wasi(on=('qkv', 'fc2'))").apply(model)
    gc.collect()
    assert len(dense) == 8
    assert all(weight() is None for weight in dense)


def test_with_all_ranks_a_model_computes_what_it_did_before() -> None:
    images = torch.randn(2, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    plain, factored = (build(CONFIG.with_method(how), seed=3).eval() for how in ("full", "wasi(rank=1.0)"))
    torch.testing.assert_close(plain(images), factored(images), rtol=1e-4, atol=1e-5)


def test_merged_weights_are_those_of_a_plain_model() -> None:
    images = torch.randn(2, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    config = CONFIG.with_method(ALL)
    factored, plain = build(config, seed=3), build(CONFIG)
    factored.train()(images)
    plain.load_state_dict(config.how.merge(dict(factored.state_dict())))
    torch.testing.assert_close(plain.eval()(images), factored.eval()(images), rtol=1e-4, atol=1e-5)


def test_it_trains() -> None:
    config = replace(CONFIG, num_classes=10, batch_size=4, method=ALL)
    record = fine_tune(config, "digits", Fidelity(train_size=20, val_size=20, epochs=4), weights="random")
    assert record.status == "finished"
    assert record.losses[-1] < record.losses[0]


def test_a_training_that_is_interrupted_goes_on_to_the_last_bit(tmp_path: Path) -> None:
    check_it_goes_on(f"last(k=2)+{ALL}", tmp_path, epochs=3, after=(1, 7))


# --- the authors' step ------------------------------------------------------------------------------------

STEPPING = "wasi(step='authors')"
ALL_STEPPING = "wasi(rank=0.25, on=('qkv', 'proj', 'fc1', 'fc2'), step='authors')"
SGD = replace(CONFIG, optimizer="sgd")


def test_a_step_of_its_own_is_written_as_it_is_read() -> None:
    assert str(Wasi(step="authors")) == "wasi(rank=0.5, ranks=(0.5, 0.125, 0.125), step='authors')"
    assert parse_method(STEPPING) == Wasi(step="authors")
    with pytest.raises(UserError, match=r"step=….*'mine'.*optimizer"):
        parse_method("wasi(step='mine')")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"optimizer": "adamw"}, "--optimizer: adamw does not go with wasi.* plain SGD.*choose sgd"),
        ({"optimizer": "sgd_momentum"}, "--optimizer: sgd_momentum does not go with"),
        ({"batch_size": 4, "micro_batches": 2}, "--micro-batches: 2 do not go with"),
        ({"precision": "amp_fp16"}, "--precision: amp_fp16 does not go with"),
    ],
)
def test_what_its_own_step_does_not_go_with_is_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        replace(SGD, method=f"last(k=2)+{STEPPING}", **changes)


def test_recipes_that_clip_are_refused() -> None:
    config = replace(SGD, method=STEPPING)
    with pytest.raises(UserError, match=r"--recipe: clipping clips gradients .* choose a recipe"):
        make_step(build(config), config, replace(RECIPES["sgd"], name="clipping", clip=1.0))


@pytest.mark.parametrize("attention", ["fused", "math"])
@pytest.mark.parametrize("precision", ["fp32", "amp_bf16", "bf16"])
@pytest.mark.parametrize("method", [STEPPING, ALL_STEPPING, f"last(k=2)+{ALL_STEPPING}"])
def test_of_its_own_step_what_is_predicted_is_measured(method: str, precision: str, attention: str) -> None:
    _exact(replace(SGD, method=method, precision=precision, attention=attention))


@pytest.mark.parametrize("other", ["checkpoint", "offload", "bsr(blocks=(1, 3), keep={1: 0.5})", "approxbp"])
def test_nor_does_what_its_own_step_is_composed_with_change_that(other: str) -> None:
    _exact(replace(SGD, method=f"{ALL_STEPPING}+{other}"))


def test_of_its_own_step_no_gradient_is_held() -> None:
    own, plain = (predict(replace(SGD, method=method)) for method in (STEPPING, "wasi"))
    factors = 4 * 4 * 2 * (16 * 32 + 16 * 128)  # blocks, bytes, layers, numbers
    assert plain.bytes_of("gradient") - own.bytes_of("gradient") == factors
    assert own.bytes_of("parameter") == plain.bytes_of("parameter")
    assert own.peak_bytes < plain.peak_bytes


def test_its_own_step_trains_at_the_rate_of_the_optimiser() -> None:
    config = replace(SGD, num_classes=10, batch_size=4, method=ALL_STEPPING, lr=0.01)
    fidelity = Fidelity(train_size=20, val_size=20, epochs=4, recipe="sgd")
    record = fine_tune(config, "digits", fidelity, weights="random")
    assert record.status == "finished", record.reason
    assert record.losses[-1] < record.losses[0]
    step = make_step(build(config), config, replace(RECIPES["sgd"], lr=0.01))
    groups = [module.group for module in step.model.modules() if isinstance(module, StepsItself)]
    assert len(groups) == 16
    set_rates(step.optimizer, 0.5)
    assert {group["lr"] for group in groups} == {0.005}


def test_a_training_by_its_own_step_that_is_interrupted_goes_on_to_the_last_bit(tmp_path: Path) -> None:
    check_it_goes_on(f"last(k=2)+{ALL_STEPPING}", tmp_path, epochs=3, after=(1, 7), recipe="sgd")
