"""Data sets and folders, as they lie on disk."""

from __future__ import annotations

import gzip
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bsr_explorer.data import catalogue as datasets
from bsr_explorer.data import places
from bsr_explorer.data.catalogue import DATASETS
from bsr_explorer.data.places import availability, check_data
from bsr_explorer.errors import UserError
from tests.data.making import MEAN, STD, assert_disjoint, load, make_folder, parts, sizes, write_idx

DEBIAN = datasets.DEBIAN_FASHION_MNIST


@pytest.mark.parametrize(
    ("folder", "packed"), [("fashion_mnist", True), ("fashion_mnist", False), ("FashionMNIST/raw", False)]
)
def test_fashion_mnist_is_read_from_the_data_directory(tmp_path: Path, folder: str, packed: bool) -> None:
    write_idx(tmp_path / folder, packed=packed)
    check_data("fashion_mnist", tmp_path)
    splits = load("fashion_mnist", tmp_path, image_size=28)
    assert sizes(splits) == (50, 10, 20)
    assert_disjoint(splits)
    assert splits.description == (
        "fashion_mnist: train 50 / validation 10 / test 20, validation cut from train, stratified, "
        "split seed 0"
    )
    assert np.bincount(splits.validation.labels).tolist() == [1] * 10
    assert splits.test.labels.tolist() == [index % 10 for index in range(20)], (
        "the official test, in its order"
    )
    red = splits.test[0][0][0] * STD[0] + MEAN[0]
    assert red.min() > -1e-6 and red.max() < 1 + 1e-6 and len(set(red.flatten().tolist())) > 100


def test_debian_s_files_are_used_before_any_download(tmp_path: Path) -> None:
    write_idx(tmp_path / "debian")
    assert availability(DATASETS["fashion_mnist"], tmp_path / "empty") == "on disk"
    assert sizes(load("fashion_mnist", tmp_path / "empty")) == (50, 10, 20)


@pytest.mark.skipif(not DEBIAN.is_dir(), reason="needs Debian's package dataset-fashion-mnist")
def test_debian_s_fashion_mnist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "DEBIAN_FASHION_MNIST", DEBIAN)
    splits = load("fashion_mnist", tmp_path)
    assert sizes(splits) == DATASETS["fashion_mnist"].sizes
    assert_disjoint(splits)
    assert np.bincount(splits.train.labels).tolist() == [5400] * 10
    assert np.bincount(splits.validation.labels).tolist() == [600] * 10
    small = load("fashion_mnist", tmp_path, train_size=500, val_size=100)
    assert np.bincount(small.train.labels).tolist() == [50] * 10
    assert_disjoint(small)


def test_broken_idx_files(tmp_path: Path) -> None:
    folder = tmp_path / "fashion_mnist"
    write_idx(folder)
    labels = folder / "t10k-labels-idx1-ubyte.gz"
    good = labels.read_bytes()
    for bad in (b"no gzip", good[:20], gzip.compress(b"\0\0\x08\x03" + bytes(8)), gzip.compress(bytes(4))):
        labels.write_bytes(bad)
        with pytest.raises(UserError, match=r"--data: cannot read .*t10k-labels.*replace it"):
            load("fashion_mnist", tmp_path)
    labels.write_bytes(gzip.compress(b"\0\0\x08\x01" + bytes((0, 0, 0, 3)) + bytes(3)))
    with pytest.raises(UserError, match="20 test images and 3 labels"):
        load("fashion_mnist", tmp_path)


def test_class_folders_are_split_80_10_10(tmp_path: Path) -> None:
    make_folder(tmp_path / "birds", {"crow": 30, "owl": 60, "wren": 10})
    data = str(tmp_path / "birds")
    check_data(data, tmp_path)
    splits = load(data)
    assert sizes(splits) == (80, 10, 10)
    assert_disjoint(splits)
    assert splits.num_classes == 3
    assert splits.description == "birds: train 80 / validation 10 / test 10, stratified, split seed 0"
    for part in parts(splits):
        assert set(part.labels.tolist()) == {0, 1, 2}
    again = load(data)
    assert [part.indices.tolist() for part in parts(again)] == [
        part.indices.tolist() for part in parts(splits)
    ]


def test_the_fewest_images_that_can_be_split(tmp_path: Path) -> None:
    make_folder(tmp_path, {"a": 3, "b": 3})
    assert sizes(load(str(tmp_path))) == (2, 2, 2)


def test_grey_and_transparent_images_become_colour(tmp_path: Path) -> None:
    for mode in ("L", "RGBA", "P", "1", "LA", "CMYK"):
        for label in ("a", "b"):
            (tmp_path / label).mkdir(exist_ok=True)
            suffix = "tif" if mode == "CMYK" else "png"
            Image.new(mode, (20, 30)).save(tmp_path / label / f"{mode}.{suffix}")
    train = load(str(tmp_path)).train
    assert all(train[item][0].shape == (3, 16, 16) for item in range(len(train)))


@pytest.mark.parametrize(
    ("folders", "says"),
    [
        ({}, "has no folders of classes"),
        ({"train": 3, "test": 3}, "has no folders of classes"),
        ({"val/a": 3, "val/b": 3}, "has no folders of classes"),
        ({"a": 3}, "has one class, 'a'; give it at least 2"),
        ({"train/a": 9}, "has one class, 'a'; give it at least 2"),
        ({"a": 0, "b": 0}, "there are no images in the class folders of"),
        (
            {"train/a": 9, "train/b": 9, "test/a": 0, "test/b": 0},
            "there are no images in the class folders of",
        ),
        ({"a": 5, "b": 0}, r"class 'b' has too few images .* \(0 of at least 3\)"),
        ({"a": 5, "b": 2}, r"class 'b' has too few images .* \(2 of at least 3\)"),
        ({"train/a": 1, "train/b": 5, "test/a": 1, "test/b": 1}, r"class 'a' .* \(1 of at least 2\)"),
        ({"train/a": 9, "train/b": 9, "val/a": 3}, r"validation and train differ in their classes \('b'\)"),
        ({"train/a": 9, "train/b": 9, "test/a": 3, "test/c": 3}, r"test and train differ .*\('b', 'c'\)"),
    ],
)
def test_folders_that_cannot_be_used(folders: dict[str, int], says: str, tmp_path: Path) -> None:
    make_folder(tmp_path, folders)
    with pytest.raises(UserError, match=f"^--data: .*{says}") as caught:
        load(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_an_image_that_cannot_be_read(tmp_path: Path) -> None:
    make_folder(tmp_path, {"a": 3, "b": 3})
    for path in tmp_path.glob("*/*.png"):
        path.write_bytes(path.read_bytes()[: math.ceil(path.stat().st_size / 2)])
    with pytest.raises(
        UserError, match=r"--data: cannot read .*\.png .*; replace or remove it, or leave it out"
    ):
        load(str(tmp_path)).train[0]


def test_16_bits_look_as_8_bits_do(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(1, 256, (40, 16, 16)).astype(np.uint8)
    for name, kind, scale in (("deep", np.uint16, 257), ("flat", np.uint8, 1)):
        for number, image in enumerate(pixels):
            path = tmp_path / name / "ab"[number % 2] / f"{number:02}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.astype(kind) * scale).save(path)
    deep, flat = (load(str(tmp_path / name)).train for name in ("deep", "flat"))
    assert all(torch.equal(deep[item][0], flat[item][0]) for item in range(len(flat)))
    assert flat[0][0].std() > 0.5


def test_hidden_folders_and_files_are_left_out_and_counted(tmp_path: Path) -> None:
    make_folder(tmp_path, {"a": 6, "b": 5, ".ipynb_checkpoints": 2, "__MACOSX": 9, "a/.ipynb_checkpoints": 1})
    (tmp_path / "a" / "._0.png").write_bytes(b"Mac OS X")
    for number in range(12):
        (tmp_path / "b" / f"{number}.xyz").touch()
    data = str(tmp_path)
    assert places.count_classes(data) == 2
    splits = load(data)
    assert splits.classes == ("a", "b")
    assert splits.contents.classes == {
        "train": {"a": 4, "b": 3},
        "validation": {"a": 1, "b": 1},
        "test": {"a": 1, "b": 1},
    }
    assert splits.left_out == {".ipynb_checkpoints/": 3, "__MACOSX/": 9, "hidden": 1, ".xyz": 12}


def test_other_formats_are_images_too(tmp_path: Path) -> None:
    for number, ending in enumerate(("gif", "jp2", "pcx", "tga", "ico", "avif") * 2):
        folder = tmp_path / "ab"[number % 2]
        folder.mkdir(exist_ok=True)
        Image.new("RGB", (16, 16), (255, 0, 0)).save(folder / f"{number}.{ending}")
    splits = load(str(tmp_path))
    assert sum(sizes(splits)) == 12
    assert splits.left_out == {}
    assert all(splits.train[item][0][0].mean() > 2 for item in range(len(splits.train)))


def test_a_class_without_images_says_what_it_has_instead(tmp_path: Path) -> None:
    make_folder(tmp_path, {"a": 5, "b": 0})
    for number in range(12):
        (tmp_path / "b" / f"{number}.xyz").touch()
    with pytest.raises(UserError, match=r"class 'b' .* \(0 of at least 3; left out: 12 \.xyz\)"):
        load(str(tmp_path))
    for path in (tmp_path / "a").iterdir():
        path.rename(path.with_suffix(".raw"))
    with pytest.raises(
        UserError, match=r"no images in the class folders of .*; left out: 5 \.raw, 12 \.xyz; put"
    ):
        load(str(tmp_path))
