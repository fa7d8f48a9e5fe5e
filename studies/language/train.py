"""A tiny language model, trained on docstrings and fine-tuned on the language reference, with several methods.

    python studies/language/train.py --minutes 20 [--out reports/language]

Both texts come with Python itself; tokens are bytes. A model is trained in full on the docstrings first (``text.py``).
Each method then fine-tunes it on the topics of ``help()`` (``--data text``), of which a tenth is held out, and the
perplexity of a byte of it is said: the exponential of the mean cross entropy, of 256 for who knows nothing. Beside it
stand what a step saves and holds at its peak, predicted and measured. Lines are written to ``table.csv`` as they come,
and what is there already is not trained again.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.rows import append_row, read_rows
from bsr_explorer.cli.console import err, out, table
from bsr_explorer.config import Config, Fidelity
from bsr_explorer.data.loader import loader
from bsr_explorer.data.places import default_data_dir
from bsr_explorer.data.text import load_texts
from bsr_explorer.finetune.build import build
from bsr_explorer.finetune.run import fine_tune
from bsr_explorer.finetune.watch import NOBODY
from bsr_explorer.quality import PERPLEXITY
from bsr_explorer.store.experiment import Experiment
from bsr_explorer.store.records import Record
from bsr_explorer.train.loop import evaluate
from bsr_explorer.trained import training, weights
from bsr_explorer.trained.training import Training
from studies.language.text import docstrings

CONFIG = Config("llama_tiny", image_size=128, num_classes=1, batch_size=16, method="full")
METHODS = (
    "linear",
    "last(k=1)",
    "last(k=2)",
    "lora",
    "lora(on=('qkv', 'proj', 'fc1', 'fc2'))",
    "full",
    "full+velora",
    "full+wtacrs",
    "full+asi",
    "full+wasi",
)
BEFORE, AFTER = 2e-3, 1e-3
"""Learning rates at their peaks, of the first training and of each fine-tune."""

DATA = "text"
"""What is fine-tuned on."""


def main() -> None:
    """Train what is not in the table yet."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=20.0, help="no further training is begun then")
    parser.add_argument("--steps", type=int, default=400, help="of the first training")
    parser.add_argument("--tuning-steps", type=int, default=150, help="of each fine-tune")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--methods", nargs="+", default=METHODS, help="method expressions")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("reports/language"),
        help="folder of the table and of the first model",
    )
    options = parser.parse_args()
    ends = time.monotonic() + 60 * options.minutes
    options.out.mkdir(parents=True, exist_ok=True)
    start = first(options.out, options.steps)
    file = options.out / "table.csv"
    known = {(row["method"], row["seed"]) for row in read_rows(file)}
    if ("none", "0") not in known:
        append_row(file, row_of("none", 0, perplexity(start)))
    for seed in range(options.seeds):
        for method in options.methods:
            config = replace(CONFIG, method=method, lr=AFTER)
            if (str(config.method), str(seed)) in known or time.monotonic() > ends:
                continue
            fidelity = of_steps(options.tuning_steps)
            record = fine_tune(config, DATA, fidelity, str(start / weights.FILE), seed)
            if record.perplexity is None:
                raise SystemExit(f"{record.method}: {record.status}, {record.reason}")
            append_row(file, row_of(record.method, seed, record.perplexity, record))
    rows = read_rows(file)
    out.print(table(list(rows[0]), [list(row.values()) for row in rows], left=(0,)))


def of_steps(steps: int) -> Fidelity:
    """One pass over as many sequences as so many steps take."""
    return Fidelity(train_size=steps * CONFIG.batch_size, epochs=1, recipe="language")


def first(folder: Path, steps: int) -> Path:
    """The folder of the model that was trained on docstrings, now or before."""
    text = folder / "docstrings.txt"
    if not text.exists():
        text.write_text(docstrings(), encoding="utf-8")
    config = replace(CONFIG, lr=BEFORE)
    experiment = Experiment("first", config, str(text), "random", of_steps(steps))
    asked = Training(experiment, folder=folder / "first", data_dir=default_data_dir())
    training.check(asked)
    record, _ = training.train(asked, lambda done, total, loss: None, NOBODY)
    if record.perplexity is None:
        raise SystemExit(f"the first training: {record.status}, {record.reason}")
    err.print(f"docstrings held out: perplexity {record.perplexity:.3f} a byte", markup=False)
    return folder / "first"


def perplexity(folder: Path) -> float:
    """A byte, of the topics that are held out, by the model of a folder."""
    held_out = load_texts(DATA, length=CONFIG.image_size).validation
    batches = loader(held_out, CONFIG.batch_size, shuffle=False, seed=0, drop_last=False)
    return PERPLEXITY.value(evaluate(weights.load(folder), batches, quality=PERPLEXITY))


def row_of(method: str, seed: int, perplexity: float, record: Record | None = None) -> dict[str, Any]:
    """A line of the table."""
    row: dict[str, Any] = {"method": method, "seed": seed, "perplexity a byte": f"{perplexity:.3f}"}
    if record is None:
        return {**row, "trained": 0, "saved MB": "", "peak MB": "", "peak off": "", "seconds": ""}
    measured = record.measured
    assert measured is not None and measured["predicted_saved_bytes"] == measured["saved_bytes"]
    model = build(Config.from_dict(record.config))
    return {
        **row,
        "trained": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "saved MB": f"{measured['saved_bytes'] / 1e6:.2f}",
        "peak MB": f"{measured['peak_bytes'] / 1e6:.2f}",
        "peak off": measured["predicted_peak_bytes"] - measured["peak_bytes"],
        "seconds": f"{record.seconds:.0f}",
    }


if __name__ == "__main__":
    main()
