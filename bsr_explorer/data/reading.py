"""Reads image files into three channels of 8 bits."""

from __future__ import annotations

from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image, ImageFile

from bsr_explorer import interrupt
from bsr_explorer.data.cells import Cell, Encoded

BITS_PER_SAMPLE, PHOTOMETRIC, MAX_SAMPLE, SAMPLE_FORMAT, SMIN_SAMPLE, SMAX_SAMPLE = (
    258,
    262,
    281,
    339,
    340,
    341,
)
"""Tags of a TIFF file."""

SIXTEEN_BITS = ("I;16", "I;16L", "I;16B", "I;16N")
"""Modes of unsigned 16 bits, in any order of bytes."""

DEEP = (*SIXTEEN_BITS, "I", "F")
"""All of Pillow's modes of more than 8 bits a channel."""

AS_16_BITS = ("PPM", "PNG")
"""Formats whose mode ``I`` is 16 bits: Pillow scales a PGM's own maximum to 65535."""

RULES = 2
"""Counts how ``to_rgb`` changed: what was kept of images that were read by other rules is not used."""


class Unreadable(ValueError):
    """Why an image file cannot be used, in a line."""


@lru_cache(maxsize=1)
def extensions() -> frozenset[str]:
    """How the names of the files end that Pillow reads here, in lower case: ``.png``, ….

    Formats that it only recognises (``.h5``, ``.grib``, ``.mpg``, ``.wmf`` outside of Windows) are not among them.
    """
    Image.init()
    reads = {name for name, (factory, _) in Image.OPEN.items() if _decodes(factory)}
    reads.add("MPO")  # which the reader of JPEG reads
    return frozenset(ending for ending, name in Image.registered_extensions().items() if name in reads)


def _decodes(factory: Any) -> bool:
    if isinstance(factory, type) and issubclass(factory, ImageFile.StubImageFile):
        return getattr(factory, "_handler", None) is not None  # what others may have registered
    return getattr(factory, "format", None) != "MPEG"


def read(path: Encoded) -> Image.Image:
    """The first image of a file, or that of a cell, decoded whole, in RGB; see ``to_rgb``.

    Raises:
        Unreadable: whatever its decoder says, or an empty cell.
        UserError: the file of a cell cannot be read.
    """
    source = _content(path) if isinstance(path, Cell) else path
    try:
        with Image.open(source) as image:
            image.load()
            return to_rgb(image)
    except MemoryError:
        raise
    except Exception as error:  # each decoder has errors of its own: SyntaxError, struct.error, zlib.error, …
        said = str(error)
        for shown in (repr(source), repr(str(path)), str(path)):
            said = said.replace(shown, "")
        raise Unreadable(" ".join(said.split()) or type(error).__name__) from error


def _content(cell: Cell) -> BytesIO:
    encoded = cell.encoded()
    if encoded is None:
        raise Unreadable("an empty cell")
    return BytesIO(encoded)


def unreadable(
    paths: Collection[Encoded], told: Callable[[int, int], None] = lambda done, total: None
) -> dict[Encoded, str]:
    """The files or cells that cannot be used, and why. Each is decoded, in threads.

    Args:
        told: called with (files done, files in all).
    """

    def why(path: Encoded) -> str:
        try:
            read(path)
        except Unreadable as error:
            return str(error)
        return ""

    found = {}
    threads = ThreadPoolExecutor()
    try:
        for done, (path, said) in enumerate(zip(paths, threads.map(why, paths), strict=True), start=1):
            interrupt.check()
            if said:
                found[path] = said
            told(done, len(paths))
    finally:
        threads.shutdown(cancel_futures=True)  # what is left, if something went wrong
    return found


def to_rgb(image: Image.Image) -> Image.Image:
    """An image of any of Pillow's modes as RGB of 8 bits. Transparency is dropped.

    Modes of more than 8 bits are scaled by a range that does not depend on the pixels, or else images would differ
    in brightness that are alike:

    - 16 bits (``I;16…``, and ``I`` of PGM and PNG files): 0 to 65535; a TIFF file may say fewer bits, n, by
      ``BitsPerSample``, or by a ``MaxSampleValue`` of 2ⁿ - 1 (any other is a statistic of the one image): 0 to 2ⁿ - 1;
    - other integers (``I``, of signed 16 or of 32 bits): from ``SMinSampleValue`` to ``SMaxSampleValue`` of the TIFF
      file, and without these the image is refused: almost no file fills the range of 32 bits;
    - floats (``F``): the same two tags, or else 0 to 1.

    An image with a pixel outside of its range is refused, and not clipped. A TIFF file in which white is 0 is
    inverted, as Pillow does at 8 bits.

    Raises:
        Unreadable: the range is not known, or not kept to.
    """
    if image.mode in DEEP:
        return _eight_bits(image).convert("RGB")
    if image.mode == "La":  # premultiplied
        image = image.convert("LA")
    return image.convert("RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    low, high = _range(image)
    pixels = np.asarray(image).astype(np.float64)
    least, most = float(pixels.min()), float(pixels.max())
    level = (high - low) / 255
    if not low - level / 2 <= least <= most <= high + level / 2:  # false for NaN, too
        raise Unreadable(
            f"mode {image.mode}: its pixels go from {least:g} to {most:g}, beyond their range of {low:g} to "
            f"{high:g}; scale them to it, or save 8 or 16 bits"
        )
    scaled = (pixels - low) / level
    if _tags(image).get(PHOTOMETRIC) == 0:
        scaled = 255 - scaled
    return Image.fromarray(np.rint(scaled).clip(0, 255).astype(np.uint8))


def _range(image: Image.Image) -> tuple[float, float]:
    """What black and white are in an image of a mode of more than 8 bits."""
    tags = _tags(image)
    if image.mode in SIXTEEN_BITS:
        declared = int(_first(tags.get(MAX_SAMPLE), 0))
        if declared > 255 and (declared & (declared + 1)) == 0:
            return 0.0, float(declared)
        return 0.0, float(2 ** int(_first(tags.get(BITS_PER_SAMPLE), 16)) - 1)
    if image.mode == "I" and image.format in AS_16_BITS:
        return 0.0, 65535.0
    low, high = (_first(tags.get(tag), np.nan) for tag in (SMIN_SAMPLE, SMAX_SAMPLE))
    if low < high:
        return low, high
    if image.mode == "F":
        return 0.0, 1.0
    raise Unreadable(
        "integers of 32 bits, or signed, whose range the file does not say; save 8 or 16 bits, or say it by the tags "
        "SMinSampleValue and SMaxSampleValue of TIFF"
    )


def _tags(image: Image.Image) -> Any:
    return getattr(image, "tag_v2", {})


def _first(value: Any, otherwise: float) -> float:
    """The first of a tag's values, one for each channel."""
    if value is None:
        return otherwise
    return float(value[0] if isinstance(value, tuple) else value)
