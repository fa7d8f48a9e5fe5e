"""What a classifier makes of digits in each of Pillow's modes, beside the same pixels at 8 bits.

    python benchmarks/image_modes.py

Digits of scikit-learn, on a dark grey that is not black, are put into each mode (in a file, where a format keeps the
mode) and read by ``to_rgb``; a linear classifier of their pixels is trained on 700 and tried on 300 others. Expected:
the accuracy of the same pixels at 8 bits in every row, and pixels that differ by no level (LAB: by 1, which is lost in
making it). ``convert("RGB")`` alone makes images of 16 bits white and floats black, which leaves chance. 20 s.
"""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.linear_model import RidgeClassifier

from bsr_explorer.data.reading import to_rgb

TRAIN, TEST, DARKEST = 700, 300, 40

FORMATS = {
    **dict.fromkeys(("1", "L", "LA", "P", "RGB", "RGBA"), "PNG"),
    **dict.fromkeys(("CMYK", "F", "LAB", "PA", "YCbCr"), "TIFF"),
    "I;16": "PNG",
    "I": "PPM",
}
"""A format whose reader gives this mode; images of others never come from a file, but from programs."""

BY_WAY_OF = {"La": "LA", "RGBa": "RGBA", "RGBX": "RGB", "LAB": "RGB", "PA": "P"}
"""What Pillow converts to a mode from, where it is not grey."""


def in_mode(mode: str, grey: NDArray[np.uint8]) -> Image.Image:
    """A grey image (H, W) of 0 to 255 in one of Pillow's modes, as its reader gives it."""
    height, width = grey.shape
    if mode.startswith("I;16"):
        kind = {"I;16B": ">u2", "I;16N": "=u2"}.get(mode, "<u2")
        deep = (grey.astype(np.uint16) * 257).astype(kind)
        image = Image.frombytes(mode, (width, height), deep.tobytes())
    elif mode == "I":
        image = Image.fromarray(grey.astype(np.int32) * 257)
    elif mode == "F":
        image = Image.fromarray(grey.astype(np.float32) / 255)
    else:
        plain = Image.fromarray(grey)
        image = plain.convert(BY_WAY_OF.get(mode, "L")).convert(mode)
    if mode not in FORMATS:
        return image
    file = io.BytesIO()
    image.save(file, FORMATS[mode])
    opened = Image.open(file)
    opened.load()
    assert opened.mode == mode, f"{FORMATS[mode]} gives {opened.mode} for {mode}"
    return opened


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = [row(mode) for mode in Image.MODES]
    print(json.dumps(rows) if options.json else table(rows))


def row(mode: str) -> dict[str, Any]:
    """What one mode comes to."""
    digits = load_digits()
    drawn, labels = digits.images[: TRAIN + TEST], digits.target[: TRAIN + TEST]
    grey = np.rint(DARKEST + drawn * ((255 - DARKEST) / 16)).astype(np.uint8)
    if mode == "1":
        grey = np.where(drawn < 8, 0, 255).astype(np.uint8)
    images = [in_mode(mode, pixels) for pixels in grey]
    read = _read(images, to_rgb)
    return {
        "mode": mode,
        "stored_as": FORMATS.get(mode, "in memory"),
        "accuracy_8_bits": _accuracy(np.repeat(grey[..., None], 3, axis=3), labels),
        "accuracy": _accuracy(read, labels),
        "accuracy_of_convert": _accuracy(_read(images, lambda image: image.convert("RGB")), labels),
        "most_levels_off": int(np.abs(read.astype(int) - grey[..., None]).max()),
    }


def _read(images: list[Image.Image], how: Callable[[Image.Image], Image.Image]) -> NDArray[np.uint8] | None:
    """(N, H, W, 3), or None if Pillow refuses."""
    try:
        return np.stack([np.asarray(how(image)) for image in images])
    except ValueError:
        return None


def _accuracy(pixels: NDArray[np.uint8] | None, labels: NDArray[np.int64]) -> float | None:
    """Of a classifier on images (N, H, W, 3) that it has not seen."""
    if pixels is None:
        return None
    flat = pixels[..., 1].reshape(len(pixels), -1) / 255
    classifier = RidgeClassifier().fit(flat[:TRAIN], labels[:TRAIN])
    return float(classifier.score(flat[TRAIN:], labels[TRAIN:]))


def table(rows: list[dict[str, Any]]) -> str:
    """The rows in Markdown."""
    lines = [
        "| mode | stored as | accuracy % at 8 bits | in this mode | by `convert` alone | levels off |",
        "|---|---|---|---|---|---|",
    ]
    for found in rows:
        shown = [found[key] for key in ("accuracy_8_bits", "accuracy", "accuracy_of_convert")]
        cells = ["refused" if value is None else f"{100 * value:.1f}" for value in shown]
        lines.append(
            f"| {found['mode']} | {found['stored_as']} | {' | '.join(cells)} | {found['most_levels_off']} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
