"""WTA-CRS's arguments, what it keeps, and a training that is interrupted."""

from __future__ import annotations

from pathlib import Path

import pytest

from bsr_explorer.config import Config
from bsr_explorer.errors import UserError
from bsr_explorer.finetune.measure import measure
from bsr_explorer.methods import WtaCrs, parse_method
from bsr_explorer.prediction import predict
from tests.methods.interrupted import check_it_goes_on


def test_it_is_written_as_it_is_read() -> None:
    assert str(WtaCrs()) == "wtacrs(ratio=0.3)"
    assert parse_method("wtacrs(ratio=0.5, on='fc2')") == WtaCrs(("fc2",), 0.5)


@pytest.mark.parametrize("ratio", ["0", "1.1", "-0.3", "True", "'half'"])
def test_other_ratios_are_refused(ratio: str) -> None:
    with pytest.raises(UserError, match="ratio must be above 0 and at most 1"):
        parse_method(f"wtacrs(ratio={ratio})")


def test_bytes_in_closed_form() -> None:
    """DeiT-S: three tenths of the rows of 5 widths, and where they stood."""
    batch, tokens, width = 4, 197, 384
    config = Config("deit_s", batch_size=batch)
    full, sampled = (predict(config.with_method(text)).saved_bytes for text in ("full", "wtacrs"))
    kept = int(0.3 * batch * tokens)
    assert full - sampled == 12 * 4 * ((batch * tokens - kept) * 5 * width - 2 * kept)


def test_sampling_what_fused_attention_holds_anyway_saves_nothing() -> None:
    config = Config("deit_s", batch_size=4)
    assert (
        predict(config.with_method("wtacrs(on='proj')")).saved_bytes
        > predict(config.with_method("full")).saved_bytes
    )


@pytest.mark.usefixtures("toy")
@pytest.mark.parametrize("ratio", [0.1, 0.55, 0.65, 0.9, 0.99])
def test_whatever_the_ratio_the_peak_is_exact(ratio: float) -> None:
    config = Config("toy", 64, batch_size=6, precision="amp_bf16", method=f"wtacrs(ratio={ratio})")
    difference = predict(config) - measure(config)
    assert (difference.rows, difference.peak_bytes) == ((), 0)


@pytest.mark.usefixtures("toy")
def test_a_training_that_is_interrupted_goes_on_to_the_last_bit(tmp_path: Path) -> None:
    """Its draws, too."""
    check_it_goes_on("last(k=2)+wtacrs", tmp_path, epochs=3, after=(1, 7))
