"""Frozen blocks whose outputs are made once: the same to the last bit, shared where they may be, in bounds."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from timm.layers import Mlp
from torch import Tensor

from bsr_explorer.config import Config, Fidelity
from bsr_explorer.data.images import ImageSplit
from bsr_explorer.finetune.run import fine_tune
from bsr_explorer.prefix.cache import Cache
from bsr_explorer.prefix.continued import Continued
from bsr_explorer.prefix.frozen import frozen_blocks
from bsr_explorer.prefix.stages import stages_of
from bsr_explorer.store.records import Record
from bsr_explorer.train.recipes import RECIPES
from bsr_explorer.train.step import Step
from tests.prefix.kept import kept, module_in, never

# --- blocks ---------------------------------------------------------------------------------------------

TOY = Config(model="toy", image_size=48, batch_size=4)

PROXY = Fidelity(image_size=32, train_size=22, val_size=21, epochs=3)


# --- training -------------------------------------------------------------------------------------------


def tune(config: Config, cache: Cache | None = None, fidelity: Fidelity = PROXY, **options: Any) -> Record:
    options = {"weights": "random", "every_epoch": True, "seed": 3, **options}
    return fine_tune(config, "digits", fidelity, cache=cache, **options)


def told(record: Record) -> dict[str, Any]:
    """All that a record says but times."""
    values = record.to_dict()
    return {key: values[key] for key in values if key not in ("seconds", "step_seconds", "provenance")}


def blocks(record: Record) -> int:
    return int(record.provenance["cached_blocks"])


@pytest.fixture
def augmented(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Makes the recipe augment."""

    def augment(how: Any) -> None:
        monkeypatch.setitem(RECIPES, "short", replace(RECIPES["short"], augment=how))

    return augment


@pytest.mark.usefixtures("toy")
@pytest.mark.parametrize(
    ("changes", "augment", "views"),
    [
        ({"method": "last(k=2)"}, "crop_flip", 2),
        ({"method": "linear", "precision": "bf16"}, "none", 5),
        ({"method": "bsr(blocks=(2,), keep={0: 0.7, 3: 0.5})"}, "crop", 1),
        pytest.param(
            {"method": "bsr(blocks=(2,), keep={1: 0.5}, fuse=False)", "micro_batches": 2},
            "none",
            None,
            marks=pytest.mark.thorough,
        ),
        pytest.param({"method": "last(k=1)", "precision": "amp_bf16"}, "flip", 4, marks=pytest.mark.thorough),
        ({"method": "last(k=1)", "precision": "amp_fp16"}, "none", None),
        ({"method": "last(k=2)+mesa(faithful=False)", "precision": "amp_bf16"}, "crop_flip", 3),
        pytest.param(
            {"method": "last(k=2)+backrazor(faithful=False)"}, "none", None, marks=pytest.mark.thorough
        ),
        pytest.param({"method": "last(k=1)+checkpoint+offload"}, "flip", 2, marks=pytest.mark.thorough),
        (
            {"method": "last(k=1)", "optimizer": "adamw_8bit", "batch_size": 14},
            "none",
            None,
        ),  # one step an epoch
    ],
    ids=str,
)
def test_a_training_is_the_same_to_the_last_bit(
    cache: Cache, augmented: Any, changes: dict[str, Any], augment: str, views: int | None
) -> None:
    augmented(augment)
    config, fidelity = replace(TOY, **changes), replace(PROXY, train_size=14, val_size=13, views=views)
    whole = tune(config, fidelity=fidelity)
    filling, filled = (tune(config, cache, fidelity) for _ in range(2))
    assert told(filling) == told(filled) == told(whole)
    assert blocks(whole) == 0
    actual = replace(config, image_size=32)
    frozen = frozen_blocks(module_in(actual), stages_of(actual), config.precision)
    assert blocks(filling) == blocks(filled) == frozen


@pytest.mark.thorough
@pytest.mark.usefixtures("toy")
@pytest.mark.parametrize("method", ["full", "last(k=1)+mesa", "last(k=1)+backrazor"])
def test_what_gains_nothing_or_is_not_steady_is_the_same_too(cache: Cache, method: str) -> None:
    config = TOY.with_method(method)
    assert told(tune(config, cache)) == told(tune(config))


@pytest.mark.usefixtures("toy")
def test_what_depends_on_the_place_in_a_batch_goes_the_whole_way(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, forward = TOY.with_method("last(k=1)"), Mlp.forward

    def by_place(self: Mlp, x: Tensor) -> Tensor:
        return forward(self, x) * (1 + 1e-6 * torch.arange(len(x)).view(-1, 1, 1))

    monkeypatch.setattr(Mlp, "forward", by_place)
    passes = watched(monkeypatch)
    assert told(tune(config, cache)) == told(tune(config))
    assert passes[:15] == ["images"] * 6 + ["tokens"] * 5 + ["images"] * 4  # validation has its own order


def watched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What goes through the models that are trained and evaluated, batch by batch (pairs look at a model first)."""
    passes: list[str] = []
    forward = Continued.forward

    def noted(self: Continued, x: Tensor) -> Tensor:
        if len(x) != 2:
            passes.append("images" if x.dim() == 4 else "tokens")
        return forward(self, x)

    monkeypatch.setattr(Continued, "forward", noted)
    return passes


@pytest.mark.usefixtures("toy")
def test_the_first_batch_of_a_pass_goes_the_whole_way(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    passes, images = watched(monkeypatch), []
    few = ImageSplit.few
    monkeypatch.setattr(ImageSplit, "few", lambda self, items: images.append(len(items)) or few(self, items))
    record = tune(TOY.with_method("last(k=1)"), cache)
    batch = ["images"] + ["tokens"] * 5  # OFTEN batches from the last one that did
    assert passes == (
        ["images"] * 2 + ["tokens"] * 3 + batch + ["tokens"] * (5 + 6) + ["images"] + ["tokens"] * 4 + batch
    )
    assert record.measured is not None
    assert record.measured["peak_bytes"] == pytest.approx(record.measured["predicted_peak_bytes"], rel=0.01)
    monkeypatch.setattr(ImageSplit, "__getitems__", lambda self, items: never())
    tune(TOY.with_method("last(k=1)"), cache)
    assert images == ([4] * 5 + [4, 1]) * 2  # and, at the end, what went the short way last


@pytest.mark.thorough
@pytest.mark.usefixtures("toy")
def test_trials_with_the_same_prefix_share_it(cache: Cache) -> None:
    methods = [
        "last(k=1)",
        "bsr(blocks=(3,), keep={3: 0.5})",
        "last(k=1)+mesa(faithful=False)",
        "last(k=1)+checkpoint",
        "last(k=1)+offload+backrazor(faithful=False)",
        "bsr(blocks=(3,), keep={}, head=False, norm=False)",
    ]
    for method in methods:
        assert blocks(tune(replace(TOY.with_method(method), lr=1e-3), cache)) == 3
        assert len(kept(cache)) == 2  # to train on, and to validate on


ONE = replace(PROXY, epochs=1)
DROPS = "bsr(blocks=(3,), keep={1: 0.7})"


@pytest.fixture(scope="module")
def filled(toy: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of a training. Not to be changed."""
    cache = Cache(tmp_path_factory.mktemp("filled") / "cache")
    assert blocks(tune(TOY.with_method(DROPS), cache, ONE)) == 3
    assert len(kept(cache)) == 2
    return cache.folder


@pytest.mark.thorough
@pytest.mark.usefixtures("toy")
@pytest.mark.parametrize(
    "other",
    [
        {"method": "bsr(blocks=(3,), keep={1: 0.5})"},
        {"method": "bsr(blocks=(3,), keep={1: 0.5}, fuse=False)"},
        {"method": "last(k=2)"},
        {"precision": "amp_bf16"},
        {"batch_size": 5},
        {"attention": "math"},
        {"seed": 4},
        {"fidelity": replace(ONE, image_size=48)},
        {"fidelity": replace(ONE, train_size=23, val_size=22)},
    ],
    ids=str,
)
def test_trials_with_another_prefix_do_not(cache: Cache, filled: Path, other: dict[str, Any]) -> None:
    options = {"fidelity": ONE, **{key: other[key] for key in ("seed", "fidelity") if key in other}}
    changes = {key: value for key, value in other.items() if key not in options}
    shutil.copytree(filled, cache.folder)
    before = kept(cache)
    tune(replace(TOY, **{"method": DROPS, **changes}), cache, **options)
    new = len(kept(cache) - before)
    assert new == 2 or (new == 1 and "attention" in other)  # an explicit softmax may not be steady


@pytest.mark.usefixtures("toy")
def test_a_longer_prefix_begins_where_a_shorter_one_ends(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    tune(TOY.with_method("last(k=3)"), cache)
    tune(TOY.with_method("last(k=2)"), cache)
    began: list[int | None] = []
    prefix = Continued.prefix

    def noted(self: Continued, x: Tensor, done: int | None = None) -> Tensor:
        began.append(done)
        return prefix(self, x, done)

    monkeypatch.setattr(Continued, "prefix", noted)
    record = tune(TOY.with_method("linear"), cache)
    assert began == [None, *[2] * 12, None, None]  # after a look at the model, and before one at the end
    assert told(record) == told(tune(TOY.with_method("linear")))


@pytest.mark.usefixtures("toy")
def test_what_is_kept_and_wrong_is_noticed(cache: Cache, caplog: pytest.LogCaptureFixture) -> None:
    config = TOY.with_method("last(k=1)")
    right = tune(config, cache)
    for path in cache.folder.glob("*.npy"):
        rows = np.load(path, mmap_mode="r+")
        rows[:] += 1
        rows.flush()
    wrong = tune(config, cache)
    assert told(wrong) == told(right)
    assert (
        "3 frozen blocks run again in each step: what they make of images is not what they made"
        in caplog.text
    )
    assert blocks(wrong) == 0


@pytest.mark.usefixtures("toy")
def test_what_turned_out_to_be_wrong_is_made_again(cache: Cache) -> None:
    config = TOY.with_method("last(k=1)")
    tune(config, cache)
    (train,) = (path for path in cache.folder.glob("*.npy") if len(np.load(path)) == 22)
    rows = np.load(train)
    np.save(train, rows + 1)
    assert [blocks(tune(config, cache)) for _ in range(2)] == [0, 3]
    assert np.array_equal(np.load(train), rows)


@pytest.mark.usefixtures("toy")
def test_a_cache_that_cannot_be_used_changes_nothing(tmp_path: Path) -> None:
    config = TOY.with_method("last(k=1)")
    whole = told(tune(config))
    (tmp_path / "file").touch()
    for cache in (Cache(tmp_path / "file"), Cache(tmp_path / "small", most_bytes=1000)):
        record = tune(config, cache)
        assert (told(record), blocks(record)) == (whole, 0)


@pytest.mark.thorough
@pytest.mark.usefixtures("toy")
@pytest.mark.parametrize(
    ("batch", "micro_batches"), [(4, 2), (16, 1)], ids=["many", "the second is not full"]
)
def test_last_images_that_are_no_full_batch_go_the_whole_way(
    cache: Cache, monkeypatch: pytest.MonkeyPatch, batch: int, micro_batches: int
) -> None:
    monkeypatch.setitem(RECIPES, "short", replace(RECIPES["short"], partial_batch=True))
    config = replace(TOY, method="last(k=1)", batch_size=batch, micro_batches=micro_batches)
    whole = tune(config)
    assert whole.images_trained == 3 * 22
    trained_on: set[tuple[str, int]] = set()
    step = Step.__call__

    def noted(self: Step, images: Tensor, labels: Tensor) -> float:
        trained_on.add(("images" if images.dim() == 4 else "tokens", len(images)))
        return step(self, images, labels)

    monkeypatch.setattr(Step, "__call__", noted)
    filling, filled = (tune(config, cache) for _ in range(2))
    assert told(filling) == told(filled) == told(whole)
    assert blocks(filling) == blocks(filled) == 3
    assert trained_on == {("images", batch), ("images", 22 % batch), ("tokens", batch)}


@pytest.mark.usefixtures("toy")
def test_new_views_every_epoch_leave_only_validation_to_be_kept(
    cache: Cache, augmented: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    augmented("crop_flip")
    config = TOY.with_method("last(k=1)")
    whole = told(tune(config))
    passes = watched(monkeypatch)
    assert told(tune(config, cache)) == whole
    validation = ["images"] + ["tokens"] * 5
    assert passes == (
        ["images"] * 5 + validation + ["images"] * 5 + ["tokens"] * 6 + ["images"] * 5 + validation
    )
    assert len(kept(cache)) == 1


@pytest.mark.usefixtures("toy")
def test_views_are_made_when_their_epoch_comes(cache: Cache, augmented: Any) -> None:
    augmented("crop_flip")
    config = TOY.with_method("last(k=1)")
    many, two = (replace(PROXY, views=views) for views in (9, 2))
    stopped = tune(config, cache, many, rungs={2: float("inf")})
    assert stopped.status == "stopped"
    assert len(kept(cache)) == 3  # of 2 epochs, and of validation
    tune(config, cache, many)
    assert len(kept(cache)) == 4
    tune(config, cache, two)  # its two are the first two of nine
    assert len(kept(cache)) == 4


@pytest.mark.thorough
@pytest.mark.usefixtures("toy")
@pytest.mark.parametrize("first", [True, False])
def test_an_interrupted_training_may_go_on_either_way(
    cache: Cache, tmp_path: Path, augmented: Any, first: bool
) -> None:
    augmented("flip")
    config, fidelity = TOY.with_method("last(k=2)+mesa(faithful=False)"), replace(PROXY, views=2)
    whole = told(tune(config, fidelity=fidelity))

    def stop(done: int, total: int, loss: float) -> None:
        if done == 7:
            raise KeyboardInterrupt

    path = tmp_path / "0001.ckpt"
    with pytest.raises(KeyboardInterrupt):
        tune(config, cache if first else None, fidelity, checkpoint=path, progress=stop)
    assert path.exists()
    assert told(tune(config, None if first else cache, fidelity, checkpoint=path)) == whole


@pytest.mark.usefixtures("toy")
def test_nothing_is_said_where_all_is_well(cache: Cache, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        tune(TOY.with_method("last(k=1)"), cache)
        tune(TOY.with_method("full"), cache)
    assert not [record for record in caplog.records if record.name.startswith("bsr_explorer")]
