"""Reading image files: how deep ones become 8 bits, which are refused, and what a damaged one says."""

from __future__ import annotations

import struct
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin

from bsr_explorer.data import reading as images
from bsr_explorer.data.reading import (
    MAX_SAMPLE,
    PHOTOMETRIC,
    SMAX_SAMPLE,
    SMIN_SAMPLE,
    Unreadable,
    extensions,
    read,
    to_rgb,
    unreadable,
)

GREYS = np.arange(256).reshape(16, 16)


def saved(path: Path, pixels: NDArray[Any], **tags: Any) -> Path:
    """An image of pixels (H, W), in the mode of their type; tags are of TIFF, by number."""
    info = TiffImagePlugin.ImageFileDirectory_v2()
    for tag, value in tags.items():
        info[int(tag.removeprefix("t"))] = value
    Image.fromarray(pixels).save(path, **({"tiffinfo": info} if tags else {}))
    return path


def levels(path: Path) -> NDArray[np.int64]:
    """(H, W), of an image whose three channels are equal."""
    pixels = np.asarray(read(path)).astype(np.int64)
    assert (pixels == pixels[..., :1]).all()
    return pixels[..., 0]


def sixteen(maximum: int = 65535) -> NDArray[np.uint16]:
    return np.rint(GREYS * (maximum / 255)).astype(np.uint16)


# --- more than 8 bits -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.png", "a.pgm", "a.tif", "a.jp2", "a.im"])
def test_16_bits_are_scaled_by_65535(name: str, tmp_path: Path) -> None:
    assert np.abs(levels(saved(tmp_path / name, sixteen())) - GREYS).max() <= (1 if name == "a.jp2" else 0)


@pytest.mark.parametrize("maximum", [256, 1000, 4095, 65535])
@pytest.mark.parametrize("plain", [True, False])
def test_a_pgm_is_scaled_by_its_own_maximum(maximum: int, plain: bool, tmp_path: Path) -> None:
    pixels = sixteen(maximum)
    content = f"{'P2' if plain else 'P5'}\n16 16\n{maximum}\n".encode()
    content += " ".join(map(str, pixels.ravel())).encode() if plain else pixels.astype(">u2").tobytes()
    (tmp_path / "a.pgm").write_bytes(content)
    assert (levels(tmp_path / "a.pgm") == GREYS).all()


def test_a_tiff_of_12_bits_is_scaled_by_4095(tmp_path: Path) -> None:
    values = sixteen(4095).ravel().astype(int)
    first, second = values[::2], values[1::2]
    packed = np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], axis=1)
    data = packed.astype(np.uint8).tobytes()
    tags = {256: 16, 257: 16, 258: 12, 259: 1, 262: 1, 273: 200, 277: 1, 278: 16, 279: len(data)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    head = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4)
    (tmp_path / "a.tif").write_bytes(head.ljust(200, b"\0") + data)
    with Image.open(tmp_path / "a.tif") as image:
        assert image.mode == "I;16"
    assert (levels(tmp_path / "a.tif") == GREYS).all()


def test_a_tiff_may_declare_fewer_bits_by_its_maximum(tmp_path: Path) -> None:
    declared = saved(tmp_path / "a.tif", sixteen(4095), **{f"t{MAX_SAMPLE}": 4095})
    assert (levels(declared) == GREYS).all()


def test_a_maximum_that_is_a_statistic_changes_no_brightness(tmp_path: Path) -> None:
    dark = sixteen() // 2
    path = saved(tmp_path / "a.tif", dark, **{f"t{MAX_SAMPLE}": int(dark.max()) - 100})
    assert (levels(path) == levels(saved(tmp_path / "b.tif", dark))).all()
    assert levels(path).max() == 127


def test_white_that_is_0_is_inverted_as_at_8_bits(tmp_path: Path) -> None:
    deep = saved(tmp_path / "a.tif", 65535 - sixteen(), **{f"t{PHOTOMETRIC}": 0})
    flat = saved(
        tmp_path / "b.tif", GREYS.astype(np.uint8), **{f"t{PHOTOMETRIC}": 0}
    )  # Pillow inverts it on its way
    with Image.open(flat) as image:
        assert image.tag_v2[PHOTOMETRIC] == 0
    assert (levels(deep) == levels(flat)).all()
    assert (levels(deep) == GREYS).all()


@pytest.mark.parametrize("name", ["a.tif", "a.pfm"])
def test_floats_go_from_0_to_1(name: str, tmp_path: Path) -> None:
    assert (levels(saved(tmp_path / name, (GREYS / 255).astype(np.float32))) == GREYS).all()


@pytest.mark.parametrize("kind", [np.float32, np.int32])
def test_a_tiff_may_declare_another_range(kind: Any, tmp_path: Path) -> None:
    pixels = (GREYS * 4 - 100).astype(kind)
    path = saved(tmp_path / "a.tif", pixels, **{f"t{SMIN_SAMPLE}": -100.0, f"t{SMAX_SAMPLE}": 920.0})
    assert (levels(path) == GREYS).all()


@pytest.mark.parametrize(
    ("pixels", "says"),
    [
        (GREYS.astype(np.float32), "mode F: its pixels go from 0 to 255, beyond their range of 0 to 1;"),
        (np.full((4, 4), np.nan, np.float32), "mode F: its pixels go from nan to nan, beyond"),
        (GREYS.astype(np.int32), "integers of 32 bits, or signed, whose range the file does not say;"),
    ],
)
def test_a_range_that_is_not_known_is_not_guessed(pixels: NDArray[Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(Unreadable, match=says):
        read(saved(tmp_path / "a.tif", pixels))


def test_what_is_declared_wrongly_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.tif", sixteen(), **{f"t{MAX_SAMPLE}": 4095})
    with pytest.raises(Unreadable, match="from 0 to 65535, beyond their range of 0 to 4095"):
        read(path)


def test_transparency_is_dropped() -> None:
    image = Image.new("RGBA", (2, 2), (200, 100, 50, 0))
    assert to_rgb(image).getpixel((0, 0)) == (200, 100, 50)


# --- formats --------------------------------------------------------------------------------------------


def test_every_format_that_pillow_writes_is_read(tmp_path: Path) -> None:
    Image.init()
    tried = set()
    for ending in sorted(extensions()):
        format_ = Image.registered_extensions()[ending]
        for mode in ("RGB", "L", "P", "1", "RGBA", "F"):
            path = tmp_path / f"{mode}{ending}"
            try:
                Image.new(mode, (32, 32)).save(path)
            except (KeyError, ValueError, OSError):
                continue
            if format_ == "EPS":  # needs Ghostscript
                continue
            assert read(path).mode == "RGB"
            tried.add(format_)
            break
    assert {
        "PNG",
        "JPEG",
        "TIFF",
        "GIF",
        "BMP",
        "WEBP",
        "JPEG2000",
        "PCX",
        "PPM",
        "TGA",
        "ICO",
        "SGI",
    } <= tried


def test_what_pillow_only_recognises_is_no_image() -> None:
    assert {".gif", ".jp2", ".pcx", ".mpo", ".png", ".jfif", ".psd"} <= extensions()
    assert not {".h5", ".hdf", ".grib", ".bufr", ".mpg", ".pdf", ".txt"} & extensions()


# --- damaged --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        SyntaxError("broken PNG file"),
        struct.error("unpack requires a buffer of 4 bytes"),
        zlib.error("Error -3 while decompressing"),
        IndexError("list index out of range"),
        ValueError("no such mode"),
        Image.DecompressionBombError("a bomb"),
        KeyError(77),
        OSError("image file is truncated\n(3 bytes not processed)"),
        AssertionError(),
    ],
)
def test_whatever_a_decoder_raises_is_said(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(Image, "open", broken)
    with pytest.raises(Unreadable) as caught:
        read(Path("a.png"))
    assert str(caught.value) == (" ".join(str(error).split()) or "AssertionError")


def test_ctrl_c_does_not_wait_for_the_images_that_are_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[Path] = []

    def slow(path: Path) -> None:
        begun.append(path)
        time.sleep(0.01)

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(images, "read", slow)
    with pytest.raises(KeyboardInterrupt):
        unreadable([tmp_path / str(number) for number in range(5000)], stop)
    assert len(begun) < 2500


def test_all_files_that_cannot_be_read_are_found(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(12):
        pixels = rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number:02}.{'png' if number % 2 else 'jpg'}")
    paths = sorted(tmp_path.iterdir())
    content = paths[2].read_bytes()
    paths[2].write_bytes(
        content[: len(content) * 3 // 4]
    )  # its header is whole, which is all that verify() reads
    paths[7].write_bytes(b"")
    paths[8].write_text("<html>not found</html>")
    paths[9].unlink()
    said: list[tuple[int, int]] = []
    found = unreadable(paths, lambda done, total: said.append((done, total)))
    assert list(found) == [paths[number] for number in (2, 7, 8, 9)]
    assert "truncated" in found[paths[2]]
    assert found[paths[7]] == found[paths[8]] == "cannot identify image file"
    assert "No such file" in found[paths[9]]
    assert said == [(done, 12) for done in range(1, 13)]
