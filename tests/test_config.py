"""Configurations: what is refused, and which two of them are one experiment."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bsr_explorer.config import Config, Fidelity
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
        ({"precision": "bf16"}, "--precision: unknown value 'bf16'"),
        ({"optimizer": "adam"}, "--optimizer: unknown value 'adam' (did you mean 'adamw'?)"),
        ({"attention": "flash"}, "--attention: unknown value 'flash'"),
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


def test_plain_values_are_read_back() -> None:
    config = Config("vit_t", 64, 3, 2, optimizer="sgd", attention="math", method=Bsr((1,), {0: 0.25}))
    assert Config.from_dict(config.to_dict()) == config


def test_an_unknown_key_names_the_nearest() -> None:
    with pytest.raises(UserError, match=r"'modle'.*did you mean 'model'"):
        Config.from_dict({"modle": "deit_s"})


def test_a_file_has_the_fields_as_keys(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text('model = "deit_t"\nbatch_size = 8\nmethod = "bsr(blocks=(3,), keep={3: 0.5})"\n')
    assert Config.from_toml(path) == Config("deit_t", batch_size=8, method=Bsr((3,), {3: 0.5}))


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
        {"method": "last(2)"},
        {"method": "full"},
        {"method": "bsr(blocks=(9, 10, 11), keep={3: 0.5})"},
        {"method": "bsr(blocks=(9, 10, 11), keep={3: 0.5}, fuse=False)"},
        {"method": "bsr(blocks=(9, 10, 11), keep={}, norm=False)"},
    ],
)
def test_every_change_of_an_experiment_changes_its_key(changed: dict[str, Any]) -> None:
    assert Config(**{"method": BSR, **changed}).key(12) != Config(method=BSR).key(12)


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


@pytest.mark.parametrize("method", ["full", "linear", "last(3)", "bitfit", "bsr(keep={3: 1})"])
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
    ],
)
@pytest.mark.parametrize("value", [0, -1, 1.5, True])
def test_a_fidelity_takes_whole_numbers_only(key: str, flag: str, value: Any) -> None:
    with pytest.raises(UserError, match=f"{flag}: {value}"):
        Fidelity(**{key: value})


def test_a_proxy_size_replaces_the_image_size_and_nothing_else() -> None:
    assert Fidelity(image_size=64).at(Config("deit_t")) == Config("deit_t", image_size=64)
    assert Fidelity().at(Config("deit_t")) == Config("deit_t")
