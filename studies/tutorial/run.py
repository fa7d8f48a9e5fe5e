"""Run every command of the tutorial, as someone would who reads it.

    python studies/tutorial/run.py            # runs all in runs/tutorial, and says how long each took
    python studies/tutorial/run.py --write    # and puts what they printed, and their figures, into README.md

Less than 15 minutes on 2 CPU cores. Expected: the study's front rises from about 50 to 90%, the model reads digits it
has not seen, and nothing that was trained exceeds its predicted peak.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
PAGE = HERE / "README.md"
PICTURES = ("front.png", "memory_over_a_step.png")

BLOCK = re.compile(r"```(bash|python)\n(?P<code>.*?)```\n\n```\n(?P<output>.*?)```", re.DOTALL)
"""Something to run, and what it printed."""


@dataclass(frozen=True)
class Step:
    """A block of the page that is run."""

    language: str
    code: str

    @property
    def command(self) -> list[str]:
        """What is started."""
        return ["bash", "-euc", self.code] if self.language == "bash" else [sys.executable, "-c", self.code]


def steps(page: str) -> list[Step]:
    """The blocks of a page that are run, in order."""
    return [Step(match[1], match["code"]) for match in BLOCK.finditer(page)]


def filled(page: str, outputs: list[str]) -> str:
    """The page with what its blocks printed."""
    left = iter(outputs)

    def put(match: re.Match[str]) -> str:
        whole, start = match[0], match.start()
        return whole[: match.start("output") - start] + next(left) + whole[match.end("output") - start :]

    return BLOCK.sub(put, page)


def run(step: Step, folder: Path) -> str:
    """What a block prints; ends with its own exit code if that is not 0."""
    beside = str(Path(sys.executable).parent)
    environment = {**os.environ, "PATH": f"{beside}:{os.environ.get('PATH', '')}", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(step.command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        print(done.stdout, end="")
        raise SystemExit(done.returncode)
    return "\n".join(line.rstrip() for line in done.stdout.strip("\n").splitlines()) + "\n"


def picture_of(page: Path, to: Path) -> None:
    """A picture of the top of an HTML page, where there is a Chromium to take one."""
    browser = shutil.which("chromium")
    if browser is None:
        print("no chromium: pictures/report.png stays as it was")
        return
    flags = "--headless --no-sandbox --disable-gpu --hide-scrollbars --disable-background-networking --disable-sync"
    size = ["--window-size=1280,1000", f"--screenshot={to}"]
    subprocess.run([browser, *flags.split(), *size, page.resolve().as_uri()], check=True, capture_output=True)


def main() -> None:
    """Run, and say how long it took."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=Path("runs/tutorial"), help="emptied before it begins")
    parser.add_argument("--write", action="store_true", help="put outputs and pictures into the page")
    args = parser.parse_args()
    page = PAGE.read_text()
    shutil.rmtree(args.folder, ignore_errors=True)
    args.folder.mkdir(parents=True)
    began, outputs = time.monotonic(), []
    for step in steps(page):
        first = step.code.splitlines()[0]
        print(f"$ {first}{' …' if step.language == 'python' else ''}", flush=True)
        started = time.monotonic()
        outputs.append(run(step, args.folder))
        print(f"{outputs[-1]}({time.monotonic() - started:.0f} s)\n", flush=True)
    print(f"all of it: {(time.monotonic() - began) / 60:.1f} minutes")
    if args.write:
        PAGE.write_text(filled(page, outputs))
        for name in PICTURES:
            shutil.copy(args.folder / "study" / "figures" / name, HERE / "pictures" / name)
        picture_of(args.folder / "study" / "report.html", HERE / "pictures" / "report.png")


if __name__ == "__main__":
    main()
