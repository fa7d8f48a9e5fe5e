"""Data sets of torchvision: as it keeps them on disk, and downloads that fail."""

from __future__ import annotations

import json
import pickle
import shutil
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torchvision
from PIL import Image

from bsr_explorer.data import places, sources
from bsr_explorer.data.catalogue import DATASETS
from bsr_explorer.data.places import availability, check_data
from bsr_explorer.errors import UserError
from tests.data.making import assert_disjoint, batches, load, parts, sizes


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
