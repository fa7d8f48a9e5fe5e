"""Images of a part: their pixels, their views, and what is kept of them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision import transforms

from bsr_explorer import interrupt
from bsr_explorer.data import images as images_module
from bsr_explorer.data.images import ImageSplit
from tests.data.making import MEAN, STD, batches, load, make_folder, parts, pixels
from tests.pressing import press


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


def test_crops_are_drawn_in_order_whichever_thread_makes_them() -> None:
    """As torchvision's own transform draws them, one image after another."""
    train = load("digits", augment="crop", train_size=40).train
    items = list(range(40))
    torch.manual_seed(3)
    ours = train.pixels(items)
    torch.manual_seed(3)
    theirs = [np.asarray(train._resize(train._images[int(train.indices[item])])) for item in items]
    assert torch.equal(ours, torch.from_numpy(np.stack(theirs)).permute(0, 3, 1, 2))


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
