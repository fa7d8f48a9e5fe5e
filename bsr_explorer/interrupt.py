"""Ctrl-C: noticed at any moment, obeyed between two steps, never lost.

Python raises ``KeyboardInterrupt`` wherever it happens to be. Within a destructor, or a callback of the garbage
collector or of a library in C, the exception is dropped ("Exception ignored in …") or comes back as another error,
and a command would go on as if nothing had been pressed. So the commands have a handler of their own (``listen``):

- It notes that Ctrl-C was pressed, whatever becomes of the exception (and that one is dropped is not shown).
- Then it raises ``KeyboardInterrupt`` at once, but within ``held`` nothing: there the loop asks between two steps
  (``check``), and a file that is being written is written to its end.
- Pressed again, it ends the process at once. That is no worse than a kill, which every command survives.

If the exception is dropped, the next ``check`` raises it again, or else the end of the command says so (``leave``).
Without ``listen``, as in a program that uses this package, Ctrl-C is Python's own and nothing here does anything.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from threading import current_thread, main_thread

CODE = 130
"""Exit code of a command that was stopped: 128 and the number of the signal, as a shell says it."""


@dataclass
class _Ear:
    """What is heard in this process.

    Attributes:
        listening: whether Ctrl-C comes to our handler.
        pressed: whether it was pressed since we listen.
        holds: how many ``held`` are open.
        tell: what tells of exceptions that Python drops.
    """

    listening: bool = False
    pressed: bool = False
    holds: int = 0
    tell: Callable[[sys.UnraisableHookArgs], object] = sys.unraisablehook


_EAR = _Ear()


def listen() -> None:
    """Hear Ctrl-C from here on. Where another handler hears it, or it is ignored (as in the background of a script),
    that stays so."""
    ours = current_thread() is main_thread() and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    _EAR.listening, _EAR.pressed, _EAR.holds = ours, False, 0
    if ours:
        signal.signal(signal.SIGINT, _hear)
        _EAR.tell, sys.unraisablehook = sys.unraisablehook, _dropped


def listening() -> bool:
    """Whether Ctrl-C comes to us in this process."""
    return _EAR.listening


def leave() -> bool:
    """Leave Ctrl-C to the system, which ends the process (a shell says 130 then too): for when all is done.

    Returns:
        Whether it was pressed before.

    Raises:
        KeyboardInterrupt: it is pressed at this very moment.
    """
    if _EAR.listening:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        sys.unraisablehook = _EAR.tell
        _EAR.listening = False
    return _EAR.pressed


def check() -> None:
    """To be called between two steps of whatever takes long.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed.
    """
    if _EAR.listening and _EAR.pressed:
        raise KeyboardInterrupt


@contextmanager
def held() -> Iterator[None]:
    """Let Ctrl-C wait for the next ``check``, or for the end of the outermost ``held``.

    Raises:
        KeyboardInterrupt: at its end, if Ctrl-C was pressed.
    """
    _EAR.holds += 1
    try:
        yield
    finally:
        _EAR.holds -= 1
    if not _EAR.holds:
        check()


def _hear(number: int, frame: object) -> None:
    if _EAR.pressed:
        _end()
    _EAR.pressed = True
    if not _EAR.holds:
        raise KeyboardInterrupt


def _dropped(what: sys.UnraisableHookArgs) -> None:
    if what.exc_type is not KeyboardInterrupt:
        _EAR.tell(what)


def _end() -> None:
    """End this process now. Its bars have hidden the cursor."""
    with suppress(OSError):
        os.write(2, b"\x1b[?25h\nstopped at once\n" if os.isatty(2) else b"stopped at once\n")
    os._exit(CODE)
