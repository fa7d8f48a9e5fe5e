"""VeLoRA's arguments, what it keeps, and a training that is interrupted."""

from __future__ import annotations

from pathlib import Path

import pytest

from bsr_explorer.config import Config
from bsr_explorer.errors import UserError
from bsr_explorer.methods import Velora, parse_method
from bsr_explorer.prediction import predict
from bsr_explorer.storages import Projected
from tests.methods.interrupted import check_it_goes_on


def test_it_is_written_as_it_is_read() -> None:
    assert str(Velora()) == "velora(groups=32)"
    assert str(Velora("fc2", 8, 0.1)) == "velora(on=('fc2',), groups=8, scale=0.1)"  # type: ignore[arg-type]
    assert parse_method("velora(groups=8, on='fc2', scale=0.1)") == Velora(("fc2",), 8, 0.1)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("velora(groups=0)", r"velora\(groups=0\): groups must be a whole number of at least 1"),
        ("velora(groups=2.0)", "groups must be a whole number"),
        ("velora(scale=0)", "scale must be a number above 0"),
        ("velora(scale=True)", "scale must be a number above 0"),
        ("velora(on='head')", "unknown .*'head'.*qkv"),
    ],
)
def test_other_arguments_are_refused(text: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        parse_method(text)


@pytest.mark.usefixtures("toy")
def test_groups_that_do_not_divide_are_refused_with_those_that_do() -> None:
    says = r"reads 32 channels, which 5 groups do not divide; choose 1, 2, 4, 8, 16, 32$"
    with pytest.raises(UserError, match=says):
        predict(Config("toy", 48, 5, 2, method="velora(groups=5)"))


def test_each_chosen_layer_keeps_a_number_a_group() -> None:
    assert Velora(groups=32).stores_in("mlp.fc2", "activated", 3, 1536) == Projected(48)
    assert Velora(groups=32).stores_in("mlp.fc1", "normed", 3, 384) is None
    assert Velora(groups=32).stores_in("mlp.act", "hidden", 3, 1536) is None


def test_bytes_in_closed_form() -> None:
    """DeiT-S: of 5 channels' worth of inputs of qkv and fc2, 64 numbers a token; and directions."""
    batch, tokens, width = 4, 197, 384
    config = Config("deit_s", batch_size=batch)
    full, velora = (predict(config.with_method(text)).saved_bytes for text in ("full", "velora"))
    saved = batch * tokens * (5 * width - 2 * 32) - (width + 4 * width) // 32
    assert full - velora == 12 * 4 * saved


@pytest.mark.usefixtures("toy")
def test_a_training_that_is_interrupted_goes_on_to_the_last_bit(tmp_path: Path) -> None:
    check_it_goes_on("last(k=2)+velora(groups=8)", tmp_path, epochs=3, after=(1, 7))
