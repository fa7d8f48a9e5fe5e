"""The data sets: their parts, their files, their pixels, and what is said when something is wrong."""

from __future__ import annotations

import gzip
import json
import math
import pickle
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import nullcontext
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision import transforms

from bsr_explorer import interrupt
from bsr_explorer.data import catalogue as datasets
from bsr_explorer.data import images as images_module
from bsr_explorer.data import places, reach, sources
from bsr_explorer.data.catalogue import DATASETS
from bsr_explorer.data.images import ImageSplit
from bsr_explorer.data.loader import loader
from bsr_explorer.data.places import availability, check_data, default_data_dir, list_datasets
from bsr_explorer.data.splits import Splits, load_splits, stratified_order
from bsr_explorer.errors import UserError
from tests.pressing import press

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
DEBIAN = datasets.DEBIAN_FASHION_MNIST


@pytest.fixture(autouse=True)
def isolated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No network, no files of this machine's, and nothing remembered from another test."""
    monkeypatch.setattr(places, "answers", lambda url: False)
    monkeypatch.setattr(places, "DEBIAN_FASHION_MNIST", tmp_path / "debian")
    sources.load_named.cache_clear()
    images_module._STORE.clear()
    yield
    sources.load_named.cache_clear()
    images_module._STORE.clear()


def load(data: str, data_dir: Path = Path("nowhere"), **options: Any) -> Splits:
    return load_splits(data, **{"image_size": 16, "data_dir": data_dir, "mean": MEAN, "std": STD, **options})


def parts(splits: Splits) -> tuple[ImageSplit, ImageSplit, ImageSplit]:
    return splits.train, splits.validation, splits.test


def identities(part: ImageSplit) -> set[Any]:
    return {(part.pool_key, int(index)) for index in part.indices}


def sizes(splits: Splits) -> tuple[int, ...]:
    return tuple(len(part) for part in parts(splits))


def assert_disjoint(splits: Splits) -> None:
    sets = [identities(part) for part in parts(splits)]
    assert len(set.union(*sets)) == sum(sizes(splits)), "an image is in two parts, or twice in one"


# --- the stratified order -------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 6), min_size=1, max_size=80), st.integers(0, 2**31), st.data())
def test_every_beginning_of_the_order_is_stratified(
    labels: list[int], seed: int, draw: st.DataObject
) -> None:
    array = np.asarray(labels, dtype=np.int64)
    order = stratified_order(array, seed)
    assert sorted(order.tolist()) == list(range(len(labels)))
    assert (order == stratified_order(array, seed)).all()

    n = draw.draw(st.integers(0, len(labels)))
    whole, beginning = Counter(labels), Counter(array[order[:n]].tolist())
    for label, count in whole.items():
        share = count / len(labels)
        assert (n - len(whole)) * share - 1e-9 <= beginning[label] <= n * share + 1 + 1e-9
    assert len(beginning) == len(whole) or n < len(whole)


def test_the_order_depends_on_the_seed_and_favours_no_class() -> None:
    labels = np.repeat(np.arange(10), 20)
    assert (stratified_order(labels, 0) != stratified_order(labels, 1)).any()
    first = {int(labels[stratified_order(labels, seed)[0]]) for seed in range(50)}
    assert len(first) > 5


# --- digits ---------------------------------------------------------------------------------------------


def test_digits_are_split_60_20_20() -> None:
    splits = load("digits")
    assert sizes(splits) == DATASETS["digits"].sizes
    assert splits.num_classes == 10
    assert splits.description == "digits: train 1078 / validation 359 / test 360, stratified, split seed 0"
    assert_disjoint(splits)
    for part in parts(splits):
        counts = np.bincount(part.labels, minlength=10)
        assert counts.min() >= 0.09 * len(part) and counts.max() <= 0.115 * len(part)


def test_the_split_follows_from_the_seed() -> None:
    first, again, other = load("digits"), load("digits"), load("digits", split_seed=1)
    for one, same, different in zip(parts(first), parts(again), parts(other), strict=True):
        assert one.indices.tolist() == same.indices.tolist()
        assert identities(one) != identities(different)
    assert sizes(first) == sizes(other)


def test_subsets_are_nested_and_leave_the_other_parts_alone() -> None:
    whole = load("digits")
    small, large = (load("digits", train_size=n, val_size=n // 2) for n in (50, 200))
    assert sizes(small) == (50, 25, 360) and sizes(large) == (200, 100, 360)
    assert identities(small.train) < identities(large.train) < identities(whole.train)
    assert identities(small.validation) < identities(large.validation) < identities(whole.validation)
    assert identities(small.test) == identities(whole.test)
    assert np.bincount(small.train.labels).tolist() == [5] * 10
    assert "train 50 of 1078 / validation 25 of 359 / test 360" in small.description


def test_a_large_validation_takes_images_from_train_and_never_from_test() -> None:
    usual, large = load("digits"), load("digits", val_size=600)
    assert sizes(large) == (1797 - 360 - 600, 600, 360)
    assert identities(usual.validation) < identities(large.validation)
    assert identities(usual.test) == identities(large.test)
    assert_disjoint(large)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"train_size": 1079}, r"--train-size: 1079 .* choose from 10 .* to 1078"),
        ({"train_size": 9}, r"--train-size: 9 .* choose from 10 \(one of each class\)"),
        ({"val_size": 0}, r"--val-size: 0 .* choose from 10"),
        ({"val_size": -1}, r"--val-size: -1 "),
        ({"val_size": 1437}, r"--val-size: 1437 .* leaves a class with none to train on"),
        ({"val_size": 600, "train_size": 1000}, r"--train-size: 1000 .* to 837"),
        ({"augment": "flop"}, r"--augment: unknown value 'flop' \(did you mean 'flip'\?\)"),
    ],
)
def test_options_out_of_range(options: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says) as caught:
        load("digits", **options)
    assert "\n" not in str(caught.value)


# --- pixels ---------------------------------------------------------------------------------------------


def test_items_are_normalised_colour_images() -> None:
    from sklearn.datasets import load_digits

    splits = load("digits", image_size=8)
    image, label = splits.test[3]
    assert image.shape == (3, 8, 8) and image.dtype == torch.float32 and type(label) is int
    original = load_digits()
    index = int(splits.test.indices[3])
    assert label == original.target[index] == splits.test.labels[3]
    grey = torch.from_numpy(np.rint(original.images[index] * 255 / 16)).float() / 255
    expected = torch.stack([(grey - m) / s for m, s in zip(MEAN, STD, strict=True)])
    torch.testing.assert_close(image, expected)


def test_small_images_are_enlarged_with_the_filter_asked_for() -> None:
    tiny = load("digits", image_size=8).test[0][0]
    nearest = load("digits", image_size=112, interpolation="nearest").test[0][0]
    bicubic = load("digits", image_size=112).test[0][0]
    assert bicubic.shape == (3, 112, 112)
    torch.testing.assert_close(nearest, tiny.repeat_interleave(14, 1).repeat_interleave(14, 2))
    assert len(set(bicubic.flatten().tolist())) > len(set(nearest.flatten().tolist()))


def test_a_photograph_is_cropped_at_the_centre(tmp_path: Path) -> None:
    make_folder(tmp_path, {"a": 4, "b": 4}, width=40, height=20)
    image = load(str(tmp_path), image_size=20).test[0][0]
    pixels = (image * torch.tensor(STD)[:, None, None] + torch.tensor(MEAN)[:, None, None]) * 255
    # Red is the column in the original.
    torch.testing.assert_close(pixels[0, 0], torch.arange(10.0, 30.0))


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_a_squashed_photograph_is_all_of_it(tmp_path: Path, interpolation: str) -> None:
    make_folder(tmp_path, {"a": 4, "b": 4}, width=40, height=20)
    options = {"image_size": 24, "interpolation": interpolation, "mean": (0.0,) * 3, "std": (1.0,) * 3}
    squashed, cropped = (load(str(tmp_path), squash=squash, **options).test for squash in (True, False))
    filter_ = transforms.InterpolationMode(interpolation)
    whole = transforms.Compose([transforms.Resize((24, 24), filter_), transforms.PILToTensor()])
    theirs = {tuple(whole(Image.open(path)).flatten().tolist()) for path in tmp_path.rglob("*.png")}
    ours, others = (
        {tuple((255 * image).round().int().flatten().tolist()) for image, _ in part}
        for part in (squashed, cropped)
    )
    assert ours <= theirs
    assert not others & theirs
    assert squashed.identity() != cropped.identity()


# --- protocols ------------------------------------------------------------------------------------------


def test_without_images_held_out_all_are_trained_on_and_the_test_set_judges() -> None:
    usual, whole = load("digits"), load("digits", hold_out=False)
    assert sizes(whole) == (1797 - 360, 360, 360)
    assert identities(whole.train) == identities(usual.train) | identities(usual.validation)
    assert whole.validation is whole.test and identities(whole.test) == identities(usual.test)
    assert set(whole.contents.classes) == {"train", "test"}
    assert whole.description == (
        "digits: train 1437 / test 360, test cut from train, stratified, none held out for validation, split seed 0"
    )


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (
            {"train_size": 1000},
            "--train-size: 1000 is not allowed with --protocol authors, which takes all 1437 train",
        ),
        (
            {"val_size": 100},
            "--val-size: 100 is not allowed with --protocol authors, which takes all 360 test images",
        ),
    ],
)
def test_a_part_of_the_images_is_no_protocol(options: dict[str, int], says: str) -> None:
    with pytest.raises(UserError, match=says):
        load("digits", hold_out=False, **options)
    assert sizes(load("digits", hold_out=False, train_size=1437, val_size=360)) == (1437, 360, 360)


def test_kept_images_equal_those_transformed_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = load("digits", train_size=30)
    monkeypatch.setattr(images_module, "KEPT_BYTES", 0)
    anew = load("digits", train_size=30)
    assert kept.train.kept and not anew.train.kept
    for one, other in zip(batches(kept.train), batches(anew.train), strict=True):
        assert torch.equal(one[0], other[0]) and torch.equal(one[1], other[1])


def test_each_image_is_transformed_once_over_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    pixels = ImageSplit._pixels

    def counted(self: ImageSplit, item: int) -> NDArray[np.uint8]:
        made.append(item)
        return pixels(self, item)

    monkeypatch.setattr(ImageSplit, "_pixels", counted)
    for _ in range(3):
        splits = load("digits", train_size=40)
        batches(splits.train)
        batches(splits.train)
    assert sorted(made) == list(range(40))
    load("digits", train_size=40, image_size=24).train[0]
    assert len(made) == 80, "another image size is another set of images"


def test_ctrl_c_leaves_the_images_that_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    splits = load("digits", train_size=1000)
    seen: list[int] = []
    pixels = ImageSplit._pixels

    def slow(self: ImageSplit, item: int) -> NDArray[np.uint8]:
        seen.append(item)
        time.sleep(0.01)
        return pixels(self, item)

    monkeypatch.setattr(ImageSplit, "_pixels", slow)
    interrupt.listen()
    with pytest.raises(KeyboardInterrupt), interrupt.held():
        press()
        splits.train[0]
    assert interrupt.leave()
    assert len(seen) < 500


def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    image = 3 * 16 * 16
    monkeypatch.setattr(images_module, "KEPT_BYTES", 100 * image)
    splits = load("digits", train_size=60, val_size=50)
    assert [part.kept for part in parts(splits)] == [True, False, False]
    for size in (60, 30, 40, 50):
        load("digits", train_size=size, val_size=10).train[0]
        assert sum(kept.nbytes for kept in images_module._STORE.values()) <= 100 * image


@pytest.mark.parametrize("augment", ["flip", "crop", "crop_flip"])
def test_augmentation_is_of_train_only_and_follows_torch_s_seed(augment: Any) -> None:
    plain, splits = load("digits", train_size=60), load("digits", train_size=60, augment=augment)

    def seeded() -> Tensor:
        torch.manual_seed(0)
        return torch.cat([images for images, _ in batches(splits.train)])

    original = torch.cat([images for images, _ in batches(plain.train)])
    assert torch.equal(seeded(), seeded())
    assert not torch.equal(seeded(), original)
    assert torch.equal(batches(splits.validation)[0][0], batches(plain.validation)[0][0])
    if augment == "flip":
        flipped = (seeded() == original.flip(-1)).all((1, 2, 3))
        assert 10 < flipped.sum() < 50
        assert (flipped | (seeded() == original).all((1, 2, 3))).all()
        assert torch.equal(batches(load("digits", train_size=60).train)[0][0], original[:20]), (
            "kept as they were"
        )


AUGMENTED: Any = ("flip", "crop", "crop_flip")


def pixels(part: ImageSplit, items: list[int], epoch: int = 0) -> Tensor:
    part.turn_to(epoch)
    return torch.stack([image for image, _ in part.__getitems__(items)])


@pytest.mark.parametrize("augment", AUGMENTED)
def test_fixed_views_come_in_turn(augment: Any) -> None:
    train = load("digits", augment=augment, views=3).train
    shown = [pixels(train, list(range(40)), epoch) for epoch in range(7)]
    assert train.views == 3
    assert all(torch.equal(shown[epoch], shown[epoch % 3]) for epoch in range(7))
    assert not torch.equal(shown[0], shown[1])
    assert not torch.equal(shown[1], shown[2])


@pytest.mark.parametrize("augment", AUGMENTED)
def test_a_fixed_view_follows_from_its_image_and_number_alone(augment: Any) -> None:
    train = load("digits", augment=augment, views=2).train
    state = torch.get_rng_state()
    shown = pixels(train, list(range(20)), 1)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(3)
    assert torch.equal(pixels(train, list(reversed(range(20))), 1).flip(0), shown)
    assert torch.equal(pixels(train, [7], 1)[0], shown[7])
    few = load("digits", augment=augment, views=5, train_size=30).train
    where = [int(np.flatnonzero(train.indices == index)[0]) for index in few.indices[:10]]
    assert torch.equal(pixels(few, list(range(10)), 1), pixels(train, where, 1))


def test_the_seed_of_the_split_draws_other_views() -> None:
    one, other = (load("digits", augment="crop", views=1, split_seed=seed).train for seed in (0, 1))
    index = next(int(i) for i in one.indices if i in other.indices)
    places = [int(np.flatnonzero(part.indices == index)[0]) for part in (one, other)]
    assert not torch.equal(pixels(one, places[:1]), pixels(other, places[1:]))


def test_about_half_of_the_fixed_views_are_mirrored() -> None:
    still, train = (load("digits", augment=how, views=1).train for how in ("none", "flip"))
    items = list(range(200))
    plain, shown = pixels(still, items), pixels(train, items)
    mirrored = [bool(torch.equal(a, b.flip(-1))) for a, b in zip(plain, shown, strict=True)]
    assert 70 < sum(mirrored) < 130
    assert all(torch.equal(a, b.flip(-1) if m else b) for a, b, m in zip(plain, shown, mirrored, strict=True))


def test_what_is_not_augmented_has_one_view() -> None:
    splits = load("digits", augment="crop", views=4)
    assert (splits.train.views, splits.validation.views, splits.test.views) == (4, 1, 1)
    assert load("digits", views=4).train.views == 1
    assert load("digits", augment="crop").train.views is None


def test_a_few_are_transformed_without_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    transformed: list[int] = []
    transform = ImageSplit._pixels
    monkeypatch.setattr(
        ImageSplit, "_pixels", lambda self, item: transformed.append(item) or transform(self, item)
    )
    train = load("digits").train
    some = [image for image, _ in train.few([3, 5])]
    assert transformed == [3, 5]
    assert all(torch.equal(a, b) for a, b in zip(some, pixels(train, [3, 5]), strict=True))
    transformed.clear()
    train.few([3, 6])
    assert transformed == []  # now that all are there


def test_images_that_are_the_same_have_the_same_identity(tmp_path: Path) -> None:
    options: dict[str, Any] = {"augment": "crop_flip", "views": 2, "train_size": 20}
    train = load("digits", **options).train
    assert load("digits", **options).train.identity() == train.identity()
    train.turn_to(1)
    others = [
        train.identity(),
        *(
            load("digits", **{**options, **change}).train.identity()
            for change in (
                {},
                {"augment": "crop"},
                {"augment": "none"},
                {"crop_scale": (0.5, 1.0)},
                {"image_size": 17},
                {"train_size": 21},
                {"split_seed": 1},
                {"mean": STD},
                {"std": MEAN},
                {"interpolation": "bilinear"},
            )
        ),
    ]
    assert len(set(others)) == len(others)


def test_a_file_that_was_written_anew_has_another_identity(tmp_path: Path) -> None:
    make_folder(tmp_path, {"a": 5, "b": 5})
    before = load(str(tmp_path)).train.identity()
    assert load(str(tmp_path)).train.identity() == before
    index = int(load(str(tmp_path)).train.indices[0])
    path = sorted(tmp_path.rglob("*.png"))[index]
    Image.new("RGB", (20, 20), (1, 2, 3)).save(path)
    assert load(str(tmp_path)).train.identity() != before


# --- batches --------------------------------------------------------------------------------------------


def batches(part: ImageSplit, **options: Any) -> list[tuple[Tensor, Tensor]]:
    return list(loader(part, 20, **{"shuffle": False, "seed": 0, "drop_last": False, **options}))


def test_the_order_of_batches_follows_from_the_seed() -> None:
    train = load("digits").train

    def two_epochs(seed: int) -> list[list[int]]:
        drawn = loader(train, 64, shuffle=True, seed=seed, drop_last=True)
        return [torch.cat([labels for _, labels in drawn]).tolist() for _ in range(2)]

    first = two_epochs(0)
    assert first == two_epochs(0)
    assert first[0] != first[1] and first != two_epochs(1)
    assert len(first[0]) == 1078 // 64 * 64


def test_batches_have_images_and_labels() -> None:
    images, labels = batches(load("digits").validation)[0]
    assert images.shape == (20, 3, 16, 16) and images.dtype == torch.float32
    assert labels.shape == (20,) and labels.dtype == torch.int64


def test_a_batch_that_would_be_dropped_and_is_the_only_one() -> None:
    with pytest.raises(UserError, match="--batch-size: 20 is more than the 15 images; choose at most 15"):
        batches(load("digits", train_size=15).train, drop_last=True)


def test_workers_load_what_is_not_kept() -> None:
    splits = load("digits", train_size=40, augment="crop")
    first, again = (batches(splits.train, workers=1)[0][0] for _ in range(2))
    assert torch.equal(first, again)
    assert loader(splits.validation, 8, shuffle=False, seed=0, drop_last=False, workers=2).num_workers == 0


# --- Fashion-MNIST --------------------------------------------------------------------------------------


def write_idx(folder: Path, *, train: int = 60, test: int = 20, packed: bool = True) -> None:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for prefix, count in (("train", train), ("t10k", test)):
        arrays = {
            "images-idx3": rng.integers(0, 256, (count, 28, 28), dtype=np.uint8),
            "labels-idx1": np.arange(count, dtype=np.uint8) % 10,
        }
        for content, array in arrays.items():
            shape = np.asarray(array.shape, dtype=">i4").tobytes()
            raw = bytes((0, 0, 8, array.ndim)) + shape + array.tobytes()
            name = f"{prefix}-{content}-ubyte"
            (folder / (f"{name}.gz" if packed else name)).write_bytes(gzip.compress(raw) if packed else raw)


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


# --- torchvision's data sets, tiny, as it keeps them on disk -----------------------------------------------


def jpeg(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def write_cifar(root: Path, monkeypatch: pytest.MonkeyPatch, name: str, classes: int) -> None:
    kind = getattr(torchvision.datasets, DATASETS[name].torchvision)
    key = "labels" if name == "cifar10" else "fine_labels"
    folder = root / kind.base_folder
    folder.mkdir(parents=True)
    count = 4 * classes
    for file, _ in (*kind.train_list, *kind.test_list):
        pixels = np.random.default_rng(0).integers(0, 256, (count, 3072), dtype=np.uint8)
        batch = {"data": pixels, key: [index % classes for index in range(count)]}
        (folder / file).write_bytes(pickle.dumps(batch))
    names = {kind.meta["key"]: [f"class {index}" for index in range(classes)]}
    (folder / kind.meta["filename"]).write_bytes(pickle.dumps(names))
    # These are not the real files, so their checksums are not compared.
    for files in ("train_list", "test_list"):
        monkeypatch.setattr(kind, files, [(file, None) for file, _ in getattr(kind, files)])
    monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": None})


def write_flowers(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from scipy.io import savemat  # type: ignore[import-untyped]

    folder, count = root / "flowers-102", 3 * 102
    for image in range(1, count + 1):
        jpeg(folder / "jpg" / f"image_{image:05d}.jpg", image)
    savemat(folder / "imagelabels.mat", {"labels": np.arange(count) % 102 + 1})
    thirds = np.split(np.arange(1, count + 1), 3)
    savemat(folder / "setid.mat", dict(zip(("trnid", "valid", "tstid"), thirds, strict=True)))
    files = {part: (file, None) for part, (file, _) in torchvision.datasets.Flowers102._file_dict.items()}
    monkeypatch.setattr(torchvision.datasets.Flowers102, "_file_dict", files)


def write_pets(root: Path) -> None:
    folder = root / "oxford-iiit-pet"
    (folder / "annotations").mkdir(parents=True)
    for part, count in (("trainval", 3), ("test", 1)):
        lines = []
        for breed in range(37):
            for number in range(count):
                name = f"breed{breed:02d}_{part}{number}"
                jpeg(folder / "images" / f"{name}.jpg", breed)
                lines.append(f"{name} {breed + 1} 1 1")
        (folder / "annotations" / f"{part}.txt").write_text("\n".join(lines))


def write_food(root: Path) -> None:
    folder = root / "food-101"
    (folder / "meta").mkdir(parents=True)
    for part, count in (("train", 3), ("test", 1)):
        files = {f"dish{d:03d}": [f"dish{d:03d}/{part}{n}" for n in range(count)] for d in range(101)}
        (folder / "meta" / f"{part}.json").write_text(json.dumps(files))
        for file in chain.from_iterable(files.values()):
            jpeg(folder / "images" / f"{file}.jpg", len(file))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cifar10", (180, 20, 40)),
        ("cifar100", (300, 100, 400)),
        ("flowers102", (102, 102, 102)),
        ("pets", (74, 37, 37)),
        ("food101", (202, 101, 101)),
    ],
)
def test_torchvision_s_data_sets(
    name: str, expected: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = DATASETS[name]
    assert availability(info, tmp_path) == "download"
    if name.startswith("cifar"):
        write_cifar(tmp_path, monkeypatch, name, info.classes)
    elif name == "flowers102":
        write_flowers(tmp_path, monkeypatch)
    else:
        (write_pets if name == "pets" else write_food)(tmp_path)

    check_data(name, tmp_path)
    assert availability(info, tmp_path) == "on disk"
    splits = load(name, tmp_path)
    assert sizes(splits) == expected
    assert splits.num_classes == info.classes
    assert_disjoint(splits)
    for part in parts(splits):
        assert len(np.unique(part.labels)) == info.classes
    images, labels = batches(splits.test)[0]
    assert images.shape == (20, 3, 16, 16)
    assert labels.tolist() == splits.test.labels[:20].tolist()
    if name == "flowers102":
        assert splits.description.endswith("split as given")


def test_a_data_set_that_is_not_whole(tmp_path: Path) -> None:
    write_food(tmp_path)
    for path in (tmp_path / "food-101" / "images").glob("*/test0.jpg"):
        path.unlink()
    with pytest.raises(UserError, match=r"--data: cannot read .*test0.jpg \(.*No such file"):
        load("food101", tmp_path).test[0]
    sources.load_named.cache_clear()
    (tmp_path / "food-101" / "meta" / "train.json").write_text("{")
    with pytest.raises(UserError, match=r"--data: food101 in .*food-101 is incomplete or corrupt .*delete"):
        load("food101", tmp_path)


def test_an_archive_is_unpacked_without_the_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_food(tmp_path)
    archive = shutil.make_archive(str(tmp_path / "food-101"), "gztar", tmp_path, "food-101")
    shutil.rmtree(tmp_path / "food-101")
    monkeypatch.setattr(torchvision.datasets.Food101, "_MD5", None)
    assert Path(archive).name == DATASETS["food101"].archives[0]
    check_data("food101", tmp_path)
    assert sizes(load("food101", tmp_path)) == (202, 101, 101)


# --- what has to be downloaded ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name, info in DATASETS.items() if info.torchvision])
def test_a_host_that_cannot_be_reached(name: str, tmp_path: Path) -> None:
    for ask in (lambda: check_data(name, tmp_path), lambda: load(name, tmp_path)):
        with pytest.raises(
            UserError, match=f"--data: {name} is not in .* its host .* cannot be reached"
        ) as caught:
            ask()
        assert "choose digits" in str(caught.value) and "\n" not in str(caught.value)
        assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("error", [RuntimeError("File not found\nor corrupted."), TimeoutError(), EOFError()])
def test_a_download_that_fails(error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(places, "answers", lambda url: True)
    for name in ("cifar10", "fashion_mnist"):
        monkeypatch.setattr(torchvision.datasets, DATASETS[name].torchvision, fail)
        with pytest.raises(
            UserError, match=f"--data: {name} could not be downloaded to .* choose digits"
        ) as caught:
            load(name, tmp_path)
        assert "\n" not in str(caught.value)


def test_the_probe_gives_up_in_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(reach, "urlopen", lambda *_, **__: time.sleep(5) or nullcontext())
    started = time.monotonic()
    assert not places.answers("http://example.invalid/file", seconds=0.2)
    assert time.monotonic() - started < 2


def test_the_probe_asks_for_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    file = tmp_path / "file"
    file.touch()
    assert places.answers(file.as_uri())
    assert not places.answers((tmp_path / "other").as_uri())


@pytest.mark.network
@pytest.mark.parametrize("name", [name for name, info in DATASETS.items() if info.torchvision])
def test_hosts_answer(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert places.answers(DATASETS[name].url)


# --- image folders ------------------------------------------------------------------------------------------


def make_folder(root: Path, counts: dict[str, int], width: int = 12, height: int = 12) -> None:
    """Images whose red says the column and whose blue tells them apart."""
    for label, count in counts.items():
        (root / label).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            pixels = np.zeros((height, width, 3), dtype=np.uint8)
            pixels[..., 0], pixels[..., 2] = np.arange(width), number
            Image.fromarray(pixels).save(root / label / f"{number}.png")


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


@pytest.mark.parametrize("validation", [None, "val", "validation"])
@pytest.mark.parametrize("test", [None, "test"])
def test_folders_of_parts(validation: str | None, test: str | None, tmp_path: Path) -> None:
    make_folder(tmp_path / "train", {"a": 20, "b": 20})
    for name in filter(None, (validation, test)):
        make_folder(tmp_path / name, {"a": 2, "b": 1})
    splits = load(str(tmp_path))
    cut = 4 * ((validation is None) + (test is None))
    assert sizes(splits) == (40 - cut, 3 if validation else 4, 3 if test else 4)
    assert_disjoint(splits)
    said = {0: "split as given", 1: "cut from train, stratified, split seed 0", 2: "stratified, split seed 0"}
    assert splits.description.endswith(said[cut // 4])


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    make_folder(tmp_path, {"train": 5, "tram": 5})
    assert load(str(tmp_path)).num_classes == 2


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


def test_files_that_are_named_are_left_out(tmp_path: Path) -> None:
    make_folder(tmp_path, {"train/a": 9, "train/b": 9, "test/a": 3, "test/b": 3})
    skip = ("train/a/3.png", "test/b/0.png", "train/a/77.png")
    splits = load(str(tmp_path), skip=skip)
    assert sum(sizes(splits)) == 24 - 2
    names = {name for part in parts(splits) for name in part.files().values()}
    assert len(names) == 22
    assert not names & set(skip)
    assert splits.left_out == {"damaged": 2}
    with pytest.raises(UserError, match=r"class 'a' .* \(1 of at least 2; left out: 8 damaged\)"):
        load(str(tmp_path), skip=[f"train/a/{number}.png" for number in range(1, 9)])


def test_images_in_memory_have_no_files() -> None:
    assert load("digits").train.files() == {}


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (
            "cifar11",
            r"neither a data set nor a folder \(did you mean 'cifar10'\?\); choose from digits, fashion",
        ),
        ("/no/such/folder", "neither a data set nor a folder.* or the path of an image folder"),
        (__file__, "is a file, not an image folder"),
    ],
)
def test_no_such_data(data: str, says: str, tmp_path: Path) -> None:
    for ask in (lambda: check_data(data, tmp_path), lambda: load(data, tmp_path)):
        with pytest.raises(UserError, match=f"^--data: .*{says}"):
            ask()


# --- the registry -------------------------------------------------------------------------------------------


def test_the_list_has_every_data_set(tmp_path: Path) -> None:
    write_idx(tmp_path / "fashion_mnist")
    rows = {row["name"]: row for row in list_datasets(tmp_path)}
    assert [*rows] == [*DATASETS, "PATH"]
    assert rows["digits"]["availability"] == "embedded"
    assert rows["fashion_mnist"]["availability"] == "on disk"
    assert rows["cifar10"]["availability"] == "download"
    assert rows["pets"]["classes"] == 37 and rows["pets"]["train"] == 3312
    assert len({tuple(row) for row in rows.values()}) == 1, "all rows have the same keys"


def test_the_registry_names_torchvision_s_classes() -> None:
    for name, info in DATASETS.items():
        assert name == info.name
        assert not info.torchvision or hasattr(torchvision.datasets, info.torchvision)


def test_the_default_data_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("BSR_EXPLORER_DATA", str(tmp_path))
    assert default_data_dir() == tmp_path
    monkeypatch.delenv("BSR_EXPLORER_DATA")
    assert default_data_dir() == Path.home() / ".cache" / "bsr-explorer" / "data"


def test_listing_data_sets_does_not_import_torch() -> None:
    code = (
        "import sys; from pathlib import Path; import bsr_explorer.data.places as d; "
        "d.list_datasets(Path('nowhere')); d.check_data('digits', Path('nowhere')); "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
