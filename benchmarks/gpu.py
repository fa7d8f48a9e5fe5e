"""All the evidence that a GPU can give, in one command: most valuable first, each result written as it comes.

    python benchmarks/gpu.py --minutes 8 --out reports/gpu-h200

Each piece is one of the other benchmarks, or a step that ``bsr-explore trace`` records, in a process of its own, with
the time that is left. What a piece prints as JSON lands in ``OUT/<piece>.json`` when it ends, and a line in
``OUT/pieces.jsonl`` says how it ended. Killed at any moment, it keeps what is there, and the same command goes on with
what is missing. With ``--device cpu`` it runs what needs no GPU, in small: a trial of the command itself.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from bsr_explorer.cli.console import out
from bsr_explorer.store.provenance import provenance
from bsr_explorer.store.records import write_text

HERE = Path(__file__).parent

STEPS = (
    'model = "deit_s"\nbatch_size = 128\nmethod = "bsr"\n',
    'model = "deit_s"\nbatch_size = 128\nmethod = "bsr"\nprecision = "amp_bf16"\n',
    'model = "deit_s"\nbatch_size = 32\nmethod = "full"\n',
    'model = "vit_b"\nbatch_size = 32\nmethod = "full"\nprecision = "amp_bf16"\n',
    'model = "deit_s"\nbatch_size = 32\nmethod = "mesa"\n',
    'model = "deit_s"\nbatch_size = 32\nmethod = "backrazor"\n',
    'model = "deit_s"\nbatch_size = 32\nmethod = "bsr+checkpoint"\n',
    'model = "dinov2_s"\nbatch_size = 32\nmethod = "last(k=3)"\nprecision = "amp_fp16"\n',
)
"""Configurations of the steps that are recorded."""

METHODS = (
    "full, bsr, last(k=3), linear, checkpoint, mesa, mesa(faithful=False), backrazor, backrazor(faithful=False), "
    "bsr+mesa"
)
TIMES = (("deit_s", "128", "fp32"), ("deit_s", "128", "amp_bf16"), ("vit_b", "32", "fp32"))
"""Steps that are timed: model, batch size, number format."""


@dataclass(frozen=True)
class Piece:
    """Something to measure.

    Attributes:
        name: of its files.
        words: of the command after Python; what it prints is JSON.
        seconds: what it takes at most.
    """

    name: str
    words: tuple[str, ...]
    seconds: int


def pieces(folder: Path, device: str) -> list[Piece]:
    """All of them, the most valuable first."""
    on = ("--device", device, "--json")
    if device == "cpu":
        return [
            Piece("exactness", (_script("exactness"), "--configs", "2", *on), 200),
            Piece("peak", (_script("peak"), "--configs", "2", "--out", str(folder / "peak"), *on), 120),
            _timed("deit_t", "2", "fp32", "full, bsr", "--pairs", "1", "--image-size", "32", *on),
        ]
    return [
        *(_recorded(folder, number, text) for number, text in enumerate(STEPS)),
        Piece("exactness", (_script("exactness"), "--configs", "25", *on), 200),
        Piece("cap", (_script("cap"), "--margin", "0.02", *on), 90),
        Piece("peak", (_script("peak"), "--configs", "60", "--out", str(folder / "peak"), *on), 120),
        *(_timed(*what, METHODS, "--pairs", "5", *on) for what in TIMES),
    ]


def _recorded(folder: Path, number: int, text: str) -> Piece:
    name = f"trace-{number}"
    write_text(folder / f"{name}.toml", f"[config]\n{text}")
    step = ("-m", "bsr_explorer", "trace", str(folder / f"{name}.toml"), "--json")
    return Piece(name, (*step, "--out", str(folder / f"{name}.step.json")), 60)


def _timed(model: str, batch: str, precision: str, methods: str, *more: str) -> Piece:
    flags = ("--model", model, "--batch-size", batch, "--precision", precision, "--methods", methods)
    return Piece(f"times-{model}-{precision}", (_script("step_time"), *flags, *more), 120)


def _script(name: str) -> str:
    return str(HERE / f"{name}.py")


def main() -> None:
    """Measure what is missing, while there is time."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    write_text(options.out / "machine.json", json.dumps(_machine(options.device)) + "\n")
    ends = time.monotonic() + 60 * options.minutes
    for piece in pieces(options.out, options.device):
        left = ends - time.monotonic()
        if (options.out / f"{piece.name}.json").exists():
            out.print(f"{piece.name}: there already", markup=False)
        elif left < 5:
            out.print(f"{piece.name}: no time is left", markup=False)
        else:
            out.print(f"{piece.name}: {run(piece, options.out, min(left, piece.seconds))}", markup=False)


def run(piece: Piece, folder: Path, seconds: float) -> str:
    """Run one piece; returns how it ended, which is also written."""
    began = time.monotonic()
    try:
        done = subprocess.run([sys.executable, *piece.words], capture_output=True, text=True, timeout=seconds)
        ended = _kept(done, folder / f"{piece.name}.json")
    except subprocess.TimeoutExpired:
        ended = f"stopped after {seconds:.0f} s"
    took = time.monotonic() - began
    with (folder / "pieces.jsonl").open("a") as lines:
        lines.write(json.dumps({"piece": piece.name, "ended": ended, "seconds": round(took, 1)}) + "\n")
    return f"{ended} ({took:.0f} s)"


def _kept(done: subprocess.CompletedProcess[str], file: Path) -> str:
    """Keep what was printed, if it is an answer. (Exactness ends with 1 where something was missed.)"""
    try:
        json.loads(done.stdout)
    except ValueError:
        last = (done.stderr.strip() or done.stdout.strip() or "nothing").splitlines()[-1]
        return f"failed: {last}"
    write_text(file, done.stdout)
    return "done" if done.returncode == 0 else f"done, exit {done.returncode}"


def _machine(device: str) -> dict[str, object]:
    if device == "cuda":
        import torch

        torch.cuda.init()
    return provenance(device)


if __name__ == "__main__":
    main()
