"""Gradual unfreezing: one more block after another."""

from __future__ import annotations

import pytest

from bsr_explorer.config import Config, Fidelity
from bsr_explorer.errors import UserError
from bsr_explorer.finetune.run import fine_tune
from bsr_explorer.methods import Gradual, Last, Linear
from bsr_explorer.prediction import predict, spread

CONFIG = Config("toy", 48, batch_size=4, method="gradual(k=2)")


def test_the_head_then_ever_more_blocks_train_for_as_many_steps_each() -> None:
    phases = Gradual(2).phases()
    assert [phase.method for phase in phases] == [Linear(), Last(1), Last(2)]
    assert sum(phase.share for phase in phases) == pytest.approx(1)


@pytest.mark.usefixtures("toy")
def test_it_holds_as_much_as_its_last_phase_and_computes_the_mean() -> None:
    last = predict(CONFIG.with_method("last(k=2)"))
    assert predict(CONFIG).peak_bytes == last.peak_bytes and predict(CONFIG).train_flops < last.train_flops
    found = spread(CONFIG)
    assert found is not None and found.shapes == 3


@pytest.mark.usefixtures("toy")
def test_a_training_begins_with_the_head_alone_and_is_measured_as_predicted() -> None:
    fidelity = Fidelity(train_size=24, val_size=16, epochs=2)
    measured = fine_tune(CONFIG, fidelity=fidelity, weights="random").measured
    assert measured is not None
    assert measured["saved_bytes"] == measured["predicted_saved_bytes"] == predict(CONFIG).saved_bytes


@pytest.mark.usefixtures("toy")
def test_more_blocks_than_there_are_are_refused() -> None:
    with pytest.raises(UserError, match="the model has 4 blocks, so k must be 1 to 4"):
        predict(CONFIG.with_method("gradual(k=5)"))
