"""Data sets in a cache of the Hugging Face Hub, laid out as its client does, in tables as ``datasets`` writes them."""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

REVISION = "1a2b3c4" + "0" * 33

CLASSES = ("a", "b")

TRAIN, TEST = "data/train-00000-of-00001.parquet", "data/test-00000-of-00001.parquet"


def put(
    cache: Path, repository: str, files: Mapping[str, bytes], revision: str = REVISION, main: bool = True
) -> Path:
    """Put the files of a revision into a cache; ``main``: as the branch, not by the revision's hash alone.

    Returns:
        The revision's folder.
    """
    folder = cache / f"datasets--{repository.replace('/', '--')}"
    root = folder / "snapshots" / revision
    for name, content in files.items():
        blob, link = folder / "blobs" / hashlib.sha256(content).hexdigest(), root / name
        blob.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(content)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    if main:
        (folder / "refs").mkdir(exist_ok=True)
        (folder / "refs" / "main").write_text(revision)
    return root


def png(seed: Any, side: int = 16) -> bytes:
    """An image that is the same for the same seed."""
    pixels = np.random.default_rng(list(f"{seed}".encode())).integers(0, 256, (side, side, 3), dtype=np.uint8)
    written = io.BytesIO()
    Image.fromarray(pixels).save(written, "PNG")
    return written.getvalue()


def table(
    images: Sequence[bytes | None],
    labels: Sequence[int | None],
    classes: Sequence[str] = CLASSES,
    *,
    columns: tuple[str, str] = ("image", "label"),
    more: Mapping[str, tuple[Sequence[Any], Any]] | None = None,
) -> bytes:
    """A Parquet file of a column of images and one of labels.

    Args:
        images: encoded; None: no bytes, but a path.
        labels: one for each image.
        columns: the names of both.
        more: further columns before these, with what is declared of them.
    """
    import pyarrow as pa

    image, label = columns
    cells = [{"bytes": content, "path": f"{row}.png"} for row, content in enumerate(images)]
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    values = {
        **{name: pa.array(rows) for name, (rows, _) in (more or {}).items()},
        image: pa.array(cells, kind),
        label: pa.array(labels, pa.int64()),
    }
    declared = {
        **{name: feature for name, (_, feature) in (more or {}).items()},
        image: {"_type": "Image"},
        label: {"names": list(classes), "_type": "ClassLabel"},
    }
    return parquet(values, declared)


def parquet(values: Mapping[str, Any], declared: Mapping[str, Any] | None) -> bytes:
    """A Parquet file of pyarrow's arrays, with what is declared of them (None: nothing), in groups of 7 rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    made = pa.table(dict(values))
    if declared is not None:
        made = made.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": declared}})})
    written = io.BytesIO()
    pq.write_table(made, written, row_group_size=7)
    return written.getvalue()


def birds(count: int = 20, **options: Any) -> bytes:
    """A table of so many images of two classes, in turn."""
    return table([png(row) for row in range(count)], [row % 2 for row in range(count)], **options)
