"""Data sets of the Hub: columns, parts, labels and images, and the copies of those that have a name."""

from __future__ import annotations

import json
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from bsr_explorer.data import cells, places, sources
from bsr_explorer.data.catalogue import DATASETS
from bsr_explorer.data.hub import PREFIX
from bsr_explorer.data.images import ImageSplit
from bsr_explorer.data.places import availability, check_data, count_classes
from bsr_explorer.data.reading import unreadable
from bsr_explorer.errors import UserError
from tests.data.making import assert_disjoint, load, parts, pixels, sizes, write_idx
from tests.hub_cache import CLASSES, TEST, TRAIN, birds, parquet, png, put, table

pa = pytest.importorskip("pyarrow")

DATA = "hub:acme/birds"

IMAGE = {"_type": "Image"}


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """The empty cache of this test."""
    return tmp_path / "hub"


def content(part: ImageSplit) -> Counter[tuple[bytes, int]]:
    """The images and labels of a part, in no order."""
    return Counter(
        (pixels(part, [item]).numpy().tobytes(), int(label)) for item, label in enumerate(part.labels)
    )


def refused(data: str, says: str, cache: Path) -> None:
    """A data set is refused before anything is loaded, and when it is."""
    for ask in (lambda: check_data(data, cache), lambda: count_classes(data), lambda: load(data)):
        with pytest.raises(UserError, match=f"^--data: .*{says}") as error:
            ask()
        assert "\n" not in str(error.value)


# --- images and labels ----------------------------------------------------------------------------------


def test_a_data_set_of_the_hub_is_what_the_same_image_folder_is(cache: Path, tmp_path: Path) -> None:
    for part, count in (("train", 30), ("test", 8)):
        for row in range(count):
            path = tmp_path / "folder" / part / CLASSES[row >= count // 2] / f"{row:02}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(png(row))
    files = {
        name: table([png(row) for row in range(count)], [int(row >= count // 2) for row in range(count)])
        for name, count in ((TRAIN, 30), (TEST, 8))
    }
    put(cache, "acme/birds", files)
    check_data(DATA, tmp_path)
    assert count_classes(DATA) == 2
    of_hub, of_folder = load(DATA), load(str(tmp_path / "folder"))
    assert of_hub.classes == of_folder.classes == CLASSES
    assert of_hub.contents == of_folder.contents
    assert of_hub.description == (
        "acme/birds@1a2b3c4: train 27 / validation 3 / test 8, validation cut from train, stratified, split seed 0"
    )
    assert of_hub.description.partition(": ")[2] == of_folder.description.partition(": ")[2]
    for mine, theirs in zip(parts(of_hub), parts(of_folder), strict=True):
        every = list(range(len(mine)))
        assert torch.equal(pixels(mine, every), pixels(theirs, every))
        assert mine.labels.tolist() == theirs.labels.tolist()


def test_parts_that_are_missing_are_cut_from_train(cache: Path) -> None:
    put(cache, "acme/birds", {TRAIN: birds(40)})
    put(cache, "acme/more", {"train.parquet": birds(40), "val.parquet": birds(6), "test.parquet": birds(4)})
    cut, given = load(DATA), load("hub:acme/more")
    assert sizes(cut) == (32, 4, 4) and cut.description.endswith("stratified, split seed 0")
    assert sizes(given) == (40, 6, 4) and given.description.endswith("split as given")
    assert_disjoint(cut)
    assert_disjoint(given)


def test_several_files_are_one_part_in_order(cache: Path) -> None:
    halves = [
        table([png(row) for row in rows], [row % 2 for row in rows]) for rows in (range(9), range(9, 20))
    ]
    put(cache, "acme/birds", {f"data/train-0000{n}-of-00002.parquet": half for n, half in enumerate(halves)})
    put(cache, "acme/whole", {TRAIN: birds()})
    apart, whole = load(DATA), load("hub:acme/whole")
    for mine, theirs in zip(parts(apart), parts(whole), strict=True):
        assert content(mine) == content(theirs)
        assert mine.indices.tolist() == theirs.indices.tolist()
    assert "data/train-00001-of-00002.parquet:10" in {
        name for part in parts(apart) for name in part.files().values()
    }


def test_deep_images_become_8_bits_as_files_do(cache: Path, tmp_path: Path) -> None:
    deep = np.arange(256, dtype=np.uint16).reshape(16, 16) * 257
    Image.fromarray(deep).save(tmp_path / "deep.png")
    put(cache, "acme/birds", {TRAIN: table([(tmp_path / "deep.png").read_bytes()] * 6, [0, 1] * 3)})
    red = pixels(load(DATA, mean=(0, 0, 0), std=(1, 1, 1)).train, [0])[0, 0]
    assert np.rint(red.numpy() * 255).astype(int).ravel().tolist() == list(range(256))


def test_a_part_that_is_not_asked_for_is_not_read(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(cache, "acme/birds", {TRAIN: birds(), TEST: birds()})
    read: list[str] = []
    original = cells.read_column
    monkeypatch.setattr(cells, "read_column", lambda *of: read.append(of[0].name) or original(*of))
    splits = load(DATA)
    assert read == []
    pixels(splits.train, [0, 1]), pixels(splits.validation, [0])
    assert read == [Path(TRAIN).name]
    pixels(load(DATA).test, [0])
    assert read == [Path(TRAIN).name, Path(TEST).name]


def test_the_identity_follows_from_what_lies_in_the_cache(cache: Path) -> None:
    root = put(cache, "acme/birds", {TRAIN: birds()})
    before = load(DATA, train_size=4).train.identity()
    assert load(DATA, train_size=4).train.identity() == before
    assert load(DATA, train_size=6).train.identity() != before
    (root / TRAIN).resolve().write_bytes(birds(22))
    assert load(DATA, train_size=4).train.identity() != before


def test_rows_without_a_label_are_left_out(cache: Path) -> None:
    labels = [-1 if row == 4 else None if row == 9 else row % 2 for row in range(22)]
    files = {
        TRAIN: table([png(row) for row in range(22)], labels),
        TEST: table([png(row) for row in range(5)], [-1] * 5),
    }
    put(cache, "acme/birds", files)
    splits = load(DATA)
    assert splits.left_out == {"unlabelled": 7}
    assert sizes(splits) == (16, 2, 2) and splits.description.endswith("/ test 2, stratified, split seed 0")
    names = {name for part in parts(splits) for name in part.files().values()}
    assert names == {f"{TRAIN}:{row}" for row in range(22) if row not in (4, 9)}


# --- columns --------------------------------------------------------------------------------------------


def test_of_several_labels_those_of_most_classes_are_taken(cache: Path) -> None:
    coarse = ([0] * 20, {"_type": "ClassLabel", "names": ["all", "none"]})
    fine = [row % 4 for row in range(20)]
    images = [png(row) for row in range(20)]
    for repository, other in (
        ("acme/birds", ("coarse", coarse)),
        ("acme/equal", ("other", (fine[::-1], {"_type": "ClassLabel", "names": ["w", "x", "y", "z"]}))),
    ):
        made = table(images, fine, "abcd", columns=("img", "fine"), more=dict([other]))
        put(cache, repository, {TRAIN: made})
    assert load(DATA).classes == ("a", "b", "c", "d")
    assert load("hub:acme/equal").classes == ("w", "x", "y", "z"), "the first of them"
    splits = load(DATA)
    assert all(
        int(name.rpartition(":")[2]) % 4 == label
        for part in parts(splits)
        for name, label in zip(part.files().values(), part.labels, strict=True)
    )


def columns(declared: dict[str, Any] | None, **values: Any) -> bytes:
    """A table of 4 rows: ``image`` and ``label``, and others."""
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    images = pa.array([{"bytes": png(row), "path": None} for row in range(4)], kind)
    return parquet({"image": images, "label": pa.array([0, 1, 0, 1]), **values}, declared)


LABEL = {"_type": "ClassLabel", "names": ["a", "b"]}


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (
            columns(None),
            r"no column of train-00000-of-00001.parquet is declared an Image; there are image \(struct<bytes: .*\), "
            r"label \(int64\); choose a data set of images and classes",
        ),
        (
            columns({"image": IMAGE}),
            r"is declared a ClassLabel of at least 2 classes; there are image \(Image\), label \(int",
        ),
        (columns({"label": LABEL}), r"is declared an Image; there are image \(struct"),
        (
            columns({"image": IMAGE, "label": {"_type": "Value"}}),
            r"a ClassLabel .*; there are .*, label \(Value\)",
        ),
        (columns({"image": IMAGE, "label": {**LABEL, "names": ["a"]}}), "ClassLabel of at least 2 classes"),
        (columns({"image": IMAGE, "label": {"_type": "ClassLabel"}}), "ClassLabel of at least 2 classes"),
        (columns({"image": IMAGE, "labels": LABEL}), r"a ClassLabel .*; there are .*, label \(int64\)"),
        (columns({"image": IMAGE, "label": LABEL}, image=pa.array(["a.png"] * 4)), "is declared an Image;"),
        (columns({"image": IMAGE, "label": LABEL}, label=pa.array(list("abab"))), "is declared a ClassLabel"),
        (columns({"image": [IMAGE], "label": LABEL}), "is declared an Image;"),
        (
            parquet({"text": pa.array(["a"])}, {"text": {"_type": "Value"}}),
            r"Image; there are text \(Value\);",
        ),
    ],
)
def test_columns_that_are_not_declared(made: bytes, says: str, cache: Path) -> None:
    put(cache, "acme/birds", {TRAIN: made})
    refused(DATA, says, cache)


def test_metadata_that_cannot_be_read_declare_nothing(cache: Path) -> None:
    import pyarrow.parquet as pq

    path = cache / "a.parquet"
    for number, said in enumerate(("{", "[]", '{"info": {"features": [1]}}', '{"info": null}')):
        cache.mkdir(exist_ok=True)
        pq.write_table(pa.table({"image": [1]}).replace_schema_metadata({"huggingface": said}), path)
        put(cache, f"acme/birds{number}", {TRAIN: path.read_bytes()})
        refused(f"{DATA}{number}", "is declared an Image; there are image", cache)


def test_files_that_differ_in_their_columns(cache: Path) -> None:
    put(cache, "acme/birds", {TRAIN: birds(), TEST: birds(classes=("b", "a"))})
    refused(DATA, f"{TRAIN} and {TEST} differ in their columns or classes", cache)


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        ([0, 1, 2] * 4, "has the label 2 in 'label', which has 2 classes; choose another data set"),
        ([-1] * 12, "no image of its training part has a label; choose another data set"),
        ([0] * 10 + [1] * 2, r"class 'b' has too few images .*\(2 of at least 3\); choose another data set"),
    ],
)
def test_labels_that_cannot_be_used(labels: list[int], says: str, cache: Path) -> None:
    put(cache, "acme/birds", {TRAIN: table([png(row) for row in range(12)], labels)})
    check_data(DATA, cache)
    with pytest.raises(UserError, match=f"^--data: .*{says}"):
        load(DATA)


def test_a_file_that_is_no_table(cache: Path) -> None:
    root = put(cache, "acme/birds", {TRAIN: b"<html>not found</html>"})
    refused(
        DATA,
        rf"cannot read {root / TRAIN} \(.*\); delete {(root / TRAIN).resolve()} to download it again",
        cache,
    )


def test_what_reads_tables_is_an_extra(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(cache, "acme/birds", {TRAIN: birds()})
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    refused(DATA, r'hub:acme/birds needs pyarrow; install it with pip install "bsr-explorer\[hub\]"', cache)


# --- damaged images -------------------------------------------------------------------------------------


def test_damaged_cells_are_named_and_left_out(cache: Path) -> None:
    images: list[bytes | None] = [png(row) for row in range(40)]
    images[3], images[8], images[20] = png(3)[:200], None, b"<html>not found</html>"
    put(cache, "acme/birds", {TRAIN: table(images, [row % 2 for row in range(40)])})
    splits = load(DATA)
    files = {path: name for part in parts(splits) for path, name in part.files().items()}
    found = {files[path]: why for path, why in unreadable(files).items()}
    assert set(found) == {f"{TRAIN}:{row}" for row in (3, 8, 20)}
    assert "truncated" in found[f"{TRAIN}:3"]
    assert found[f"{TRAIN}:8"] == "an empty cell"
    assert found[f"{TRAIN}:20"] == "cannot identify image file"
    damaged = next(part for part in parts(splits) if f"{TRAIN}:3" in part.files().values())
    with pytest.raises(UserError, match=rf"cannot read .*{TRAIN}:3 \(.*truncated.*--skip-bad"):
        damaged[list(damaged.files().values()).index(f"{TRAIN}:3")]
    rest = load(DATA, skip=tuple(found))
    assert (sum(sizes(rest)), rest.left_out) == (37, {"damaged": 3})
    assert not unreadable({path: name for part in parts(rest) for path, name in part.files().items()})


# --- data sets that have a name -------------------------------------------------------------------------


def copy_of(name: str, cache: Path, train: int, test: int, folder: str = "plain") -> dict[str, list[int]]:
    """Put a copy of a named data set into the cache, of so many images a class.

    Returns:
        The rows of each class's training images, by torchvision's name of it.
    """
    info = DATASETS[name]
    assert info.copy is not None
    theirs = {ours: spelt for spelt, ours in info.copy.spelling.items()}
    names = {
        "fashion_mnist": torchvision.datasets.FashionMNIST.classes,
        "food101": ["pie", "cheesecake", "cheese_plate", *(f"dish{number:03d}" for number in range(98))],
        "cifar100": ["apple", "crab", *(f"thing{number:02d}" for number in range(98))],
        "cifar10": [f"thing {number}" for number in range(10)],
    }[name]
    spelt = [theirs.get(each, each) for each in names]
    assert (spelt != names) == bool(info.copy.spelling)
    files = {}
    for part, count in (("train", train), (info.copy.test, test)):
        labels = [row % info.classes for row in range(count * info.classes)]
        images = [png((part, row), side=8) for row in range(len(labels))]
        files[f"{folder}/{part}-00000-of-00001.parquet"] = table(images, labels, spelt)
    put(cache, info.copy.repository, files)
    return {each: list(range(label, train * info.classes, info.classes)) for label, each in enumerate(names)}


@pytest.mark.parametrize("name", ["fashion_mnist", "cifar10", "cifar100", "food101"])
def test_a_named_data_set_is_read_from_its_copy(name: str, cache: Path, tmp_path: Path) -> None:
    info = DATASETS[name]
    assert availability(info, tmp_path) == "download"
    rows = copy_of(name, cache, train=4, test=1)
    assert availability(info, tmp_path) == "hub cache"
    check_data(name, tmp_path)
    splits = load(name, tmp_path)
    assert sizes(splits) == (3 * info.classes, info.classes, info.classes)
    assert set(splits.classes) == set(rows)
    assert list(splits.classes) == (sorted(rows) if name == "food101" else list(rows))
    assert splits.description.startswith(
        f"{name} of {info.copy and info.copy.repository}/plain@1a2b3c4: train "
    )
    assert splits.description.endswith("validation cut from train, stratified, split seed 0")
    for part in (splits.train, splits.validation):
        for file, label in zip(part.files().values(), part.labels, strict=True):
            assert int(file.rpartition(":")[2]) in rows[splits.classes[label]]
    assert all(label in range(info.classes) for label in splits.test.labels)


def test_food_has_the_labels_that_torchvision_gives_it(cache: Path, tmp_path: Path) -> None:
    rows = copy_of("food101", cache, train=3, test=1)
    of_hub = load("food101", tmp_path)
    folder = tmp_path / "food-101"
    (folder / "meta").mkdir(parents=True)
    for part, count, of_copy in (("train", 3, "train"), ("test", 1, "validation")):
        files: dict[str, list[str]] = {}
        for label, dish in enumerate(rows):
            for number in range(count):
                row = label + number * 101
                files.setdefault(dish, []).append(f"{dish}/{part}{number}")
                path = folder / "images" / dish / f"{part}{number}.jpg"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(png((of_copy, row), side=8))
        (folder / "meta" / f"{part}.json").write_text(json.dumps(files))
    sources.load_named.cache_clear()
    assert availability(DATASETS["food101"], tmp_path) == "on disk", "torchvision's files come first"
    theirs = load("food101", tmp_path)
    assert theirs.description.startswith("food101: ")
    assert of_hub.classes == theirs.classes
    assert content(of_hub.test) == content(theirs.test)
    assert content(of_hub.train) + content(of_hub.validation) == content(theirs.train) + content(
        theirs.validation
    )


def test_torchvision_s_files_come_first(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy_of("fashion_mnist", cache, train=4, test=1)
    write_idx(tmp_path / "fashion_mnist")
    monkeypatch.setattr(cells, "read_column", lambda *_: pytest.fail("the copy is not read"))
    assert availability(DATASETS["fashion_mnist"], tmp_path) == "on disk"
    assert sizes(load("fashion_mnist", tmp_path)) == (50, 10, 20)
    assert load("fashion_mnist", tmp_path).train.files() == {}


def test_a_copy_is_no_copy_of_another_data_set(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy_of("cifar10", cache, train=2, test=1)
    info = DATASETS["cifar10"]
    for changed in (replace(info, classes=11), replace(info, copy=replace(info.copy, test="validation"))):  # type: ignore[arg-type]
        monkeypatch.setitem(DATASETS, "cifar10", changed)
        for ask in (lambda: check_data("cifar10", tmp_path), lambda: load("cifar10", tmp_path)):
            with pytest.raises(
                UserError, match="hub:uoft-cs/cifar10 in the Hub's cache is no copy of cifar10: it has 10"
            ):
                ask()


def test_without_what_reads_tables_a_copy_is_not_there(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy_of("cifar10", cache, train=2, test=1)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert availability(DATASETS["cifar10"], tmp_path) == "download"
    with pytest.raises(
        UserError, match=r"cifar10, which lies in the Hub's cache, needs pyarrow; install it .*\[hub\]"
    ):
        check_data("cifar10", tmp_path)
    monkeypatch.setattr(places, "answers", lambda url: True)
    check_data("cifar10", tmp_path)


def test_every_copy_is_of_a_data_set_that_torchvision_splits_in_two() -> None:
    from bsr_explorer.data.download import _OFFICIAL

    copies = {name: info.copy.repository for name, info in DATASETS.items() if info.copy is not None}
    assert all(set(_OFFICIAL.get(name, {"train": {}, "test": {}})) == {"train", "test"} for name in copies)
    assert all((PREFIX + repository).count("/") == 1 for repository in copies.values())
