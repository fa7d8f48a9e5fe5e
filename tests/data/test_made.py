"""Data sets that are made of others: what is done with their images, and that nothing goes from part to part."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from bsr_explorer.data.images import Part
from bsr_explorer.data.made import Changed, made
from bsr_explorer.data.pool import Arrays, Pool
from tests.data.making import load, parts


def part(count: int = 40, side: int = 4) -> Part:
    """Different grey images, of which each third stands in another part."""
    pixels = np.random.default_rng(0).integers(0, 256, (count, side, side), dtype=np.uint8)
    pool = Pool(("some",), Arrays(pixels), np.arange(count) % 10)
    return Part(pool, np.arange(0, count, 3))


def grey(image: Image.Image) -> np.ndarray:
    return np.asarray(image)[..., 0]


def test_an_image_is_turned_by_as_many_quarters_as_its_label_says() -> None:
    before = part()
    after = made("turned", before, seed=0)
    assert set(after.labels.tolist()) == {0, 1, 2, 3}
    for index in after.indices.tolist():
        expected = np.rot90(grey(before.pool.images[index]), int(after.pool.labels[index]))
        assert (grey(after.pool.images[index]) == expected).all()


@pytest.mark.parametrize("side", [4, 5])
def test_two_quarters_are_swapped(side: int) -> None:
    before = part(200, side)
    after = made("swapped", before, seed=0)
    half, far = side // 2, side - side // 2
    corner = {1: (0, 0), 2: (0, far), 3: (far, 0), 4: (far, far)}
    pairs = [None, (1, 2), (1, 3), (1, 4), (2, 3), (2, 4), (3, 4)]
    assert set(after.labels.tolist()) == set(range(7))
    for index in after.indices.tolist():
        old, new = (grey(each.pool.images[index]) for each in (before, after))
        pair = pairs[int(after.pool.labels[index])]
        expected = old.copy()
        if pair is not None:
            (y, x), (v, u) = (corner[quarter] for quarter in pair)
            expected[y : y + half, x : x + half] = old[v : v + half, u : u + half]
            expected[v : v + half, u : u + half] = old[y : y + half, x : x + half]
        assert (new == expected).all()


def test_two_digits_stand_side_by_side_and_their_sum_is_the_label() -> None:
    before = part()
    after = made("sums", before, seed=0)
    images = after.pool.images
    assert isinstance(images, Changed)
    assert len(after) == len(before)
    for index, (left, right) in enumerate(images.sources.tolist()):
        assert after.labels[index] == before.pool.labels[left] + before.pool.labels[right]
        assert {left, right} <= set(before.indices.tolist())
        shown = grey(images[index])
        assert shown.shape == (8, 8)
        assert (shown[2:6, :4] == grey(before.pool.images[left])).all()
        assert (shown[2:6, 4:] == grey(before.pool.images[right])).all()
        assert not shown[:2].any() and not shown[6:].any()


def test_no_image_of_one_part_is_in_another() -> None:
    seen = []
    for each in parts(load("sums(digits)")):
        images = each._images
        assert isinstance(images, Changed)
        seen.append(set(images.sources[each.indices].ravel().tolist()))
    assert not (seen[0] & seen[1] or seen[0] & seen[2] or seen[1] & seen[2])


def test_the_same_seed_makes_the_same() -> None:
    one, again = made("turned", part(), 3), made("turned", part(), 3)
    other = made("turned", part(), 4)
    fingerprints = [each.pool.images.fingerprint(each.indices) for each in (one, again, other)]
    assert fingerprints[0] == fingerprints[1] != fingerprints[2]
    assert one.pool.key == again.pool.key != other.pool.key


def test_a_smaller_size_is_a_part_of_a_larger_one() -> None:
    small, large = (load("turned(digits)", train_size=size).train for size in (20, 100))
    assert set(small.indices.tolist()) < set(large.indices.tolist())
    assert small.pool_key == large.pool_key
