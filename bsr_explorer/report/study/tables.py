"""A study's tables, as frames, CSV, Markdown and LaTeX."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from bsr_explorer.report.front import Point, covered_text
from bsr_explorer.report.markup import latex, markdown
from bsr_explorer.report.study.findings import Findings
from bsr_explorer.store.records import Record, write_text
from bsr_explorer.store.trials import replica
from bsr_explorer.units import format_number, in_mb, in_mib


def write(found: Findings, folder: Path) -> list[Path]:
    """Write a study's tables into its folder; returns their paths."""
    made = {
        "front.csv": front_frame(found.front).to_csv(index=False),
        "front.tex": front_latex(found),
        "trials.csv": trials_frame(found.records).to_csv(index=False),
    }
    for name, text in made.items():
        write_text(folder / name, text)
    return [folder / name for name in made]


def trials_frame(records: dict[int, Record]) -> pd.DataFrame:
    """Every trial, finished or not; bytes and FLOPs unscaled."""
    rows = []
    for number, record in sorted(records.items()):
        predicted, measured = record.predicted, record.measured or {}
        rows.append(
            {
                "trial": number,
                "replica": replica(record),
                "status": record.status,
                "method": record.method,
                record.judged.name: record.accuracy if record.judged.higher else record.perplexity,
                "counted_bytes": record.study.get("counted_bytes"),
                "held_bytes": predicted.get("held_bytes"),
                "saved_bytes": predicted.get("saved_bytes"),
                "peak_bytes": predicted.get("peak_bytes"),
                "forward_flops": predicted.get("forward_flops"),
                "train_flops": predicted.get("train_flops"),
                "image_size": record.config["image_size"],
                "trained_at": record.fidelity.get("image_size"),
                "trained_saved_bytes_predicted": measured.get("predicted_saved_bytes"),
                "trained_saved_bytes_measured": measured.get("saved_bytes"),
                "trained_peak_bytes_predicted": measured.get("predicted_peak_bytes"),
                "trained_peak_bytes_measured": measured.get("peak_bytes"),
                "seconds": round(record.seconds, 2),
                "images_trained": record.images_trained,
                "seed": record.seed,
                "weights": record.weights,
                "reason": record.reason,
                **{f"accuracy of {task}": value for task, value in record.accuracy_by_task.items()},
            }
        )
    frame = pd.DataFrame(rows)
    whole = [
        name for name in frame if str(name).endswith(("_bytes", "_flops", "predicted", "measured", "_at"))
    ]
    complete = [name for name in whole if frame[name].notna().all()]
    # pandas would turn whole numbers beside a gap into floats
    return frame.astype(dict.fromkeys(set(whole) - set(complete), "Int64"))


def front_frame(ahead: Sequence[Point]) -> pd.DataFrame:
    """The front, scaled but not rounded; deviations of single runs are empty."""
    return pd.DataFrame(
        [
            {
                "trial": point.number,
                "seeds": point.seeds,
                point.quality.column: point.drawn,
                _std(point): None if point.deviation is None else point.spread,
                "memory (MB)": in_mb(point.bytes),
                "memory (MiB)": in_mib(point.bytes),
                "saving (×)": point.saving,
                "train GFLOPs/step": point.record.predicted["train_flops"] / 1e9,
                "compute saving (×)": point.compute_saving,
                "method": point.method,
            }
            for point in ahead
        ]
    )


def _std(point: Point) -> str:
    """The head of the column of deviations."""
    return f"std ({point.quality.points})" if point.quality.points else "std"


def front_text(ahead: Sequence[Point]) -> pd.DataFrame:
    """The front as cells of text: mean ± standard deviation, and the seeds where there are several."""
    frame = front_frame(ahead).drop(columns=_std(ahead[0]))
    frame[ahead[0].quality.column] = [
        p.quality.bare(p.score, p.deviation, decimals=max(2, p.quality.decimals)) for p in ahead
    ]
    digits = {
        "memory (MB)": 1,
        "memory (MiB)": 1,
        "saving (×)": 2,
        "train GFLOPs/step": 1,
        "compute saving (×)": 2,
    }
    for name, count in digits.items():
        frame[name] = [format_number(value, count) for value in frame[name]]
    if all(point.seeds == 1 for point in ahead):
        frame = frame.drop(columns="seeds")
    return frame.astype(str)


def front_markdown(ahead: Sequence[Point]) -> str:
    """The front as a Markdown table."""
    return markdown(front_text(ahead), as_text=True)


def front_latex(found: Findings) -> str:
    """The front as a LaTeX table, the best of each column in bold; its caption says how many seeds."""
    record, study = found.points[0].record, found.study
    several = {point.seeds for point in found.front if point.deviation is not None}
    runs = (
        f"mean ± standard deviation over {' or '.join(map(str, sorted(several)))} seeds"
        if several
        else "one seed"
    )
    numbers = front_frame(found.front)
    quality = found.quality
    best = {"memory (MB)": "min", "memory (MiB)": "min", "train GFLOPs/step": "min"}
    best[quality.column] = "max" if quality.higher else "min"
    best |= {"saving (×)": "max", "compute saving (×)": "max"}
    return latex(
        front_text(found.front),
        f"Front of {record.config['model']} on {Path(record.data).name} within {study['budget']} "
        f"({MEMORY[study['counts']]}), batch {record.config['batch_size']}; {quality.name}: {runs}; "
        f"{covered_text(found.hypervolume)}.",
        {name: numbers[name] == getattr(numbers[name], most)() for name, most in best.items()},
    )


MEMORY = {
    "peak": "peak memory of a training step",
    "reserved": "memory that is reserved on the GPU",
    "device": "memory of the GPU, its context estimated",
    "saved": "saved activations",
    "published": "the BSR paper's accounting",
}
"""What a caption calls each accounting."""
