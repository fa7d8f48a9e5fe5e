"""The command line. Each command parses, calls and prints. Ctrl-C is handled here, before slow imports."""

from __future__ import annotations

import sys

from bsr_explorer import interrupt

STOPPED = "stopped: what was finished is kept, and the same command goes on from there"


def main() -> None:
    """Run the command line, and exit with its code. Stopped with Ctrl-C, that is 130, with one line on how to go on."""
    interrupt.listen()
    code, stopped = interrupt.CODE, True
    try:
        from bsr_explorer.cli.app import answer

        code = answer(sys.argv[1:] or ["--help"])
        stopped = interrupt.leave()
    except KeyboardInterrupt:
        interrupt.leave()
    except Exception:  # what else an exception became that was raised within a library
        if not interrupt.leave():
            raise
    if stopped:
        print(STOPPED, file=sys.stderr)
    sys.exit(interrupt.CODE if stopped else code)
