"""Ctrl-C where Python drops the exception that it raises."""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import weakref
from collections.abc import Callable


def press() -> None:
    """Press Ctrl-C; the handler has run when this is over."""
    os.kill(os.getpid(), signal.SIGINT)
    for _ in range(10):
        pass


class _Freed:
    def __del__(self) -> None:
        press()


def in_a_destructor() -> None:
    """Press while an object is freed."""
    freed = _Freed()
    del freed


def in_a_weak_reference() -> None:
    """Press while the callback of a weak reference runs."""
    freed = type("Freed", (), {})()
    watch = weakref.ref(freed, lambda _: press())
    del freed
    assert watch() is None


def in_a_collection() -> None:
    """Press while garbage is collected."""

    def pressed(phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            press()

    gc.callbacks.append(pressed)
    try:
        gc.collect()
    finally:
        gc.callbacks.remove(pressed)


def in_a_callback() -> None:
    """Press while a library in C calls back."""
    ctypes.CFUNCTYPE(None)(press)()


DROPPED: tuple[Callable[[], None], ...] = (
    in_a_destructor,
    in_a_weak_reference,
    in_a_collection,
    in_a_callback,
)
"""After each of these a program goes on as if nothing had been pressed."""
