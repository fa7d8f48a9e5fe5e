"""``bsr-explore list``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from bsr_explorer.data.catalogue import DATASETS, TEXTS
from bsr_explorer.methods import METHODS, parse_method
from bsr_explorer.models.names import ALIASES
from bsr_explorer.train.recipes import RECIPES
from tests.hub_cache import TRAIN, put

Cli = Callable[..., Any]


def test_models_are_listed_with_their_timm_names(cli: Cli) -> None:
    done = cli("list", "models")
    assert (done.code, done.err) == (0, "")
    lines = [line.split() for line in done.out.splitlines()]
    assert all([alias, name] in lines for alias, name in ALIASES.items())


def test_methods_are_listed_as_they_are_written(cli: Cli) -> None:
    done = cli("list", "methods")
    assert (done.code, done.err) == (0, "")
    first = [line.split()[0] for line in done.out.splitlines() if line and not line.startswith(" ")]
    assert first == ["method", *METHODS, "Saved,", "Methods"]
    shares = {
        line.split()[0]: [word for word in line.split() if word.endswith("x")]
        for line in done.out.splitlines()
        if line[:1].islower()
    }
    assert shares["full"][:2] == ["1.00x", "1.00x"]
    assert all(float(share[:-1]) > 0 for name in METHODS for share in shares[name][:2])
    assert all(len(shares[name]) >= 2 for name in METHODS)
    assert all(str(parse_method(name)).startswith(name) for name in METHODS)
    for word in ("2405.10951", "keep={3: 0.5,", "k=3", "fuse=True"):
        assert word in " ".join(done.out.split())


def test_datasets_are_listed_with_where_they_are(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    train, test = TRAIN, TRAIN.replace("train", "test")
    put(tmp_path / "hub", "uoft-cs/cifar100", {train: b"train", test: b"test"})
    done = cli("list", "datasets")
    assert (done.code, done.err) == (0, "")
    lines = {line.split()[0]: line for line in done.out.splitlines() if line and not line.startswith(" ")}
    composed = {"turned(NAME)", "swapped(NAME)", "sums(digits)", "tasks(NAME,"}
    assert set(lines) == {"data", *DATASETS, "PATH", "hub:…", *composed, *TEXTS, "PATH.txt"}
    assert "embedded" in lines["digits"]
    assert "1078 / 359 / 360" in lines["digits"]
    assert "download" in lines["cifar10"]  # the data folder is empty, and the Hub's cache has another
    assert "hub cache" in lines["cifar100"]


def test_recipes_are_listed_with_their_settings(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    done = cli("list", "recipes")
    assert (done.code, done.err) == (0, "")
    lines = {line[:16].strip(): line[16:].split() for line in done.out.splitlines()}
    assert lines[""] is not None
    said = " ".join(done.out.split())
    for words in (
        "orig_in21k",
        "fb_in1k",
        "std 2e-05",
        "zeros",
        "bilinear",
        "crop_flip (0.08, 1.0)",
        "20,000 steps",
    ):
        assert words in said
    assert all(name in said for name in RECIPES)


def test_protocols_are_listed_with_what_their_accuracy_is(cli: Cli) -> None:
    done = cli("list", "protocols")
    assert (done.code, done.err) == (0, "")
    said = " ".join(done.out.split())
    assert "held-out" in said and "after the last epoch" in said
    assert "for reproduction alone" in said and "the best of all" in said


@pytest.mark.parametrize(("what", "hint"), [("model", "models"), ("dataset", "datasets")])
def test_other_kinds_are_refused(cli: Cli, what: str, hint: str) -> None:
    done = cli("list", what)
    assert (done.code, done.out) == (2, "")
    choices = "choose from models, methods, datasets, recipes, protocols"
    assert done.err == f"error: list: unknown value {what!r} (did you mean {hint!r}?); {choices}\n"
