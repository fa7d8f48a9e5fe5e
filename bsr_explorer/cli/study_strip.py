"""The strip of tokens in a study's report, of the recommended configuration: drawn where its trained weights are."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from bsr_explorer.config import Config
from bsr_explorer.data.places import default_data_dir
from bsr_explorer.errors import UserError
from bsr_explorer.prediction import tape_of
from bsr_explorer.report.commands import train_command
from bsr_explorer.report.study.strip import FILE, Strip
from bsr_explorer.store.experiment import Experiment
from bsr_explorer.store.folder import TRAINING

if TYPE_CHECKING:
    from bsr_explorer.report.study.findings import Findings

IMAGES = 4
"""Validation images that are drawn."""


def strip_of(found: Findings, study: Path, figures: Path) -> Strip | None:
    """The strip of a study's recommended configuration, drawn if ``train`` has left its weights; None, if it drops and
    merges no tokens, or its model is not known here.

    Args:
        study: folder of the study, as commands are to name it.
        figures: folder to draw into.
    """
    if found.unknown:
        return None
    chosen = found.recommendation.point
    wanted = Experiment.of_record(f"{found.study['name']}-trial-{chosen.number}", chosen.record, "auto")
    if not _drops(wanted.fidelity.at(wanted.config)):
        return None
    folder = Path("runs") / wanted.name
    tokens = ["bsr-explore", "tokens", str(folder), "--accuracy"]
    commands = train_command(study), shlex.join(tokens)
    try:
        of = _trained(folder, wanted)
        if of is None:
            return Strip(
                "The recommended configuration drops or merges tokens. A search keeps no weights. Which patches live "
                "on in the trained model, and its accuracy with and without that, is said by:",
                commands,
            )
        return Strip(
            f"Which patches of {IMAGES} validation images live on in the recommended configuration, as `{folder}` was "
            "trained. What was dropped is grey, and the patches of merged tokens have one colour.",
            file=_draw(of, folder, figures / FILE),
        )
    except UserError as error:
        return Strip(f"The strip of tokens could not be drawn: {error}. It is drawn by:", commands)


def _drops(config: Config) -> bool:
    """Whether what is left when training is over drops or merges tokens."""
    left = config.how.at_inference
    if left is None:
        return False
    return any(op.kind in ("drop_tokens", "merge_tokens") for op in tape_of(config.with_method(left)))


def _trained(folder: Path, wanted: Experiment) -> Experiment | None:
    """The training in a folder, if it is of this configuration, and has ended."""
    if not (folder / TRAINING).is_file():
        return None
    from bsr_explorer.trained import weights

    if not (folder / weights.FILE).is_file():
        return None
    there = Experiment.from_toml(folder / TRAINING)
    same = (there.config.model, there.config.how, there.data) == (
        wanted.config.model,
        wanted.config.how,
        wanted.data,
    )
    return there if same else None


def _draw(of: Experiment, folder: Path, file: Path) -> Path:
    from bsr_explorer.cli.tokens import rows_of
    from bsr_explorer.report.figures.tokens import draw
    from bsr_explorer.trained import followed

    strip = followed.strip_of(of, folder, default_data_dir(), IMAGES, control=False)
    return draw(strip.images, rows_of(strip.followed), str(strip.config.method), file)
