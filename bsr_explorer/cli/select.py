"""``bsr-explore select``: which configuration of a study to take, and why."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from bsr_explorer.cli import options
from bsr_explorer.cli.console import out
from bsr_explorer.errors import UserError
from bsr_explorer.store.study import COUNTS
from bsr_explorer.units import format_bytes, format_flops, format_number, parse_bytes

if TYPE_CHECKING:
    from bsr_explorer.report.front import Choice
    from bsr_explorer.store.records import Record

Under = Annotated[
    str | None, typer.Option(help="The best accuracy within so much memory, with its unit: 1.5GB, 800MiB.")
]
AtKnee = Annotated[
    bool, typer.Option("--knee", help="The knee of the front: beyond it, more memory buys less accuracy.")
]
Reaching = Annotated[
    str | None, typer.Option("--accuracy", help="The least memory with at least this accuracy: 0.85 or 85%.")
]


def select(
    study: options.StudyFolder,
    under: Under = None,
    at_knee: AtKnee = False,
    accuracy: Reaching = None,
    as_json: options.Json = False,
) -> None:
    """Take one configuration of a study's front, and say why.

    Without a criterion: the least memory whose accuracy cannot be told from the best.

    Examples:

      bsr-explore select reports/examples/deit_s-digits-2GB

      bsr-explore select reports/examples/deit_s-digits-2GB --under 600MB

      bsr-explore select reports/examples/deit_s-digits-2GB --accuracy 0.85 --json
    """
    choice = chosen(study, under, at_knee, accuracy)
    point, config = choice.point, choice.point.record.config
    if as_json:
        print(json.dumps(_answer(choice)))
        return
    out.print(
        f"[bold]{escape(point.method)}[/bold]\n"
        f"{escape(config['model'])}, {config['image_size']} px, batch {config['batch_size']}, {config['optimizer']}, "
        f"{config['precision']}, {config['attention']} attention, {config['device']}\n\n"
        f"accuracy  {point.said}\n"
        f"memory    {format_bytes(point.bytes)}, {format_number(point.saving, 2)}x less than full fine-tuning; "
        f"counted is {COUNTS[point.record.study['counts']]}\n"
        f"compute   {format_flops(point.record.predicted['train_flops'])} a step, "
        f"{format_number(point.compute_saving, 2)}x less\n"
        f"why       {escape(choice.reason)}\n\n"
        f"trial {point.number}; more of it:  bsr-explore show {escape(str(study))} {point.number}\n"
        f"as a file to train:  bsr-explore export {escape(str(study))} --trial {point.number} --out best.toml",
        soft_wrap=True,
    )


def chosen(study: Path, under: str | None, at_knee: bool, accuracy: str | None) -> Choice:
    """The point of a study's front by the one criterion that is given, or the recommendation.

    Raises:
        UserError: several criteria, one that cannot be read, or nothing that satisfies it.
    """
    from bsr_explorer.report import front

    given = {"--under": under is not None, "--knee": at_knee, "--accuracy": accuracy is not None}
    if sum(given.values()) > 1:
        named = " and ".join(flag for flag, there in given.items() if there)
        raise UserError(
            f"{named}: give one of --under, --knee and --accuracy, or none for the recommendation"
        )
    limit = None if under is None else parse_bytes(under, "--under")
    least = None if accuracy is None else parse_accuracy(accuracy)
    ahead = front.study_front(study)
    if limit is not None:
        return front.under(ahead, limit)
    if least is not None:
        return front.reaching(ahead, least)
    return front.knee(ahead) if at_knee else front.recommend(ahead)


def selected(study: Path, text: str) -> tuple[int, Record, str]:
    """The trial of a study that ``--select`` names or asks for: its number, its record, and why.

    Raises:
        UserError: it cannot be read, nothing satisfies it, or there is no such trial.
    """
    from bsr_explorer.report.front import pick, read_trials

    word, _, value = text.strip().partition(" ")
    value = value.strip()
    if word == "trial" and value.isdecimal():
        number = int(value)
        try:
            return number, pick(read_trials(study), number), "chosen by hand"
        except UserError as error:
            raise UserError(str(error).replace("TRIAL:", "--select: trial", 1)) from None
    if (word, bool(value)) not in (
        ("knee", False),
        ("recommended", False),
        ("under", True),
        ("accuracy", True),
    ):
        raise UserError(
            f'--select: cannot read {text!r}; write knee, recommended, "under 1.5GB", "accuracy 0.85" or "trial 5"'
        )
    try:
        choice = chosen(
            study,
            under=value if word == "under" else None,
            at_knee=word == "knee",
            accuracy=value if word == "accuracy" else None,
        )
    except UserError as error:
        raise UserError(re.sub(r"^--(under|accuracy):", "--select:", str(error))) from None
    return choice.point.number, choice.point.record, choice.reason


def parse_accuracy(text: str) -> float:
    """The accuracy in [0, 1] of ``0.85`` or ``85%``.

    Raises:
        UserError: anything else.
    """
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*(%?)\s*", text)
    value = float(match.group(1)) / (100 if match.group(2) else 1) if match else -1.0
    if not 0 <= value <= 1:
        raise UserError(f"--accuracy: cannot read {text!r}; write a part of 1 such as 0.85, or 85%")
    return value


def _answer(choice: Choice) -> dict[str, Any]:
    point = choice.point
    return {
        "trial": point.number,
        "method": point.method,
        "reason": choice.reason,
        "accuracy": point.accuracy,
        "accuracy_std": point.deviation,
        "seeds": point.seeds,
        "counts": point.record.study["counts"],
        "counted_bytes": point.bytes,
        "train_flops": point.record.predicted["train_flops"],
        "saving": point.saving,
        "config": point.record.config,
        "fidelity": point.record.fidelity,
        "data": point.record.data,
        "weights": point.record.weights,
    }
