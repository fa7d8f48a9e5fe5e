"""``bsr-explore select``: which configuration of a study to take, and why."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from bsr_explorer.cli import options
from bsr_explorer.cli.console import out
from bsr_explorer.errors import UserError
from bsr_explorer.store.study import COUNTS
from bsr_explorer.units import format_bytes, format_flops, format_less, parse_bytes

if TYPE_CHECKING:
    from bsr_explorer.report.choice import Choice
    from bsr_explorer.report.front import Point
    from bsr_explorer.store.records import Record

WORDS = 'recommended, knee, "under 1.5GB", "reaching 85%" or "trial 5"'
"""What names a configuration of a study, on every command line that takes one."""

Which = Annotated[
    list[str] | None,
    typer.Argument(metavar="[WHICH]...", help=f"{WORDS}; recommended if left out.", show_default=False),
]


def select(study: options.StudyFolder, which: Which = None, as_json: options.Json = False) -> None:
    """Choose one configuration of a study, and say why: the recommended one, the knee of its front, and so on.

    Recommended is the least memory whose accuracy (or perplexity) cannot be told from the best; beyond the knee, more
    memory buys less. `train --select` and `export --select` take the same words.

    Examples:

      bsr-explore select reports/examples/deit_s-digits-2GB

      bsr-explore select reports/examples/deit_s-digits-2GB under 600MB

      bsr-explore select reports/examples/deit_s-digits-2GB reaching 85% --json
    """
    from bsr_explorer.report.choice import Choice
    from bsr_explorer.report.commands import train_command
    from bsr_explorer.report.front import point_of

    words = " ".join(which or ["recommended"])
    number, record, reason = selected(study, words, "WHICH")
    point, config = point_of(study, number, record), record.config
    if as_json:
        print(json.dumps(_answer(Choice(point, reason))))
        return
    out.print(
        f"[bold]{escape(point.method)}[/bold]\n"
        f"{escape(config['model'])}, {point.quality.size(config['image_size'])}, batch {config['batch_size']}, "
        f"{config['optimizer']}, "
        f"{config['precision']}, {config['attention']} attention, {config['device']}\n\n"
        f"{point.quality.name:8}  {point.said}\n"
        f"memory    {format_bytes(point.bytes)}, {format_less(point.saving)} than full fine-tuning; "
        f"counted is {COUNTS[point.record.study['counts']]}\n"
        f"compute   {format_flops(point.record.predicted['train_flops'])} a step, "
        f"{format_less(point.compute_saving)}\n"
        f"why       {escape(reason)}\n\n"
        f"trial {point.number}; more of it:  bsr-explore show {escape(shlex.quote(str(study)))} {point.number}\n"
        f"to train it in full:  {escape(train_command(study, words))}",
        soft_wrap=True,
    )


def selected(study: Path, words: str, key: str = "--select") -> tuple[int, Record, str]:
    """The trial of a study that words name or ask for (see ``WORDS``): its number, its record, and why.

    Args:
        key: under which it is said what is wrong with the words.

    Raises:
        UserError: they cannot be read, nothing satisfies them, or there is no such trial.
    """
    from bsr_explorer.report.choice import knee, recommend, under
    from bsr_explorer.report.front import study_front
    from bsr_explorer.store.trials import pick, read_trials

    word, _, value = words.strip().partition(" ")
    value = value.strip()
    choose: Callable[[Sequence[Point]], Choice]
    match word, bool(value):
        case "trial", True if value.isdecimal():
            try:
                return int(value), pick(read_trials(study), int(value)), "chosen by hand"
            except UserError as error:
                raise UserError(str(error).replace("TRIAL:", f"{key}: trial", 1)) from None
        case "recommended", False:
            choose = recommend
        case "knee", False:
            choose = knee
        case "under", True:
            choose = partial(under, limit=parse_bytes(value, key))
        case "reaching", True:
            choose = partial(_reaching, text=value, key=key)
        case _:
            raise UserError(f"{key}: cannot read {words!r}; write {WORDS}")
    ahead = study_front(study)
    try:
        choice = choose(ahead)
    except UserError as error:
        why = str(error).removeprefix(f"{key}: ")
        raise UserError(f"{key}: {why}") from None
    return choice.point.number, choice.point.record, choice.reason


def _reaching(ahead: Sequence[Point], text: str, key: str) -> Choice:
    from bsr_explorer.report.choice import reaching

    parse = parse_accuracy if ahead[0].quality.higher else parse_perplexity
    return reaching(ahead, parse(text, key))


def parse_perplexity(text: str, key: str = "--select") -> float:
    """The perplexity of ``4.2``, of at least 1.

    Raises:
        UserError: anything else.
    """
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*", text)
    if match is None or float(match.group(1)) < 1:
        raise UserError(
            f"{key}: cannot read the perplexity {text!r}; write a number of at least 1, such as 4.2"
        )
    return float(match.group(1))


def parse_accuracy(text: str, key: str = "--select") -> float:
    """The accuracy in [0, 1] of ``0.85`` or ``85%``.

    Raises:
        UserError: anything else.
    """
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*(%?)\s*", text)
    value = float(match.group(1)) / (100 if match.group(2) else 1) if match else -1.0
    if not 0 <= value <= 1:
        raise UserError(f"{key}: cannot read the accuracy {text!r}; write a part of 1 such as 0.85, or 85%")
    return value


def _answer(choice: Choice) -> dict[str, Any]:
    point = choice.point
    return {
        "trial": point.number,
        "method": point.method,
        "reason": choice.reason,
        point.quality.name: point.value,
        f"{point.quality.name}_std": point.deviation,
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
