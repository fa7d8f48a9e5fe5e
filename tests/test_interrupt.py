"""Ctrl-C: never lost, and nothing torn; Python's own where nobody listens."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bsr_explorer import interrupt
from bsr_explorer.cli import STOPPED
from bsr_explorer.interrupt import check, held, leave, listen
from tests.pressing import DROPPED, press


@pytest.fixture
def listening() -> Iterator[None]:
    """As within a command."""
    listen()
    yield
    leave()


# --- where nobody listens -------------------------------------------------------------------------------


def test_in_the_program_of_a_user_ctrl_c_is_pythons_own() -> None:
    with pytest.raises(KeyboardInterrupt), held():
        press()
        pytest.fail("it waited")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    check()


@pytest.mark.parametrize("handler", [signal.SIG_IGN, lambda number, frame: None], ids=["ignored", "another"])
def test_what_is_not_for_us_is_left_alone(handler: Callable[..., None]) -> None:
    signal.signal(signal.SIGINT, handler)
    listen()
    press()
    check()
    assert not leave()
    assert signal.getsignal(signal.SIGINT) is handler


# --- where a command listens ----------------------------------------------------------------------------


@pytest.mark.usefixtures("listening")
def test_it_is_raised_at_once() -> None:
    with pytest.raises(KeyboardInterrupt):
        press()
    assert leave()


@pytest.mark.usefixtures("listening")
@pytest.mark.parametrize("dropped", DROPPED)
def test_what_python_dropped_is_raised_by_the_next_check(dropped: Callable[[], None]) -> None:
    check()
    dropped()
    with pytest.raises(KeyboardInterrupt):
        check()
    assert leave()


@pytest.mark.usefixtures("listening")
def test_it_waits_for_a_check_or_for_the_end_of_the_outermost_hold() -> None:
    done: list[str] = []
    with pytest.raises(KeyboardInterrupt), held():
        with held():
            press()
            done.append("inner")
        done.append("outer")
    assert done == ["inner", "outer"]
    with pytest.raises(KeyboardInterrupt), held():
        done.append("again")
        check()
        done.append("never")
    assert done == ["inner", "outer", "again"]


@pytest.mark.usefixtures("listening")
def test_an_error_within_a_hold_stays_the_error() -> None:
    with pytest.raises(ValueError, match="other"), held():
        press()
        raise ValueError("other")


def test_each_command_begins_with_nothing_pressed() -> None:
    listen()
    with pytest.raises(KeyboardInterrupt):
        press()
    assert leave()
    check()  # nobody listens
    signal.signal(signal.SIGINT, signal.default_int_handler)
    listen()
    check()
    assert not leave()


def python(code: str, *arguments: str) -> subprocess.Popen[str]:
    """A process that has its own Ctrl-C."""
    paths = os.pathsep.join(path for path in sys.path if path)
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, "PYTHONPATH": paths},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


DEAF = """
import time
from bsr_explorer import interrupt
interrupt.listen()
with interrupt.held():
    print("held", flush=True)
    time.sleep(60)
"""


def test_pressed_again_it_ends_the_process_at_once() -> None:
    process = python(DEAF)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    process.send_signal(signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(1)
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == interrupt.CODE
    assert time.monotonic() - began < 20
    assert process.communicate()[1] == "stopped at once\n"


@pytest.mark.thorough
@pytest.mark.long
def test_at_random_moments_it_ends_with_130_and_the_same_command_goes_on_to_the_same_end() -> None:
    paths = os.pathsep.join(path for path in sys.path if path)
    done = subprocess.run(
        [sys.executable, "-c", "from tests.interrupting import main; main()", "--interrupts", "3"],
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


# --- from the first moment of a command to its last -----------------------------------------------------

IMPORTING = """
import os, signal, sys
pressed = sys.argv.pop()
class Pressing:
    def find_spec(self, name, path=None, target=None):
        if name == pressed:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Pressing())
from bsr_explorer.cli import main
main()
"""
"""Presses when a module is looked for."""


@pytest.mark.thorough
@pytest.mark.parametrize("module", ["typer", "bsr_explorer.config", "rich.console", "torch", "timm"])
def test_while_modules_are_loaded(module: str) -> None:
    process = python(IMPORTING, "profile", "--model", "deit_t", "--measure", module)
    said, error = process.communicate(timeout=240)
    assert (process.returncode, said, error) == (interrupt.CODE, "", f"{STOPPED}\n")


@pytest.mark.parametrize("command", [("report",), ("export", "--select", "trial 0", "--out", "best.toml")])
def test_while_a_file_is_written(
    command: tuple[str, ...],
    cli: Callable[..., object],
    study_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    synced: list[int] = []
    real = os.fsync

    def pressed(handle: int) -> None:
        synced.append(handle)
        press()
        real(handle)

    monkeypatch.setattr(os, "fsync", pressed)
    done = cli(command[0], study_folder, *command[1:])
    assert (done.code, done.err.splitlines()[-1]) == (interrupt.CODE, STOPPED)  # type: ignore[attr-defined]
    assert "Traceback" not in done.err  # type: ignore[attr-defined]
    assert len(synced) == 1
    assert not list(tmp_path.rglob("*.tmp"))
