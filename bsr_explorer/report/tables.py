"""A study's tables, as frames, CSV and Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from bsr_explorer.report.front import Point, replica
from bsr_explorer.store.records import Record
from bsr_explorer.units import in_mb, in_mib


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
                "accuracy": record.accuracy,
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
    """The front, scaled for reading; deviations of single runs are empty."""
    return pd.DataFrame(
        [
            {
                "trial": point.number,
                "seeds": point.seeds,
                "accuracy (%)": round(100 * point.accuracy, 2),
                "std (points)": None if point.deviation is None else round(100 * point.deviation, 2),
                "memory (MB)": round(in_mb(point.bytes), 1),
                "memory (MiB)": round(in_mib(point.bytes), 1),
                "saving (×)": round(point.saving, 2),
                "train GFLOPs/step": round(point.record.predicted["train_flops"] / 1e9, 1),
                "compute saving (×)": round(point.compute_saving, 2),
                "method": point.method,
            }
            for point in ahead
        ]
    )


def front_markdown(ahead: Sequence[Point]) -> str:
    """The front as a Markdown table: mean ± standard deviation, and the seeds where there are several."""
    frame = front_frame(ahead).drop(columns="std (points)")
    frame["accuracy (%)"] = [
        f"{100 * p.accuracy:.2f}" + ("" if p.deviation is None else f" ± {100 * p.deviation:.2f}")
        for p in ahead
    ]
    for name, digits in (("memory (MB)", 1), ("memory (MiB)", 1), ("saving (×)", 2)):
        frame[name] = [f"{value:,.{digits}f}" for value in frame[name]]
    if all(point.seeds == 1 for point in ahead):
        frame = frame.drop(columns="seeds")
    return markdown(frame, as_text=True)


def markdown(frame: pd.DataFrame, as_text: bool = False) -> str:
    """A Markdown table with expressions in code; ``as_text``: cells as they are, ``90.0`` not as ``90``."""
    shown = frame.copy()
    if "method" in shown:
        shown["method"] = [f"`{method}`" for method in shown["method"]]
    aligned = ["left" if name == "method" else "right" for name in shown]
    text: dict[str, Any] = {"disable_numparse": True, "colalign": aligned} if as_text else {}
    return str(shown.to_markdown(index=False, **text))
