"""From a configuration to its predicted ledger. (Only reading an unknown model's geometry loads torch.)"""

from __future__ import annotations

from bsr_explorer.config import Config
from bsr_explorer.cost import published
from bsr_explorer.cost.peak import step_ledger
from bsr_explorer.cost.step import step_rows
from bsr_explorer.ledger import Ledger, ledger
from bsr_explorer.models.geometry import Geometry, geometry
from bsr_explorer.models.vit import step_tape
from bsr_explorer.tape import Tape


def geometry_of(config: Config) -> Geometry:
    """The geometry of a configuration's model at its image size."""
    return geometry(config.model, config.image_size, config.num_classes)


def tape_of(config: Config) -> Tape:
    """The tape of a configuration's training step, rewritten by its method."""
    tape = step_tape(geometry_of(config), config.batch_size, config.attention)
    return config.how.rewrite(tape)


def predict(config: Config) -> Ledger:
    """What one training step of this configuration holds and computes, before it runs.

    Saved bytes, FLOPs, parameters, gradients and optimiser state are exact; ``peak_bytes`` is an estimate.

    Raises:
        UserError: the model, the image size or the method do not go together.
    """
    return step_ledger(tape_of(config), config.optimizer)


def counted_bytes(config: Config, counts: str) -> int:
    """What a budget counts of a configuration.

    Args:
        counts: ``peak`` (everything that a step holds), ``saved`` (activations for backward) or
            ``published`` (the BSR paper's own rule).
    """
    assert counts in ("peak", "saved", "published"), counts
    tape = tape_of(config)
    if counts == "published":
        return published.total_bytes(tape)
    rows = ledger(step_rows(tape, config.optimizer))
    return rows.saved_bytes if counts == "saved" else rows.held_bytes
