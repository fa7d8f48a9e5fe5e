"""Configurations: what is refused, and which two of them are one experiment."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from bsr_explorer.config import CHOICES, Config, Fidelity
from bsr_explorer.cost.setup import Setup
from bsr_explorer.errors import UserError
from bsr_explorer.methods import Bsr, Last

BSR = "bsr(blocks=(9, 10, 11), keep={})"


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"image_size": 0}, "--image-size: 0 "),
        ({"num_classes": -1}, "--num-classes: -1 "),
        ({"batch_size": 2.0}, "--batch-size: 2.0 "),
        ({"batch_size": True}, "--batch-size: True "),
        (
            {"precision": "fp16"},
            "--precision: unknown value 'fp16' (did you mean 'bf16'?); choose from fp32, ",
        ),
        ({"optimizer": "adam"}, "--optimizer: unknown value 'adam' (did you mean 'adamw'?)"),
        ({"attention": "flsh"}, "--attention: unknown value 'flsh' (did you mean 'flash'?)"),
        ({"implementation": "for"}, "--implementation: unknown value 'for' (did you mean 'foreach'?)"),
        ({"device": "auto"}, "--device: unknown value 'auto'; choose from cpu, cuda"),
        ({"device": "tpu"}, "--device: unknown value 'tpu'"),
        ({"micro_batches": 0}, "--micro-batches: 0 must be a whole number of at least 1"),
        ({"micro_batches": 2.0}, "--micro-batches: 2.0 must be"),
        ({"micro_batches": True}, "--micro-batches: True must be"),
        (
            {"micro_batches": 5},
            "--micro-batches: 32 images do not fall into 5 equal parts; choose a divisor of --batch-size",
        ),
        ({"micro_batches": 64}, "--micro-batches: 32 images do not fall into 64 equal parts"),
        ({"lr": 0}, "--lr: 0 must be a positive, finite number"),
        ({"lr": -1e-3}, "--lr: -0.001 must be"),
        ({"lr": float("inf")}, "--lr: inf must be"),
        ({"lr": float("nan")}, "--lr: nan must be"),
        ({"lr": True}, "--lr: True must be"),
        ({"lr": "fast"}, "--lr: 'fast' must be"),
        ({"set_to_none": 1}, "--set-to-none: 1 must be true or false"),
        ({"set_to_none": "yes"}, "--set-to-none: 'yes' must be true or false"),
        (
            {"attention": "flash"},
            "--attention: the kernel 'flash' exists on CUDA only; choose fused or math, or --device cuda",
        ),
        ({"attention": "efficient"}, "--attention: the kernel 'efficient' exists on CUDA only"),
        ({"attention": "cudnn"}, "--attention: the kernel 'cudnn' exists on CUDA only"),
        ({"method": "brs"}, "--method: unknown value 'brs' (did you mean 'bsr'?)"),
    ],
)
def test_bad_values_are_refused_under_their_flag(values: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError) as error:
        Config(**values)
    assert str(error.value).startswith(says)


@pytest.mark.parametrize("values", [{"method": 3}, {"model": 3}])
def test_numbers_are_no_names(values: dict[str, Any]) -> None:
    with pytest.raises(UserError):
        Config.from_dict(values)


def test_a_method_may_be_given_as_its_expression() -> None:
    assert Config(method="last(k=2)") == Config(method=Last(2))
    assert Config().with_method("full").how == Config(method="full").how


@pytest.mark.parametrize(("key", "value"), [(key, value) for key in CHOICES for value in CHOICES[key]])
def test_what_may_be_chosen_may_be_chosen_on_cuda(key: str, value: str) -> None:
    narrow = {"precision": "bf16"} if value in ("flash", "cudnn") else {}
    config = Config.from_dict({"device": "cuda", **narrow, key: value})
    assert getattr(config, key) == value


@pytest.mark.parametrize("micro_batches", [1, 2, 4, 8, 16, 32])
def test_a_micro_batch_is_its_share_of_the_images(micro_batches: int) -> None:
    assert Config(micro_batches=micro_batches).micro_batch_size == 32 // micro_batches


def test_the_setup_of_the_step_is_the_configurations() -> None:
    config = Config(
        batch_size=8,
        precision="amp_fp16",
        optimizer="sgd_momentum",
        implementation="foreach",
        micro_batches=4,
        set_to_none=False,
        device="cuda",
    )
    assert config.setup == Setup("sgd_momentum", "foreach", "cuda", 4, set_to_none=False, scaler=True)
    assert not any(Config(precision=name).setup.scaler for name in ("fp32", "amp_bf16", "bf16"))


def test_plain_values_are_read_back() -> None:
    config = Config("vit_t", 64, 3, 2, optimizer="sgd", attention="math", method=Bsr((1,), {0: 0.25}))
    assert Config.from_dict(config.to_dict()) == config
    other = replace(config, precision="bf16", implementation="fused", micro_batches=2, set_to_none=False)
    assert Config.from_dict(other.to_dict()) == other
    assert json.loads(json.dumps(other.to_dict())) == other.to_dict()
    whole = replace(other, lr=1.0, device="cuda", gpu="t4")
    assert Config.from_dict(whole.to_dict()) == whole
    whole = replace(whole, unknown="bound").with_classes((2, 3))
    assert Config.from_dict(whole.to_dict()) == whole
    assert set(whole.to_dict()) == {field.name for field in fields(Config)}


def test_a_learning_rate_is_said_only_if_it_is_the_configurations_own() -> None:
    config = Config(lr=1)
    assert config.to_dict()["lr"] == 1.0
    assert Config.from_dict(config.to_dict()) == config
    assert "lr" not in Config().to_dict()
    as_before = "ebb89dd7a6d9648c"  # when configurations had no learning rate
    assert Config("deit_s").key(12) == as_before


@pytest.mark.parametrize(
    "changes",
    [
        {"attention": "flash"},
        {"attention": "cudnn"},
        {"attention": "flash", "precision": "bf16", "gpu": "t4"},
    ],
)
def test_kernels_that_a_card_does_not_have_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(
        UserError, match=r"--attention: (flash|cudnn) runs in 16 bits and from compute capability 8"
    ):
        Config(device="cuda", **changes)
    assert Config(device="cuda", attention="flash", precision="bf16", gpu="a100").attention == "flash"


def test_an_unknown_key_names_the_nearest() -> None:
    with pytest.raises(UserError, match=r"'modle'.*did you mean 'model'"):
        Config.from_dict({"modle": "deit_s"})


def test_a_file_has_the_fields_as_keys(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    text = 'model = "deit_t"\nbatch_size = 8\nmethod = "bsr(blocks=(3,), keep={3: 0.5})"\n'
    path.write_text(text)
    assert Config.from_toml(path) == Config("deit_t", batch_size=8, method=Bsr((3,), {3: 0.5}))
    path.write_text(text + "lr = 2e-4\n")
    assert Config.from_toml(path).lr == 2e-4


def test_a_file_that_is_no_toml_is_named(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text("model: deit_t\n")
    with pytest.raises(UserError, match=r"config\.toml: not valid TOML"):
        Config.from_toml(path)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"method": "last(3)"}, {"method": BSR}),
        ({"model": "deit_t"}, {"model": "deit_tiny_patch16_224"}),
        ({"method": "bsr(keep={3: 0.5, 6: 1.0})"}, {"method": "bsr(keep={3: 0.5})"}),
        ({"method": "bsr(keep={3: 1})"}, {"method": "bsr(keep={}, fuse=False)"}),
        ({"method": "bsr(keep={6: 0.5, 3: 0.5})"}, {"method": "bsr(keep={3: 0.5, 6: 0.5})"}),
        ({"method": "bsr(blocks=(7, 3))"}, {"method": "bsr(blocks=[3, 7])"}),
        ({"method": "bsr"}, {"method": "bsr(head=True, norm=True)"}),
        ({"method": "linear"}, {"method": "bsr(blocks=(), keep={}, norm=False)"}),
        ({"method": "full+checkpoint"}, {"method": "checkpoint"}),
        ({"method": "checkpoint+last(3)"}, {"method": f"{BSR}+checkpoint(blocks={tuple(range(12))})"}),
    ],
)
def test_equal_experiments_have_equal_keys(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert Config(**one).key(12) == Config(**other).key(12)


@pytest.mark.parametrize(
    "changed",
    [
        {"model": "deit_t"},
        {"image_size": 208},
        {"num_classes": 11},
        {"batch_size": 31},
        {"optimizer": "sgd"},
        {"attention": "math"},
        {"precision": "amp_bf16"},
        {"precision": "amp_fp16"},
        {"precision": "bf16"},
        {"optimizer": "adamw_8bit"},
        {"implementation": "foreach"},
        {"implementation": "fused"},
        {"micro_batches": 2},
        {"set_to_none": False},
        {"device": "cuda"},
        {"lr": 1e-3},
        {"method": f"{BSR}+checkpoint"},
        {"method": f"{BSR}+checkpoint(blocks=(3,))"},
        {"method": "last(2)"},
        {"method": "full"},
        {"method": "bsr(blocks=(9, 10, 11), keep={3: 0.5})"},
        {"method": "bsr(blocks=(9, 10, 11), keep={3: 0.5}, fuse=False)"},
        {"method": "bsr(blocks=(9, 10, 11), keep={}, norm=False)"},
    ],
)
def test_every_change_of_an_experiment_changes_its_key(changed: dict[str, Any]) -> None:
    assert Config(**{"method": BSR, **changed}).key(12) != Config(method=BSR).key(12)


def test_every_field_has_a_part_in_the_key() -> None:
    """A field that is added later has its place among the changes above."""
    changes: dict[str, Any] = {
        "model": "deit_t",
        "image_size": 208,
        "num_classes": 11,
        "batch_size": 31,
        "precision": "bf16",
        "optimizer": "sgd",
        "attention": "math",
        "method": "full",
        "implementation": "fused",
        "micro_batches": 2,
        "set_to_none": False,
        "device": "cuda",
        "lr": 1e-3,
        "gpu": "t4",
        "tasks": (4, 6),
    }
    assert set(changes) == {field.name for field in fields(Config)} - {"unknown"}
    needs = {"gpu": {"device": "cuda"}}
    keys = {Config(**{key: value, **needs.get(key, {})}).key(12) for key, value in changes.items()}
    assert len(keys | {Config().key(12)}) == len(changes) + 1


def test_the_last_blocks_depend_on_the_depth() -> None:
    assert Config(method="last(3)").key(24) != Config(method=BSR).key(24)


def test_a_key_is_the_same_in_any_process() -> None:
    code = "from bsr_explorer.config import Config; print(Config().key(12))"
    keys = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert keys == {Config().key(12)}


@pytest.mark.parametrize(
    "method", ["full", "linear", "last(3)", "bitfit", "bsr(keep={3: 1})", "checkpoint+full"]
)
def test_the_canonical_form_of_a_canonical_form_is_itself(method: str) -> None:
    once = Config("deit_t", method=method).canonical(12)
    assert once.canonical(12) == once


@pytest.mark.parametrize(
    ("key", "flag"),
    [
        ("image_size", "--proxy-size"),
        ("train_size", "--train-size"),
        ("val_size", "--val-size"),
        ("epochs", "--epochs"),
        ("views", "--views"),
    ],
)
@pytest.mark.parametrize("value", [0, -1, 1.5, True])
def test_a_fidelity_takes_whole_numbers_only(key: str, flag: str, value: Any) -> None:
    with pytest.raises(UserError, match=f"{flag}: {value}"):
        Fidelity(**{key: value})


def test_a_proxy_size_replaces_the_image_size_and_nothing_else() -> None:
    assert Fidelity(image_size=64).at(Config("deit_t")) == Config("deit_t", image_size=64)
    assert Fidelity().at(Config("deit_t")) == Config("deit_t")


def test_how_the_unknown_is_predicted_changes_no_experiment() -> None:
    bound = Config("deit_t", unknown="bound")
    assert bound.key(12) == Config("deit_t").key(12)
    assert "unknown" not in Config("deit_t").to_dict()
    assert Config.from_dict(bound.to_dict()) == bound
    with pytest.raises(UserError, match="--unknown: unknown value 'guess'"):
        Config("deit_t", unknown="guess")


def test_tasks_are_part_of_the_experiment() -> None:
    config = Config(model="deit_t").with_classes((10, 10, 5))
    assert (config.num_classes, config.tasks) == (25, (10, 10, 5))
    assert Config.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert "tasks" not in Config(num_classes=25).to_dict()
    assert config.key(12) != Config(model="deit_t", num_classes=25).key(12)
    assert config.with_classes((4,)) == Config(model="deit_t", num_classes=4)


@pytest.mark.parametrize(
    ("tasks", "classes", "said"),
    [
        ((10, 5), 10, "--num-classes: 10 is not the sum of --tasks 10,5, which is 15"),
        ((10,), 10, "--tasks: 10 is one task; leave it out, and give --num-classes 10"),
        ((10, 1), 11, "must be the classes of each task, at least 2"),
        ((10, True), 11, "must be the classes of each task, at least 2"),
        ("10,5", 15, "must be the classes of each task, at least 2"),
    ],
)
def test_tasks_that_cannot_be(tasks: Any, classes: int, said: str) -> None:
    with pytest.raises(UserError, match=re.escape(said)):
        Config(num_classes=classes, tasks=tasks)
