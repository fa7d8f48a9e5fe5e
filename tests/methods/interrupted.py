"""A training that is interrupted twice, and goes on."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from bsr_explorer.config import Config, Fidelity
from bsr_explorer.finetune.job import Job
from bsr_explorer.finetune.run import run
from bsr_explorer.train.recipes import RECIPES


def check_it_goes_on(
    method: str, folder: Path, epochs: int, after: Iterable[int], recipe: str = "standard"
) -> None:
    """It ends as if it had not been interrupted, to the last bit.

    Args:
        folder: of its checkpoint.
        after: two numbers of steps, after which it is interrupted.
        recipe: whose optimiser it trains with.
    """
    config = Config("toy", 48, batch_size=4, method=method, optimizer=RECIPES[recipe].optimizer)
    fidelity = Fidelity(image_size=32, train_size=20, val_size=20, epochs=epochs, recipe=recipe, views=1)
    job = {"weights": "random", "fidelity": fidelity, "seed": 3, "every_epoch": True}
    whole, stops = run(config, Job(**job)), set(after)  # type: ignore[arg-type]

    def stop(done: int, total: int, loss: float) -> None:
        if done in stops:
            stops.discard(done)
            raise KeyboardInterrupt

    again = Job(**job, checkpoint=folder / "checkpoint.pt", checkpoint_every=0.0)  # type: ignore[arg-type]
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            run(config, again, stop)
    ended = run(config, again)
    assert (ended.status, ended.losses, ended.history) == (whole.status, whole.losses, whole.history)
    assert ended.status == "finished"
