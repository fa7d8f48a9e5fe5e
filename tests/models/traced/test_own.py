"""Models of one's own, trained with their own loss."""

from __future__ import annotations

from pathlib import Path

import pytest

from bsr_explorer.config import Config
from bsr_explorer.finetune.measure import measure
from bsr_explorer.models.architecture import ARCHITECTURES, architecture_of
from bsr_explorer.prediction import predict

SMALL = "tests.models.traced.small"


def test_functions_and_files_are_its_own() -> None:
    assert architecture_of(f"{SMALL}:build") is ARCHITECTURES["own"]
    assert architecture_of("mine.toml") is ARCHITECTURES["own"]


@pytest.mark.parametrize("method", ["full", "last(k=1)"])
def test_a_loss_of_its_own_is_a_part_of_the_step(method: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(f'model = "{SMALL}:build"\nloss = "{SMALL}:own_loss"\n')
    config = Config(str(file), 16, 10, 4, method=method)
    predicted, measured = predict(config), measure(config)
    assert predicted.saved_bytes == measured.saved_bytes
    assert predicted.saved_bytes != predict(Config(f"{SMALL}:build", 16, 10, 4, method=method)).saved_bytes
    assert predicted.train_flops == measured.train_flops
    assert abs(predicted.peak_bytes - measured.peak_bytes) <= 0.01 * measured.peak_bytes


def test_a_file_that_changes_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(f'model = "{SMALL}:build"\n')
    architecture = architecture_of(str(file))
    assert architecture.geometry(str(file), 16, 10).depth == 3
    file.write_text(f'model = "{SMALL}:build"\nblocks = ["blocks.0"]\n')
    assert architecture.geometry(str(file), 16, 10).depth == 1


def test_and_predicted_again(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(f'model = "{SMALL}:build"\nblocks = ["blocks.*"]\n')
    config = Config(str(file), 16, 10, 2, method="last(k=1)")
    before = predict(config)
    file.write_text(f'model = "{SMALL}:build"\nblocks = ["blocks.0", "blocks.1"]\n')
    assert predict(config).saved_bytes > before.saved_bytes  # the last block is the second
    file.write_text(f'model = "{SMALL}:build"\nblocks = ["blocks.*"]\n')
    assert predict(config) == before


def test_labels_of_pixels_are_said_in_the_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(f'model = "{SMALL}:painting"\nlabels = "pixels"\n')
    config = Config(str(file), 16, 4, 2, method="full")
    predicted, measured = predict(config), measure(config)
    assert predicted.input_bytes == measured.input_bytes == 2 * 16 * 16 * (3 * 4 + 8)
    assert (predicted.saved_bytes, predicted.peak_bytes) == (measured.saved_bytes, measured.peak_bytes)


def test_a_function_may_be_given_arguments(tmp_path: Path) -> None:
    few = predict(Config(f"{SMALL}:painting(width=4)", 16, 4, 2, method="linear"))
    many = predict(Config(f"{SMALL}:painting( width = 8 )", 16, 4, 2, method="linear"))
    assert few.parameter_bytes < many.parameter_bytes
