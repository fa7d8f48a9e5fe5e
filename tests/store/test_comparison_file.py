"""A comparison's file: what it says, and how what is wrong in it is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from bsr_explorer.config import Fidelity
from bsr_explorer.errors import UserError
from bsr_explorer.store.comparison_file import ComparisonFile

WHOLE = """
[comparison]
name = "whole"
methods = ["full", "last(k=3)", "bsr()+mesa()"]
seeds = 2
rounds = 0

[config]
model = "deit_t"
batch_size = 8
precision = "amp_bf16"

[budget]
bytes = "2GB"
counts = "saved"

[data]
name = ["cifar10", "pets"]
weights = "hub"

[fidelity]
recipe = "paper-deit-s"
epochs = 4
"""

LEAST = """
[comparison]
methods = ["bsr"]
[config]
model = "deit_t"
[data]
name = "digits"
"""


def read(tmp_path: Path, text: str) -> ComparisonFile:
    path = tmp_path / "file.toml"
    path.write_text(text)
    return ComparisonFile.from_toml(path)


def refused(tmp_path: Path, text: str) -> str:
    with pytest.raises(UserError) as error:
        read(tmp_path, text)
    assert str(error.value).startswith(f"{tmp_path / 'file.toml'}: ")
    return str(error.value)


def test_everything_is_read(tmp_path: Path) -> None:
    asked = read(tmp_path, WHOLE)
    assert asked.name == "whole"
    assert [method.name for method in asked.methods] == ["full", "last", "+"]
    assert (asked.config.model, asked.config.batch_size, asked.config.precision) == ("deit_t", 8, "amp_bf16")
    assert (asked.data, asked.weights) == (("cifar10", "pets"), "hub")
    assert asked.fidelity == Fidelity(recipe="paper-deit-s", epochs=4)
    assert (asked.seeds, asked.rounds, asked.budget, asked.counts) == (2, 0, "2GB", "saved")
    assert asked.quantile == 1.0
    assert read(tmp_path, WHOLE.replace('"saved"', '"saved"\nquantile = 0.9')).quantile == 0.9
    assert asked.on("cuda").config.device == "cuda"


def test_what_is_left_out_is_the_usual(tmp_path: Path) -> None:
    asked = read(tmp_path, LEAST)
    assert (asked.name, asked.data, asked.weights) == ("file", ("digits",), "auto")
    assert (asked.fidelity, asked.seeds, asked.rounds) == (Fidelity(), 3, 5)
    assert (asked.budget, asked.counts) == (None, "peak")


@pytest.mark.parametrize(
    ("found", "put", "said"),
    [
        (
            "[comparison]",
            "[comparisons]",
            "(did you mean 'comparison'?); choose from comparison, config, budget, ",
        ),
        ("methods =", "method =", "choose from name, methods, seeds, rounds"),
        ("model =", "num_classes = 10\nmodel =", "key of [config]: unknown value 'num_classes'"),
        ("methods", "method = 'bsr'\nmethods", "key of [comparison]: unknown value 'method'"),
        ('["bsr"]', '"bsr"', "[comparison] methods must be a list, each item text, and is 'bsr'"),
        ('["bsr"]', "[]", "[comparison] methods is missing"),
        ('model = "deit_t"', "", "[config] model is missing; a comparison needs"),
        ('name = "digits"', "", "[data] name is missing"),
        ('name = "digits"', "name = 3", "[data] name must be text, or a list of texts, and is 3"),
        ('name = "digits"', "name = []", "[data] name must be text, or a list of texts, and is []"),
        ('"digits"', '["digits", "digits"]', "[data] name: digits stands twice; name each once"),
        ('["bsr"]', '["bsr", "bsr()"]', "[comparison] methods: bsr(blocks"),
        ('["bsr"]', '["bzr"]', "unknown value 'bzr' (did you mean 'bsr'?)"),
        ("methods", "seeds = 0\nmethods", "[comparison] seeds: 0 must be a whole number of at least 1"),
        ("methods", "rounds = -1\nmethods", "[comparison] rounds: -1 must be a whole number of at least 0"),
        ("[data]", '[budget]\ncounts = "peak"\n[data]', "[budget] has no bytes"),
        ("[data]", '[budget]\nbytes = "2"\n[data]', "[budget] bytes: '2' has no unit"),
        (
            "[data]",
            '[budget]\nbytes = "2GB"\ncounts = "p"\n[data]',
            "choose from peak, reserved, device, saved, published",
        ),
        ("[data]", "[budget]\nquantile = 0.9\n[data]", "[budget] has no bytes"),
        (
            "[data]",
            '[budget]\nbytes = "2GB"\nquantile = 1.1\n[data]',
            "--budget-quantile: 1.1 must be a share of the steps from 0 to 1",
        ),
        ("[data]", "[fidelity]\nepochs = 0\n[data]", "--epochs: 0 must be a whole number of at least 1"),
    ],
)
def test_what_is_wrong_is_named_with_what_is_allowed(tmp_path: Path, found: str, put: str, said: str) -> None:
    assert said in refused(tmp_path, LEAST.replace(found, put, 1))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.toml: cannot be read"):
        ComparisonFile.from_toml(tmp_path / "none.toml")
