"""Output of all commands: consoles, tables, errors, times."""

from __future__ import annotations

import ctypes
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bsr_explorer.config import CHOICES
from bsr_explorer.errors import UserError

out = Console(highlight=False, width=None if sys.stdout.isatty() else 132)
"""Results."""

err = Console(stderr=True, highlight=False, width=None if sys.stderr.isatty() else 132)
"""Progress and errors, so that results can be piped."""

_TIME = re.compile(r"([0-9]*\.?[0-9]+)\s*(s|m|min|h)?")
_SECONDS = {None: 1, "s": 1, "m": 60, "min": 60, "h": 3600}


def fail(message: str, code: int = 2) -> None:
    """Say one line and exit."""
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    raise SystemExit(code)


def table(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    title: str = "",
    left: Sequence[int] = (0,),
    fold: Sequence[int] = (),
) -> Table:
    """A table of right-aligned columns, but for those at the places ``left``; those of ``fold`` may wrap."""
    made = Table(title=title or None, title_justify="left", header_style="bold", box=None, pad_edge=False)
    for place, column in enumerate(columns):
        justify: Literal["left", "right"] = "left" if place in left else "right"
        made.add_column(escape(column), justify=justify, no_wrap=place not in fold, overflow="fold")
    for row in rows:
        made.add_row(*map(escape, row))  # a name with brackets is no markup
    return made


def say_written(paths: Iterable[Path], title: str = "Written:") -> None:
    """List files that were written; one in several formats is named once: ``front.{png,pdf,svg}``."""
    kinds: dict[Path, list[str]] = {}
    for path in paths:
        kinds.setdefault(path.with_suffix(""), []).append(path.suffix)
    out.print(f"\n{title}")
    for stem, of in kinds.items():
        ending = f".{{{','.join(kind.removeprefix('.') for kind in of)}}}" if len(of) > 1 else of[0]
        out.print(f"  {stem}{ending}", soft_wrap=True, markup=False)


def parse_seconds(text: str, key: str = "--time-limit") -> float:
    """Seconds of ``90``, ``90s``, ``10m`` or ``1h``.

    Raises:
        UserError: anything else, or nothing at all.
    """
    match = _TIME.fullmatch(text.strip())
    seconds = float(match.group(1)) * _SECONDS[match.group(2)] if match else 0.0
    if seconds <= 0:
        raise UserError(f"{key}: cannot read {text!r}; write a time such as 90s, 10m or 1h")
    return seconds


def format_seconds(seconds: float) -> str:
    """``42 s``, ``7 min 30 s`` or ``2 h 05 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def resolved(device: str) -> str:
    """A device by its own name. (Only ``auto`` has to ask torch, and only where a GPU's driver answers.)

    Raises:
        UserError: no such device.
    """
    if device in CHOICES["device"]:
        return device
    if device != "auto":
        raise UserError(f"--device: unknown device {device!r}; choose auto, {' or '.join(CHOICES['device'])}")
    if "torch" not in sys.modules and not driver_answers():
        return "cpu"
    from bsr_explorer.finetune.build import pick_device

    return pick_device(device)


def found_gpu(device: str) -> str | None:
    """The card that ``cuda`` is here, as ``--gpu`` takes it; None for other devices, and where there is none."""
    if device != "cuda" or ("torch" not in sys.modules and not driver_answers()):
        return None
    from bsr_explorer.finetune.build import card_here

    return card_here()


def driver_answers() -> bool:
    """Whether a driver is here without which torch finds no GPU: NVIDIA's library, or AMD's device."""
    if Path("/dev/kfd").exists():
        return True
    try:
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return False
    return True
