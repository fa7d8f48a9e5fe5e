"""``bsr-explore export``: a configuration of a study as a file that other commands take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tomli_w
import typer

from bsr_explorer.cli import options
from bsr_explorer.cli.console import say_written
from bsr_explorer.cli.select import WORDS, selected
from bsr_explorer.errors import UserError, unwritable
from bsr_explorer.store.experiment import Experiment
from bsr_explorer.store.folder import read_study
from bsr_explorer.store.records import write_text
from bsr_explorer.units import format_bytes


def export(
    study: options.StudyFolder,
    select: Annotated[str, typer.Option(help=f"{WORDS} (see `select`).")] = "recommended",
    file: Annotated[Path | None, typer.Option("--out", help="File to write. Printed if left out.")] = None,
) -> None:
    """Write one configuration of a study as TOML that `profile`, `train` and `search` take.

    The file keeps the data, weights, fidelity and seed of the trial. A search that is given the file tries it first.

    Examples:

      bsr-explore export reports/examples/deit_s-digits-2GB --select "trial 2" --out best.toml

      bsr-explore export reports/examples/deit_s-digits-2GB --select "under 600MB"
    """
    trial, record, reason = selected(study, select)
    settings = read_study(study)
    experiment = Experiment.of_record(f"{settings.name}-trial-{trial}", record, settings.weights)
    said = record.status if record.score is None else record.judged.text(record.score)
    size = format_bytes(int(record.study["counted_bytes"]))
    head = [
        f"Trial {trial} of {study}: {said}, {size} counting {settings.counts}.",
        f"Taken because: {reason}.",
        *(f"  bsr-explore {command} {file or 'FILE'}" for command in ("profile", "train", "search")),
    ]
    text = "".join(f"# {line}\n" for line in head) + "\n" + tomli_w.dumps(experiment.within(settings))
    if file is None:
        print(text, end="")
        return
    _write(file, text)
    say_written([file])


def _write(file: Path, text: str) -> None:
    """Write a file that is not there yet, or is the same."""
    try:
        if file.exists() and file.read_text() != text:
            raise UserError(f"--out: {file} is there already, with other content; choose another --out")
        write_text(file, text)
    except OSError as error:
        raise UserError(f"--out: {unwritable(error, file)}; choose another --out") from None
