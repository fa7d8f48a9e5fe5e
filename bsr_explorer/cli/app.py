"""The commands, and how their errors are reported."""

from __future__ import annotations

import errno
import warnings
from importlib import import_module
from typing import Annotated

import typer

from bsr_explorer.cli.console import fail
from bsr_explorer.errors import UserError, unwritable
from bsr_explorer.interrupt import CODE
from bsr_explorer.version import __version__

app = typer.Typer(
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"bsr-explore {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """What will fine-tuning a vision transformer cost, and which accuracy can a memory budget buy?

    Examples:

      bsr-explore profile --model deit_s --method bsr

      bsr-explore search --model deit_s --budget 2GB
    """


COMMANDS = {
    "profile": "profile",
    "max-batch": "max_batch",
    "trace": "trace",
    "search": "search",
    "status": "status",
    "retry": "retry",
    "compare": "compare",
    "compare-studies": "compare_studies",
    "confirm": "confirm",
    "report": "report",
    "show": "show",
    "select": "select",
    "export": "export",
    "train": "train",
    "tokens": "tokens",
    "ranks": "ranks",
    "reproduce": "reproduce",
    "blocks": "blocks",
    "list": "listing",
}
"""Modules of the commands, each with a function of that name."""


def _register(arguments: list[str]) -> None:
    """Load the command that is asked for; all of them where it is none, for help and for what is like it."""
    asked = arguments[0] if arguments else ""
    for name in [asked] if asked in COMMANDS else COMMANDS:
        module = import_module(f"bsr_explorer.cli.{COMMANDS[name]}")
        app.command(name)(getattr(module, COMMANDS[name]))


def answer(arguments: list[str]) -> int:
    """Run a command; returns its exit code. What a user got wrong is one line and 2, without a traceback.

    Raises:
        KeyboardInterrupt: it was stopped.
    """
    # timm's own use of it, when it is imported: nothing that a user of ours could mend
    warnings.filterwarnings("ignore", message=r"`torch\.jit\.script` is deprecated", category=FutureWarning)
    _register(arguments)
    try:
        code = _run(arguments)
    except SystemExit as ended:
        code = ended.code
    if code == CODE:  # typer's own word for Ctrl-C
        raise KeyboardInterrupt
    return code if isinstance(code, int) else 0


def _run(arguments: list[str]) -> object:
    try:
        return app(args=arguments, standalone_mode=False)
    except UserError as error:
        fail(str(error))
    except OSError as error:
        name = error.filename or "the system"
        read_only = error.errno == errno.EROFS
        fail(unwritable(error, name) if read_only else f"{name}: {error.strerror or error}", code=1)
    except Exception as error:
        # typer's own usage errors, whose classes have moved between its versions
        say = getattr(error, "format_message", None)
        if say is None:
            raise
        fail(say())
    return None
